"""The control plane, put together: what it is made of, and the order in which it starts and stops."""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from proxyless.control_plane.ads.debounce import Debounce
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.api.app import application
from proxyless.control_plane.api.backend import Backend
from proxyless.control_plane.api.metrics import Metrics
from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.ca.server_certificate import ServerCertificate
from proxyless.control_plane.ca.service import CertificateService
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.control_plane.configuration import Configuration
from proxyless.control_plane.delivery.delivery import Delivery
from proxyless.control_plane.grpc_server import start_grpc_server
from proxyless.control_plane.http_server import HttpServer
from proxyless.control_plane.key_sets.keeper import KeySets
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.control_plane.registry.registry import Registry
from proxyless.control_plane.registry.service import RegistrationService
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.sockets import is_loopback, listen
from proxyless.control_plane.state import StateDirectory
from proxyless.control_plane.store.open import open_store
from proxyless.control_plane.tls_front import TlsFront
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings
from proxyless.control_plane.world_keeper import WorldKeeper
from proxyless.control_plane.xds_services import XdsServices
from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError, ProxylessError
from proxyless.model.spiffe import SpiffeId

logger = logging.getLogger("proxyless.control_plane")

Address = tuple[str, int]
# Seconds that the start waits for keys of token issuers.
_FIRST_KEYS = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """Addresses are host and port; port 0 lets the system choose. store_url: empty for SQLite in the state directory.

    dev: processes of the same user enrol with the token in the state directory. root_cert, root_key: a given CA, PEM.
    """

    state_dir: Path
    config_paths: tuple[Path, ...] = ()
    store_url: str = ""
    xds_address: Address = ("127.0.0.1", 15010)
    xds_tls_address: Address = ("127.0.0.1", 15012)
    http_address: Address = ("127.0.0.1", 15014)
    dev: bool = False
    trust_domain: str = "cluster.local"
    root_cert: Path | None = None
    root_key: Path | None = None

    def check(self) -> None:
        """Raises ConfigurationError for addresses that would expose what must not be."""
        if not is_loopback(self.xds_address[0]):
            raise ConfigurationError(
                f"--xds-address {join_address(*self.xds_address)}: plaintext xDS knows nobody's identity, so it "
                "listens on loopback only; other machines use --xds-tls-address"
            )
        for option, (host, port) in (("xds-tls", self.xds_tls_address), ("http", self.http_address)):
            if self.dev and not is_loopback(host):
                raise ConfigurationError(
                    f"--dev lets processes enrol without a token of their own, so it needs loopback addresses only, "
                    f"not --{option}-address {join_address(host, port)}"
                )


class ControlPlane:
    """One control plane in the running event loop: ``await start()``, then ``await stop()``.

    addresses: once started, ``http``, ``xds`` and ``xds_tls`` as ``host:port``. failed: completes if a part of it dies.
    """

    def __init__(self, options: Options) -> None:
        options.check()
        self.options = options
        self.addresses: dict[str, str] = {}
        self.failed: asyncio.Future[None]
        self._state = StateDirectory(options.state_dir)
        self._ready = False
        self._reported: frozenset[Problem] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []
        self._grpc_servers: list[grpc.aio.Server] = []

    async def start(self) -> None:
        """Come up completely or not at all; raises ConfigurationError or another ProxylessError that says why."""
        self.failed = asyncio.get_running_loop().create_future()
        self._state.acquire()
        try:
            self._open_stores()
            self._load()
            # So that a restart does not refuse the tokens that were good before it.
            await self._key_sets.tried(_FIRST_KEYS)
            await self._serve_xds()
            self._serve_http()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        self._xds.health.set(serving=True)
        self._state.announce(self.addresses)

    async def stop(self) -> None:
        """End everything. Workloads stay in the store: they are still running. Safe to call twice."""
        self._ready = False
        if hasattr(self, "_xds"):
            self._xds.health.set(serving=False)
        if hasattr(self, "_refresh"):
            self._registry.freeze()
            self._ads.stop()
            self._refresh.cancel()
            self._key_sets.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "_front"):
            await self._front.close()
        await asyncio.gather(*(server.stop(grace=None) for server in self._grpc_servers))
        if hasattr(self, "_store"):
            self._store.close()
        self._state.release()

    def _open_stores(self) -> None:
        options, path = self.options, self._state.path
        self._store = open_store(options.store_url or f"sqlite:{path / 'store.sqlite'}")
        self._authority = CertificateAuthority(
            path, options.trust_domain, root_cert_path=options.root_cert, root_key_path=options.root_key
        )
        self._tokens = TokenIssuer(path, self._authority.bundle)
        if options.dev:
            self._tokens.write_dev_token()
        else:
            self._tokens.remove_dev_token()

    def _load(self) -> None:
        """Read configuration and registry; the first world is published when both are there, and not before."""
        self._ads = AdsServer(Translator, read_node)
        self._registry = Registry(self._store, self._registered)
        self._registry.restore(self._store.load().workloads)
        settings = MeshSettings(trust_domain=self.options.trust_domain)
        self._worlds = WorldKeeper(
            settings, lambda: self._registry.workloads, lambda: self._key_sets.current, self._announce
        )
        self._key_sets = KeySets(self._worlds.fetched)
        self._configuration = Configuration(
            self.options.config_paths,
            self._store,
            self._configured,
            hosts=self._worlds.implied_hosts,
            cluster_domain=settings.cluster_domain,
        )
        # Whether a host exists may depend on who is running.
        self._refresh = Debounce(self._configuration.refresh)
        self._configuration.load()

    async def _serve_xds(self) -> None:
        """TLS for the mesh; plaintext, on a server of its own, for whoever is on this machine."""
        options = self.options
        self._metrics = Metrics()
        peers = PeerIdentities()
        self._xds = XdsServices(self._ads, self._state.admin_token())
        handlers = (
            *self._xds.handlers(peers),
            CertificateService(
                self._authority, self._tokens, peers, dev=options.dev, on_signed=self._metrics.certificate_signed
            ).handler(),
            RegistrationService(self._registry, peers).handler(),
        )
        inner, inner_port = await start_grpc_server(handlers, "127.0.0.1", 0, "port")
        self._grpc_servers.append(inner)
        certificate = ServerCertificate(self._authority, [_certified(options.xds_tls_address[0])])
        self._front = TlsFront(certificate.source, peers, inner_port)
        self.addresses["xds_tls"] = join_address(*await self._front.start(*options.xds_tls_address))
        server, port = await start_grpc_server(self._xds.handlers(None), *options.xds_address, "--xds-address")
        self._grpc_servers.append(server)
        self.addresses["xds"] = join_address(options.xds_address[0], port)
        self._run(certificate.run())
        self._run(self._registry.watch())
        self._run(self._configuration.watch())

    def _serve_http(self) -> None:
        listener = listen(*self.options.http_address, "--http-address")
        if not is_loopback(self.options.http_address[0]):
            logger.warning(
                "--http-address %s is reached from other machines, and speaks plaintext: whoever can read its traffic "
                "gets the admin token; for more than /healthz, /readyz and /metrics put a TLS proxy in front",
                join_address(*self.options.http_address),
            )
        self.addresses["http"] = join_address(*listener.getsockname()[:2])
        backend = Backend(
            configuration=self._configuration,
            registry=self._registry,
            worlds=self._worlds,
            ads=self._ads,
            delivery=Delivery(self._ads),
            tokens=self._tokens,
            metrics=self._metrics,
            admin_token=self._state.admin_token(),
            ready=lambda: self._ready,
        )
        self._metrics.observe(backend.ads, backend.configuration, backend.registry)
        self._metrics.observe_load(self._xds.loads)
        self._run(HttpServer(application(backend), listener).run())

    def _configured(self, resources: Any, problems: list[Problem]) -> None:
        self._key_sets.want(one for one in resources.values() if one.kind == "RequestAuthentication")
        self._worlds.configured(resources)
        self._report(problems)

    def _registered(self) -> None:
        self._worlds.registered()
        self._refresh()

    def _announce(self) -> None:
        self._ads.announce(lambda: self._worlds.current)

    def _report(self, problems: list[Problem]) -> None:
        """Say what is new that is wrong; what people applied over the API was answered there."""
        known, self._reported = self._reported, frozenset(problems)
        for problem in problems:
            if problem not in known and problem.level is not Level.INFO:
                logger.log(logging.ERROR if problem.level is Level.ERROR else logging.WARNING, "%s", problem)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)


def read_node(node: Any, identity: SpiffeId | None) -> Client:
    """Who a client says it is; what it does not say, its certificate does."""
    client = Client.from_node(node)
    if identity is None:
        return client
    if "NAMESPACE" not in node.metadata.fields:
        client = replace(client, namespace=identity.namespace)
    return client if client.service_account else replace(client, service_account=identity.service_account)


def _certified(host: str) -> str:
    """The host for the server's certificate; a wildcard address is no name anybody connects to."""
    return "" if host in ("0.0.0.0", "::") else host  # noqa: S104


def serve(control_plane: ControlPlane) -> int:
    """Run it until SIGTERM or SIGINT; the exit status."""
    return asyncio.run(_serve(control_plane))


async def _serve(control_plane: ControlPlane) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await control_plane.start()
    try:
        at = control_plane.addresses
        sys.stderr.write(
            f"control plane ready: xDS {at['xds']} (plaintext), {at['xds_tls']} (TLS), HTTP http://{at['http']}, "
            f"state in {control_plane.options.state_dir}\n"
        )
        control_plane.failed.add_done_callback(lambda _: ended.set())
        await ended.wait()
        if control_plane.failed.done() and (error := control_plane.failed.exception()):
            logger.error("a part of the control plane failed", exc_info=error)
            raise ProxylessError(f"the control plane ended: {error}")
    finally:
        await control_plane.stop()
    return 0

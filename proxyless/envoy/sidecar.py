"""The life of a sidecar: a certificate, then Envoy, then the registry; and the same backwards at the end."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxyless.agent.address import own_address
from proxyless.agent.registration import Registration
from proxyless.envoy import process
from proxyless.envoy.admin import Admin
from proxyless.envoy.binary import find_envoy
from proxyless.envoy.bootstrap import Node, Ports, bootstrap
from proxyless.envoy.folder import PrivateFolder
from proxyless.envoy.free_ports import choose_ports
from proxyless.envoy.sds import SecretServer
from proxyless.envoy.tracing import Tracing
from proxyless.identity.control_plane import open_channel
from proxyless.identity.enrol import DEFAULT_TTL, Enrolment
from proxyless.identity.rotation import CertificateRotation
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid
from proxyless.identity.token import dev_token_file, read_file
from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError, ProxylessError
from proxyless.model.workload import Workload
from proxyless.settings import Settings

if TYPE_CHECKING:
    from grpclib.client import Channel

logger = logging.getLogger("proxyless.envoy")

_LOOPBACK = "127.0.0.1"
# Seconds from the signal to the end, all in all, as `proxyless serve` has them; of these what the control plane may
# take to confirm, how long callers have to hear of it, and what ending Envoy may need.
SHUTDOWN_BUDGET = 10.0
_ANNOUNCE_TIMEOUT, _DRAIN_DELAY, _MARGIN = 1.0, 1.0, 3.5
# Seconds between looks at what has no event to wait for, and of waiting before people are told what for.
_LOOK, _PATIENCE = 0.05, 2.0
_CONNECT_TIMEOUT = 1.0

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Options:
    """settings: they name a service. host: IP address that callers connect to, None for the one the control plane sees.

    Ports: 0 for any free one.
    inbound_name: of the port in the registry; Services refer to it, and its start says the protocol (``grpc``).
    admin_port: on loopback; 0 for a socket that only this user can open. ttl: seconds a certificate is asked for.
    delta: whether Envoy speaks incremental xDS, else state of the world. tracing: where its spans go, None for none.
    """

    settings: Settings
    app_port: int
    outbound_port: int = 15001
    inbound_port: int = 0
    inbound_name: str = ""
    host: str | None = None
    admin_port: int = 0
    concurrency: int = 2
    log_level: str = "warning"
    ttl: float = DEFAULT_TTL
    delta: bool = True
    tracing: Tracing | None = None


class Sidecar:
    """One Envoy and what it needs of us. ``run`` it in its own event loop; tell: where words for people go."""

    def __init__(self, options: Options, tell: Tell) -> None:
        """Raises ConfigurationError for what can be known to be wrong before anything is started."""
        settings = options.settings
        if settings.plaintext:
            raise ConfigurationError("a sidecar needs the control plane's TLS address: give it with --control-plane")
        self._options = options
        self._settings = settings
        self._tell = tell
        self._envoy = find_envoy()
        seen_as = own_address(settings.control_plane)
        host = options.host or seen_as
        wanted = [(_LOOPBACK, options.outbound_port, "--outbound-port"), (host, options.inbound_port, "--inbound-port")]
        if options.admin_port:
            wanted.append((_LOOPBACK, options.admin_port, "--admin-port"))
        outbound, inbound, *_ = choose_ports(wanted)
        self.ports = Ports(outbound, host, inbound, options.app_port, options.inbound_name)
        self._address = seen_as if ipaddress.ip_address(host).is_unspecified else host
        self._id = f"{settings.service}-{uuid.uuid4().hex[:10]}"
        self._identity = IdentitySource()
        self._registration = Registration(self._open_channel)
        self._rotation = CertificateRotation(
            self._identity,
            Enrolment(
                settings.control_plane,
                self._identity,
                self._token,
                namespace=settings.namespace,
                service_account=settings.service_account,
                ttl=options.ttl,
            ),
            on_rotated=self._on_rotated,
        )
        self._secrets: SecretServer | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()
        self._insisted = asyncio.Event()
        self._joined = False

    def stop(self) -> None:
        """Drain and end; a second call ends at once. For the event loop, as a signal handler."""
        if self._stop.is_set():
            self._insisted.set()
        self._stop.set()

    async def run(self) -> None:
        """Until ``stop``. Raises ProxylessError if Envoy ends by itself; nothing is left behind either way."""
        async with contextlib.AsyncExitStack() as stack:
            folder = stack.enter_context(PrivateFolder())
            self._secrets = await stack.enter_async_context(SecretServer(self._identity, folder.secrets_socket))
            admin = await stack.enter_async_context(Admin(folder.admin_socket, self._options.admin_port))
            work: list[Coroutine[Any, Any, Any]] = [
                self._live(folder, admin),
                self._rotation.run(),
                self._registration.run(),
                self._stop.wait(),
            ]
            tasks = [asyncio.create_task(one) for one in work]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks[0].cancel()
                for task in done:
                    task.result()
                if self._joined:
                    await self._drain(admin)
            finally:
                if self._process is not None:
                    await process.stop(self._process)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # ---- up

    async def _live(self, folder: PrivateFolder, admin: Admin) -> None:
        await self._wait(self._certificate_problem)
        self._write_bootstrap(folder, admin)
        options = self._options
        self._process = await process.start(
            process.arguments(
                self._envoy, folder.bootstrap, concurrency=options.concurrency, log_level=options.log_level
            )
        )
        await self._wait(lambda: admin.problem(self.ports.inbound))
        # As a pod is not ready before its containers are: nobody is sent to a port that refuses him.
        await self._wait(self._application_problem)
        self._registration.add(self._workload())
        await self._wait(self._registration_problem)
        self._joined = True
        self._report(admin)
        await self._process.wait()
        self._raise_if_ended()

    async def _wait(self, problem: Callable[[], Awaitable[str]]) -> None:
        """Until there is none. What takes long is told, once for each reason."""
        began, told = time.monotonic(), ""
        while True:
            self._raise_if_ended()
            if not (found := await problem()):
                return
            if found != told and time.monotonic() - began >= _PATIENCE:
                told = found
                self._tell(f"waiting: {found}")
            await asyncio.sleep(_LOOK)

    async def _certificate_problem(self) -> str:
        if self._identity.svid is not None:
            return ""
        return self._rotation.last_error or f"the control plane at {self._settings.control_plane} does not answer"

    async def _application_problem(self) -> str:
        port = self.ports.app
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                _, writer = await asyncio.open_connection(_LOOPBACK, port)
        except (OSError, TimeoutError):
            return f"no application listens on {_LOOPBACK}:{port} yet (--app-port)"
        writer.transport.abort()
        return ""

    async def _registration_problem(self) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._registration.settled()
        except TimeoutError:
            return self._registration.last_error or "the control plane has not confirmed the registration"
        return ""

    def _raise_if_ended(self) -> None:
        if self._process is not None and (status := self._process.returncode) is not None:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise ProxylessError(f"Envoy ended {how}; its own log above says why")

    def _write_bootstrap(self, folder: PrivateFolder, admin: Admin) -> None:
        bundle = self._identity.bundle
        assert bundle is not None
        settings, tracing = self._settings, self._options.tracing
        node = Node(
            id=settings.node_id
            or f"sidecar~{self._address}~{self._id}.{settings.namespace}~{settings.namespace}.svc.cluster.local",
            service=settings.service,
            namespace=settings.namespace,
            service_account=settings.service_account,
            labels=settings.labels,
            cluster=settings.node_cluster,
            locality=settings.locality,
            metadata={**settings.node_metadata, **(tracing.metadata if tracing is not None else {})},
        )
        made = bootstrap(
            node,
            self.ports,
            control_plane=settings.control_plane,
            trust_domain=bundle.trust_domain,
            secrets=folder.secrets_socket,
            admin=admin.address,
            delta=self._options.delta,
            tracing=tracing,
        )
        folder.bootstrap.write_text(json.dumps(made), "utf-8")

    def _workload(self) -> Workload:
        settings = self._settings
        return Workload(
            id=self._id,
            namespace=settings.namespace,
            service=settings.service,
            service_account=settings.service_account,
            address=self._address,
            ports={self._options.inbound_name: self.ports.inbound},
            labels=settings.labels,
            mutual_tls=True,
            region=settings.locality.region,
            zone=settings.locality.zone,
            sub_zone=settings.locality.sub_zone,
        )

    def _report(self, admin: Admin) -> None:
        ports, svid = self.ports, self._identity.svid
        identity = svid.spiffe_id if svid is not None else "nobody"
        self._tell(
            f"sidecar of {self._settings.service} on port {join_address(ports.address, ports.inbound)} as {identity}, "
            f"for the application on {_LOOPBACK}:{ports.app}"
        )
        self._tell(f"calls through http://{_LOOPBACK}:{ports.outbound}, Envoy's admin interface on {admin.shown}")

    # ---- down

    async def _drain(self, admin: Admin) -> None:
        """Announce, let callers go elsewhere, finish what is under way."""
        ends = time.monotonic() + SHUTDOWN_BUDGET - _MARGIN
        self._registration.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANNOUNCE_TIMEOUT):
                await self._registration.settled()
        await admin.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_DELAY):
                await self._insisted.wait()
        under_way = await admin.active_requests()
        while under_way and time.monotonic() < ends and not self._insisted.is_set():
            await asyncio.sleep(_LOOK)
            under_way = await admin.active_requests()
        if under_way:
            logger.warning("ending with %d requests unfinished", under_way)

    # ---- what the parts ask of us

    async def _open_channel(self) -> "Channel":
        from grpclib.config import Configuration

        bundle = self._identity.bundle
        assert bundle is not None  # nothing registers before there is a certificate
        # Istio's keepalive, as for the other streams to the control plane: a peer that is gone is noticed.
        configuration = Configuration(
            _keepalive_time=30.0,
            _keepalive_timeout=10.0,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=20.0,
        )
        return open_channel(self._settings.control_plane, bundle, self._identity.svid, config=configuration)

    def _token(self) -> str:
        return read_file(self._settings.token_file or dev_token_file(self._settings.state_dir))

    def _on_rotated(self, _: Svid) -> None:
        if self._secrets is not None:
            self._secrets.changed()

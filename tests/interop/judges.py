"""Real xDS clients that judge every world which is published: what they refuse is our fault."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from envoy.config.cluster.v3 import cluster_pb2
from free_ports import free_port, free_ports
from running_envoy import Envoy, started_envoy
from valid_worlds import TARGETS, at_generation

from proxyless.control_plane import type_urls
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.closure import closure
from proxyless.control_plane.grpc_server import start_grpc_server
from proxyless.control_plane.server import read_node
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import World
from proxyless.control_plane.xds_services import XdsServices
from proxyless.envoy.bootstrap import Node, Ports, bootstrap
from proxyless.envoy.sds import SecretServer
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
PROGRAMS = Path(__file__).parent / "programs"
DEADLINE = float(os.environ.get("JUDGES_DEADLINE", "60"))
# Seconds between looks, and without news of a client until it has asked for everything that it will.
_LOOK, _QUIET = 0.002, 0.2
Result = TypeVar("Result")


class _Server(AdsServer):
    """Takes down each refusal as it comes: who speaks the incremental variant is then sent parts of what was refused,
    to find out what was meant, and may accept those.
    """

    refused: dict[str, list[str]]

    def answered(self, session: Session, type_url: str, *, accepted: bool) -> None:
        super().answered(session, type_url, accepted=accepted)
        if not accepted:
            error = session.subscriptions[type_url].error
            self.refused.setdefault(session.client.node_id, []).append(f"{type_url}: {error}")


class Judges:
    """An ADS server of the real parts in a loop of its own, and the clients that are connected to it."""

    def __init__(self, directory: Path) -> None:
        """directory: with a short path, there is a socket in it."""
        self.secrets = directory / "sds.sock"
        self.processes: list[subprocess.Popen[Any]] = []
        self.generation = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.address = self._run(self._start(directory))

    async def _start(self, directory: Path) -> str:
        identity = IdentitySource()
        request = CertificateRequest.new(ME)
        authority = CertificateAuthority(directory / "ca", ME.trust_domain)
        identity.set(*request.accept(authority.sign(request.csr_pem, ME), now=time.time()))
        svid, bundle = identity.svid, identity.bundle
        assert svid is not None
        assert bundle is not None
        self._write_files(directory, svid, bundle)
        # Files that rules name are those of the machine Envoy runs on: here they all exist.
        files = {"cert.pem": svid.chain_pem, "key.pem": svid.key_pem}
        self._patch = mock.patch.multiple(
            "proxyless.envoy.secrets",
            _read=lambda path, _kind: files.get(path.name, bundle.roots_pem),
            _system_roots=lambda: Path("roots.pem"),
        )
        self._patch.start()
        self._sds = await SecretServer(identity, self.secrets).__aenter__()
        self._ads = _Server(Translator, read_node)
        self._ads.refused = {}
        self._ads.publish(World())
        self._xds = XdsServices(self._ads, "")
        self._xds.health.set(serving=True)
        self._server, port = await start_grpc_server(self._xds.handlers(None), "127.0.0.1", 0, "port")
        return f"127.0.0.1:{port}"

    def _write_files(self, directory: Path, svid: Svid, bundle: TrustBundle) -> None:
        """For gRPC, which reads certificates from files."""
        contents = {
            "certificate_file": svid.chain_pem,
            "private_key_file": svid.key_pem,
            "ca_certificate_file": bundle.roots_pem,
        }
        self.files = {name: str(directory / f"{name}.pem") for name in contents}
        for name, content in contents.items():
            Path(self.files[name]).write_bytes(content)

    def close(self) -> None:
        async def stop() -> None:
            self._ads.stop()
            await self._server.stop(None)
            await self._sds.__aexit__(None, None, None)
            self._patch.stop()

        self._run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_connected(self, clients: int) -> None:
        end = time.monotonic() + DEADLINE
        while len(self._run(self._sessions())) < clients:
            self._alive()
            assert time.monotonic() < end, "not every client connected"
            time.sleep(0.02)

    def publish(self, world: World) -> dict[str, list[str]]:
        """What each client refuses of this world, once all have taken in everything that they need of it."""
        self.generation += 1
        return self._run(self._publish(at_generation(world, self.generation)))

    async def _publish(self, world: World) -> dict[str, list[str]]:
        self._ads.refused = {}
        self._ads.publish(world)
        end = time.monotonic() + DEADLINE
        quiet = float("inf")
        refused: dict[str, list[str]] = {}
        while time.monotonic() < quiet:
            self._alive()
            refused |= {one.client.node_id: errors for one in self._ads.sessions if (errors := self._errors(one))}
            if waiting := [one for one in self._ads.sessions if not self._answered(one)]:
                assert time.monotonic() < end, f"no answer from {[describe(one) for one in waiting]}"
                quiet = float("inf")
            elif all(self._has_asked(one) for one in self._ads.sessions):
                break
            else:
                quiet = min(quiet, time.monotonic() + _QUIET)
            await asyncio.sleep(_LOOK)
        return {**self._ads.refused, **refused}

    def _errors(self, session: Session) -> list[str]:
        """Why it refuses something of the present world."""
        generation = self._ads.current()[1]
        return [
            f"{url}: {one.error}"
            for url, one in session.subscriptions.items()
            if one.error and one.evaluated >= generation and not one.outstanding
        ]

    def _answered(self, session: Session) -> bool:
        return session.settled(self._ads.current()[1]) or bool(self._errors(session))

    def _has_asked(self, session: Session) -> bool:
        """Whether a client has asked for all that what it has leads to. gRPC does not, for routes that it skips."""
        subscriptions = session.subscriptions
        if session.refusals:
            return True
        if session.client.kind is ClientKind.ENVOY:
            clusters = subscriptions.get(type_urls.CLUSTER)
            needed: Mapping[str, Any] = {type_urls.ENDPOINT: _with_endpoints(clusters.accepted) if clusters else ()}
        else:
            listeners = subscriptions.get(type_urls.LISTENER)
            needed = closure(self._ads.current()[0], session.client, listeners.names if listeners else ())
        return all(
            not names or (type_url in subscriptions and set(names) <= set(subscriptions[type_url].names))
            for type_url, names in needed.items()
        )

    async def _sessions(self) -> list[Session]:
        return self._ads.sessions

    def _alive(self) -> None:
        for process in self.processes:
            assert process.poll() is None, f"{process.args} ended with {process.poll()}"

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * DEADLINE)


def describe(session: Session) -> str:
    types = [f"{each.type} {each.state.value}" for each in session.status().types]
    return f"{session.client.node_id}: {', '.join(types)}"


def _with_endpoints(clusters: Mapping[str, bytes]) -> set[str]:
    parsed = (cluster_pb2.Cluster.FromString(data) for data in clusters.values())
    return {one.eds_cluster_config.service_name or one.name for one in parsed if one.type == one.EDS}


@contextlib.contextmanager
def envoy(judges: Judges, directory: Path, *, delta: bool) -> Iterator[Envoy]:
    """A sidecar as ``proxyless envoy sidecar`` starts one, on the plaintext port."""
    outbound, inbound, app = free_ports(3)
    name = "envoy-delta" if delta else "envoy-sotw"
    admin = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    config = bootstrap(
        Node(name, ME.namespace, "reviews", ME.service_account, {"app": "reviews", "version": "v1"}),
        Ports(outbound, "127.0.0.1", inbound, app),
        control_plane=judges.address,
        trust_domain=ME.trust_domain,
        secrets=judges.secrets,
        admin=admin,
        delta=delta,
    )
    for cluster in config["static_resources"]["clusters"]:
        cluster.pop("transport_socket", None)
    # Nobody answers there: hosts have no addresses, at once.
    resolver = {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": app}}],
        "query_timeout_seconds": 1,
        "query_tries": 1,
    }
    config["typed_dns_resolver_config"] = {"name": "envoy.network.dns_resolver.cares", "typed_config": resolver}
    directory.mkdir()
    with started_envoy(directory, config) as made:
        judges.processes.append(made.process)
        try:
            yield made
        finally:
            judges.processes.remove(made.process)


@contextlib.contextmanager
def grpc_programs(judges: Judges, targets: Sequence[str] = TARGETS) -> Iterator[int]:
    """gRPC's own client with a channel to each target, and its server: how many streams they have."""
    port = free_port()
    labels = {"app": "reviews", "version": "v1", "security.istio.io/tlsMode": "istio"}
    files = {"plugin_name": "file_watcher", "config": judges.files}
    bootstrap = {
        "xds_servers": [
            {"server_uri": judges.address, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
        ],
        "node": {"id": "grpc", "metadata": {"NAMESPACE": "default", "LABELS": labels}},
        "certificate_providers": {"default": files},
        "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
    }
    process = subprocess.Popen(
        [sys.executable, PROGRAMS / "grpc_watcher.py", str(port), *targets],
        env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
        stdin=subprocess.PIPE,
        # It complains of every target that a world does not have.
        stderr=subprocess.DEVNULL,
    )
    judges.processes.append(process)
    try:
        yield len(targets) + 1
    finally:
        judges.processes.remove(process)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def library(world: World) -> Client:
    return Client(kind=ClientKind.PROXYLESS, node_id="library")

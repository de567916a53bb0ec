"""The client against a real ADS server over a real connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ads_server import AdsServer, ads_server, until
from envoy.config.cluster.v3 import cluster_pb2
from grpclib.client import Channel
from xds_resources import assignment, cluster, downstream_tls, inbound, listener, route_configuration

from proxyless.model.inbound import MutualTls
from proxyless.model.snapshot import EMPTY, Origin, Snapshot
from proxyless.xds_client.client import XdsClient
from proxyless.xds_client.kinds import Kind
from proxyless.xds_client.last_known_good import LastKnownGoodFile
from proxyless.xds_client.node import build_node
from proxyless.xds_client.stream import channel_configuration

NODE = build_node(address="10.0.0.9", service="web", namespace="shop", service_account="web", labels={"app": "web"})


@dataclass
class Running:
    client: XdsClient
    published: list[Snapshot] = field(default_factory=list)

    @property
    def snapshot(self) -> Snapshot:
        return self.client.snapshot

    def addresses(self, name: str) -> list[str]:
        found = self.snapshot.clusters.get(name)
        return [str(endpoint) for endpoint in found.endpoints] if found else []


@contextlib.asynccontextmanager
async def running(server: AdsServer, **options: Any) -> AsyncIterator[Running]:
    async def open_channel() -> Channel:
        return Channel("127.0.0.1", server.port, config=channel_configuration())

    published: list[Snapshot] = []
    client = XdsClient(node=NODE, open_channel=open_channel, publish=published.append, **options)
    task = asyncio.create_task(client.run())
    try:
        yield Running(client, published)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def reviews(*addresses: str) -> list[Any]:
    return [
        listener("reviews:80", "reviews-routes"),
        route_configuration("reviews-routes", "v1"),
        cluster("v1"),
        assignment("v1", *addresses),
    ]


def store(directory: Path) -> LastKnownGoodFile:
    return LastKnownGoodFile(directory, namespace="shop", service="web", service_account="web")


def test_a_target_is_published_when_everything_it_names_is_here() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80", "10.0.0.2:80"))
            mesh.client.watch_target("reviews:80")
            await until(lambda: "reviews:80" in mesh.snapshot.listeners, "the target")
            assert mesh.addresses("v1") == ["10.0.0.1:80", "10.0.0.2:80"]
            assert mesh.snapshot.origin is Origin.CONTROL_PLANE
            assert mesh.snapshot is mesh.published[-1]
            assert [request.HasField("node") for request in server.requests].count(True) == 1
            first = server.requests[0]
            assert first.node.id.startswith("sidecar~10.0.0.9~web-")
            assert first.node.metadata["NAMESPACE"] == "shop"
            await until(
                lambda: len({r.type_url for r in server.requests if r.response_nonce}) == 4, "ACKs of all types"
            )
            assert not server.nacks()

    asyncio.run(scenario())


def test_a_target_that_does_not_exist_is_none() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80"))
            mesh.client.watch_target("reviews:80")
            await until(lambda: "reviews:80" in mesh.snapshot.listeners, "the target")
            mesh.client.watch_target("example.com:443")
            await until(lambda: "example.com:443" in mesh.snapshot.listeners, "an answer")
            assert mesh.snapshot.listeners["example.com:443"] is None
            assert mesh.snapshot.listeners["reviews:80"] is not None
            server.serve(listener("example.com:443", "reviews-routes"))
            await until(lambda: mesh.snapshot.listeners["example.com:443"] is not None, "the new listener")

    asyncio.run(scenario())


def test_a_bad_resource_is_refused_and_the_last_good_one_stays() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80"))
            mesh.client.watch_target("reviews:80")
            await until(lambda: mesh.addresses("v1"), "the target")
            bad = cluster("v1")
            bad.type = cluster_pb2.Cluster.EDS
            bad.eds_cluster_config.Clear()
            server.serve(bad)
            await until(server.nacks, "a NACK")
            assert "v1: eds_cluster_config.eds_config is missing" in server.nacks()[0]
            assert mesh.addresses("v1") == ["10.0.0.1:80"]
            server.serve(assignment("v1", "10.0.0.5:80"))
            await until(lambda: mesh.addresses("v1") == ["10.0.0.5:80"], "the other types go on")
            server.serve(cluster("v1"))
            await until(lambda: mesh.client.status()["types"]["CDS"]["error"] == "", "the ACK")

    asyncio.run(scenario())


def test_the_server_is_killed_and_restarted() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80"))
            mesh.client.watch_target("reviews:80")
            await until(lambda: mesh.addresses("v1"), "the target")
            await server.stop()
            await until(lambda: not mesh.client.connected, "the end of the stream")
            await until(lambda: mesh.client.last_error, "an error that says so")
            assert mesh.addresses("v1") == ["10.0.0.1:80"]
            server.requests.clear()
            # What is learned to be wanted while nobody answers is asked for on the next stream.
            mesh.client.watch_target("ratings:80")
            server.resources[Kind.ENDPOINT]["v1"] = assignment("v1", "10.0.0.2:80")
            server.resources[Kind.LISTENER]["ratings:80"] = listener("ratings:80", "reviews-routes")
            await server.start()
            await until(lambda: mesh.addresses("v1") == ["10.0.0.2:80"], "the new endpoints")
            await until(lambda: mesh.snapshot.listeners.get("ratings:80"), "the new target")
            first = {request.type_url: request for request in reversed(server.requests)}
            assert list(first[Kind.LISTENER.type_url].resource_names) == ["ratings:80", "reviews:80"]
            assert all(request.version_info and not request.response_nonce for request in first.values())
            assert mesh.client.last_error == ""

    asyncio.run(scenario())


def test_an_empty_restart_does_not_wipe_what_serves() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80"))
            mesh.client.watch_target("reviews:80")
            await until(lambda: mesh.addresses("v1"), "the target")
            await server.stop()
            server.resources = {kind: {} for kind in Kind}
            await server.start()
            await until(lambda: mesh.client.status()["wipesHeld"] >= 2, "the wipe of listener and cluster")
            assert mesh.addresses("v1") == ["10.0.0.1:80"]
            assert mesh.snapshot.listeners["reviews:80"] is not None
            assert mesh.client.status()["types"]["LDS"]["resources"]["reviews:80"]["state"] == "HELD"
            server.serve(*reviews("10.0.0.7:80"))
            await until(lambda: mesh.addresses("v1") == ["10.0.0.7:80"], "the real state")

    asyncio.run(scenario())


def test_inbound_listeners_by_port() -> None:
    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(inbound(8080, ("tls", downstream_tls()), ("raw_buffer", None)))
            mesh.client.watch_inbound(8080)
            await until(lambda: 8080 in mesh.snapshot.inbound, "the port")
            assert mesh.snapshot.inbound[8080].mutual_tls is MutualTls.PERMISSIVE
            server.serve(inbound(8080, ("tls", downstream_tls("spiffe://td/ns/a/sa/b"))))
            await until(lambda: mesh.snapshot.inbound[8080].mutual_tls is MutualTls.STRICT, "STRICT")
            server.remove(Kind.LISTENER, "xds.istio.io/grpc/lds/inbound/0.0.0.0:8080")
            await until(lambda: mesh.client.status()["types"]["LDS"]["resources"], "an answer")
            assert mesh.snapshot.inbound[8080].mutual_tls is MutualTls.STRICT

    asyncio.run(scenario())


def test_a_process_starts_from_the_last_known_good(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ads_server() as server:
            server.serve(*reviews("10.0.0.1:80"))
            async with running(server, store=store(tmp_path), trust=lambda: ("td", b"PEM")) as mesh:
                mesh.client.watch_target("reviews:80")
                await until(lambda: mesh.addresses("v1"), "the target")
            known = store(tmp_path).load()
            assert known is not None
            assert (known.trust_domain, known.roots_pem) == ("td", b"PEM")
            await server.stop()
            async with running(server, known=known, grace=0.05) as mesh:
                await until(lambda: mesh.snapshot.origin is Origin.LAST_KNOWN_GOOD, "the last known good")
                assert mesh.addresses("v1") == ["10.0.0.1:80"]
                assert mesh.snapshot.received_at == known.written_at
                server.resources[Kind.ENDPOINT]["v1"] = assignment("v1", "10.0.0.2:80")
                await server.start()
                await until(lambda: mesh.addresses("v1") == ["10.0.0.2:80"], "live endpoints")
                assert mesh.snapshot.origin is Origin.CONTROL_PLANE

    asyncio.run(scenario())


def test_live_rules_win_over_the_last_known_good_when_they_are_to_be_had(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ads_server() as server:
            server.serve(*reviews("10.0.0.1:80"))
            async with running(server, store=store(tmp_path)) as mesh:
                mesh.client.watch_target("reviews:80")
                await until(lambda: mesh.addresses("v1"), "the target")
            server.serve(assignment("v1", "10.0.0.3:80"))
            async with running(server, known=store(tmp_path).load(), grace=60.0) as mesh:
                await until(lambda: mesh.addresses("v1"), "the remembered target is asked for")
                assert all(one.origin is not Origin.LAST_KNOWN_GOOD for one in mesh.published)
                assert mesh.addresses("v1") == ["10.0.0.3:80"]

    asyncio.run(scenario())


def test_what_an_earlier_client_knew_serves_until_it_is_answered_for() -> None:
    async def scenario() -> None:
        async with ads_server() as server:
            server.serve(*reviews("10.0.0.1:80"))
            async with running(server) as mesh:
                mesh.client.watch_target("reviews:80")
                await until(lambda: mesh.addresses("v1"), "the target")
                before = mesh.snapshot
            server.silent = {Kind.ENDPOINT}
            async with running(server, initial=before) as mesh:
                await until(lambda: mesh.client.answered, "an answer")
                assert mesh.addresses("v1") == ["10.0.0.1:80"]
                server.silent = set()
                server.serve(assignment("v1", "10.0.0.2:80"))
                await until(lambda: mesh.addresses("v1") == ["10.0.0.2:80"], "live endpoints")
                assert mesh.snapshot.generation > before.generation

    asyncio.run(scenario())


def test_a_server_that_refuses_is_named() -> None:
    async def scenario() -> None:
        async with ads_server() as server:
            await server.stop()
            async with running(server) as mesh:
                mesh.client.watch_target("reviews:80")
                await until(lambda: mesh.client.last_error, "an error")
                assert "Connect call failed" in mesh.client.last_error or "refused" in mesh.client.last_error
                assert mesh.snapshot is EMPTY

    asyncio.run(scenario())


def test_a_client_that_wants_nothing_opens_no_stream() -> None:
    """A control plane ends a stream on which nobody asks: the client would come back for ever."""

    async def scenario() -> None:
        async with ads_server() as server, running(server) as mesh:
            server.serve(*reviews("10.0.0.1:80"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert mesh.client.last_error == ""
            assert not mesh.client.connected
            mesh.client.watch_target("reviews:80")
            await until(lambda: "reviews:80" in mesh.snapshot.listeners, "the target")
            assert server.streams == 1

    asyncio.run(scenario())

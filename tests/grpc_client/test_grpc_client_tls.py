"""Mutual TLS with the peer pinned, and rotation under streams."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_client_support import (
    PATIENCE,
    TARGET,
    Authority,
    Backend,
    FakeRuntime,
    cluster,
    perform,
    world,
)

from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import UpstreamTls
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

Start = Callable[..., Backend]
OF = "spiffe://cluster.local/ns/default/sa/"
OK = grpc.StatusCode.OK


def allowing(*names: str, kind: StringKind = StringKind.EXACT) -> UpstreamTls:
    return UpstreamTls(san=tuple(StringMatcher(kind, OF + name) for name in names))


def secured(server: Backend, authority: Authority, tls: UpstreamTls) -> FakeRuntime:
    runtime = FakeRuntime(world([cluster(server.port, tls=tls)]))
    runtime.identity = authority.source()
    return runtime


@pytest.mark.parametrize(
    "tls",
    [
        allowing("ratings"),
        allowing("reviews", "ratings"),
        allowing("", kind=StringKind.PREFIX),
        UpstreamTls(),
    ],
    ids=["one", "several", "prefix", "any of the mesh"],
)
def test_the_right_peer(api: str, backend: Start, authority: Authority, tls: UpstreamTls) -> None:
    runtime = secured(backend("", authority.credentials("ratings")), authority, tls)
    for _ in range(2):
        assert perform(api, runtime, "unary_unary", "Unary", b"x").code is OK
    assert 'destination_principal="spiffe://cluster.local/ns/default/sa/ratings"' in runtime.metrics()


@pytest.mark.parametrize(
    "tls",
    [allowing("reviews"), allowing("reviews", "details"), allowing("r-", kind=StringKind.PREFIX)],
    ids=["one", "several", "prefix"],
)
def test_the_wrong_peer(api: str, backend: Start, authority: Authority, tls: UpstreamTls) -> None:
    server = backend("", authority.credentials("ratings"))
    found = perform(api, secured(server, authority, tls), "unary_unary", "Unary", b"x")
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert found.trailing["x-envoy-response-flags"] == "UF"
    assert not server.calls


def test_a_peer_of_another_authority(api: str, backend: Start, authority: Authority, tmp_path: Path) -> None:
    server = backend("", Authority(tmp_path).credentials("ratings"))
    for tls in (allowing("ratings"), allowing("ratings", "reviews")):
        found = perform(api, secured(server, authority, tls), "unary_unary", "Unary", b"x")
        assert found.code is grpc.StatusCode.UNAVAILABLE
    assert not server.calls


def test_without_trust_there_is_no_call(api: str, backend: Start, authority: Authority) -> None:
    runtime = FakeRuntime(world([cluster(backend().port, tls=allowing("ratings"))]))
    found = perform(api, runtime, "unary_unary", "Unary", b"x")
    assert found.code is grpc.StatusCode.UNAVAILABLE and "trust bundle" in found.details


def test_a_server_that_does_not_speak_http2(authority: Authority) -> None:
    """The right peer, whose TLS agrees on no protocol: nothing is said to it."""

    async def scenario() -> None:
        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
        runtime = FakeRuntime(world([cluster(server.sockets[0].getsockname()[1], tls=allowing("ratings"))]))
        runtime.identity = authority.source()
        async with server, AioMeshChannel(runtime, TARGET) as channel:
            call: Any = channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE and "ALPN" in await call.details()
            assert await heard.get() == b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.put_nowait(await reader.read())
        except OSError:
            heard.put_nowait(b"")
        writer.close()

    heard: asyncio.Queue[bytes] = asyncio.Queue()
    source = IdentitySource()
    source.set(authority.svid("ratings"), authority.ca.bundle)
    context = source.server_context(MutualTls.STRICT, "http/1.1")
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_what_grpcio_cannot_verify_fails_closed(backend: Start, authority: Authority) -> None:
    names = (StringMatcher(StringKind.EXACT, "a.example"), StringMatcher(StringKind.EXACT, "b.example"))
    tls = UpstreamTls(san=names, mesh_trust=False)
    found = perform("sync", secured(backend(), authority, tls), "unary_unary", "Unary", b"x")
    assert found.code is grpc.StatusCode.UNAVAILABLE and "can verify one DNS name" in found.details


def test_another_identity_at_the_same_address(backend: Start, authority: Authority) -> None:
    """Asked once, an endpoint is not trusted to stay who it was; nor is it lost if it becomes another allowed one."""
    tls = allowing("ratings", "reviews")
    server = backend("first", authority.credentials("ratings"))
    runtime = secured(server, authority, tls)
    endpoint = runtime.world.clusters["ratings"].endpoints[0]
    with MeshChannel(runtime, TARGET) as channel:
        call = channel.unary_unary("/test.Echo/Who")
        assert call(b"", timeout=PATIENCE) == b"first"
        peer = channel.pool.peer(endpoint)
        assert peer is not None and peer.identity == OF + "ratings"
        # As if the process behind the address had been replaced.
        channel.pool._peers[endpoint.key, tls] = peer._replace(name="reviews.default.sa.cluster.local")
        channel.pool.close()
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=PATIENCE)
        assert call(b"", timeout=PATIENCE) == b"first"


def test_a_rotation_drops_no_stream(backend: Start, authority: Authority) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET) as channel:
            stream: Any = channel.stream_stream("/test.Echo/Ping")()
            await stream.write(b"1")
            assert await stream.read() == b"1"
            before = channel.pool.channels()
            for _ in range(3):
                runtime.identity.set(authority.svid("client"), authority.ca.bundle)
                assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE) == b"x"
                await stream.write(b"2")
                assert await stream.read() == b"2"
            after = channel.pool.channels()
            assert len(after) == 1 and after != before
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is OK

    runtime = secured(backend("", authority.credentials("ratings")), authority, allowing("ratings"))
    asyncio.run(scenario())

"""gRPC's interop cases (doc/interop-test-descriptions.md): our channels of both APIs, our server, mutual TLS."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_client_support import APIS, PATIENCE, TARGET, Backend, FakeRuntime, Result, cluster, perform, world
from grpc_support import GrpcTestRuntime
from inbound_support import CLIENT, SERVER, Authority

from proxyless.model.cluster import UpstreamTls
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel
from proxyless.transport.grpc_server.server import MeshGrpcServer

OK = grpc.StatusCode.OK
TLS = UpstreamTls(san=(StringMatcher(StringKind.EXACT, str(SERVER)),))
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


class Servicer(Backend):
    """What the other tests call in a server of grpcio's."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.gone, self.go = threading.Event(), threading.Event()

    def _who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return b",".join(context.peer_identities() or ())


@dataclass
class Peers:
    servicer: Servicer
    runtime: FakeRuntime

    def perform(self, api: str, kind: str, method: str, *requests: bytes, **how: Any) -> Result:
        return perform(api, self.runtime, kind, method, *requests, **how)


@pytest.fixture
def peers(runtime: GrpcTestRuntime, authority: Authority) -> Iterator[Peers]:
    servicer, ready = Servicer(), threading.Event()
    ports: list[int] = []
    ends: list[Any] = []

    async def serve() -> None:
        server, end = MeshGrpcServer(runtime, handlers=(servicer,)), asyncio.Event()
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        runtime.require(ports[0], MutualTls.STRICT)
        await server.start()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(end.set))
        ready.set()
        await end.wait()
        servicer.gone.set()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    client = FakeRuntime(world([cluster(ports[0], tls=TLS)]))
    client.identity = authority.source(CLIENT)
    try:
        yield Peers(servicer, client)
    finally:
        ends[0]()
        thread.join(PATIENCE)


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_unary_calls(api: str, peers: Peers) -> None:
    """empty_unary, large_unary; and the caller is who it says."""
    for request in (b"", b"x" * 271828):
        found = peers.perform(api, "unary_unary", "Unary", request)
        assert (found.code, found.messages) == (OK, [request])
    assert peers.perform(api, "unary_unary", "Who", b"").messages == [str(CLIENT).encode()]


def test_streams(api: str, peers: Peers) -> None:
    """client_streaming, server_streaming, ping_pong, empty_stream."""
    sent = [b"x" * size for size in (27182, 8, 1828, 45904)]
    assert peers.perform(api, "stream_unary", "Join", *sent).messages == [b",".join(sent)]
    assert peers.perform(api, "unary_stream", "Many", b"100").messages == [b"%d" % n for n in range(100)]
    assert peers.perform(api, "stream_stream", "Ping", *sent).messages == sent
    found = peers.perform(api, "stream_stream", "Ping")
    assert (found.code, found.messages) == (OK, [])


@pytest.mark.parametrize("text", ["test status message", SPECIAL])
def test_status(api: str, peers: Peers, text: str) -> None:
    """status_code_and_message, special_status_message."""
    found = peers.perform(api, "unary_unary", "Status", f"2 {text}".encode())
    assert (found.code, found.details) == (grpc.StatusCode.UNKNOWN, text)


def test_custom_metadata(api: str, peers: Peers) -> None:
    sent = (("x-initial", "test_initial_metadata_value"), ("x-trailing-bin", b"\xab\xab\xab"))
    found = peers.perform(api, "unary_unary", "Unary", b"x", metadata=sent)
    assert found.initial["x-initial"] == "test_initial_metadata_value"
    assert found.trailing["x-trailing-bin"] == b"\xab\xab\xab"


def test_unimplemented(api: str, peers: Peers) -> None:
    """unimplemented_method, unimplemented_service."""
    for method in ("/test.Echo/Nothing", "/test.Nothing/Unary"):
        assert peers.perform(api, "unary_unary", method, b"").code is grpc.StatusCode.UNIMPLEMENTED


def test_timeout_on_sleeping_server(api: str, peers: Peers) -> None:
    found = peers.perform(api, "unary_unary", "Sleep", b"", timeout=0.5)
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_cancellation_aio(peers: Peers) -> None:
    """cancel_after_begin, cancel_after_first_response."""

    async def scenario() -> None:
        async with AioMeshChannel(peers.runtime, TARGET) as channel:
            begun: Any = channel.stream_unary("/test.Echo/Join")()
            await begun.write(b"one")
            assert begun.cancel()
            assert await begun.code() is grpc.StatusCode.CANCELLED
            answered: Any = channel.stream_stream("/test.Echo/Ping")()
            await answered.write(b"one")
            assert await answered.read() == b"one"
            assert answered.cancel()
            assert await answered.code() is grpc.StatusCode.CANCELLED
            assert await asyncio.to_thread(peers.servicer.gone.wait, PATIENCE)

    asyncio.run(scenario())


def test_cancellation_sync(peers: Peers) -> None:
    """cancel_after_begin, cancel_after_first_response."""
    go = threading.Event()

    def requests() -> Any:
        yield b"one"
        go.wait(PATIENCE)

    with MeshChannel(peers.runtime, TARGET) as channel:
        begun: Any = channel.stream_unary("/test.Echo/Join").future(requests())
        assert begun.cancel()
        assert begun.code() is grpc.StatusCode.CANCELLED
        answered: Any = channel.stream_stream("/test.Echo/Ping")(requests())
        assert next(answered) == b"one"
        answered.cancel()
        go.set()
        with pytest.raises(grpc.RpcError) as caught:
            next(answered)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert peers.servicer.gone.wait(PATIENCE)

"""What one service hands to the next: a caller, a mesh server that calls on, and another behind it, over mutual TLS."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_client_support import TARGET, FakeRuntime, cluster, world
from grpc_support import GrpcTestRuntime
from inbound_support import CLIENT, SERVER, Authority

from proxyless.model.cluster import UpstreamTls
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel
from proxyless.transport.grpc_server.server import MeshGrpcServer

PATIENCE = 60.0
SERVICE = "test.Chain"
TLS = UpstreamTls(san=(StringMatcher(StringKind.EXACT, str(SERVER)),))
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# google.rpc.Status, code 5, with one detail that is no text; and what else a servicer may answer with.
RICH = b"\x08\x05\x12\x07no book\x1a\x08\x0a\x01t\x12\x03\x00\xff\xfe"
TRAILING = (("grpc-status-details-bin", RICH), ("many-bin", b"\x00"), ("many-bin", b""), ("plain", "text"))


class Rich(NamedTuple):
    """As ``grpc_status.rpc_status.to_status`` makes it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Any


NO_BOOK = Rich(grpc.StatusCode.NOT_FOUND, "no book", TRAILING)


def behind(port: int, source: Any) -> FakeRuntime:
    runtime = FakeRuntime(world([cluster(port, tls=TLS)]))
    runtime.identity = source
    return runtime


class Last:
    """The last of the chain. waiting, gone: set when a call waits, and when its caller has gone."""

    def __init__(self) -> None:
        self.waiting, self.gone = asyncio.Event(), asyncio.Event()

    async def call(self, request: bytes, context: Any) -> bytes:
        return json.dumps({"left": context.time_remaining(), "bytes": len(request)}).encode()

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort_with_status(NO_BOOK)
        return b""

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return b""

    async def echo(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata(tuple(context.invocation_metadata()))
        return request


class First:
    """Calls on, and hands back what came."""

    def __init__(self, channel: AioMeshChannel) -> None:
        self._channel = channel

    async def _on(self, method: str, request: bytes, context: Any) -> bytes:
        try:
            answer: bytes = await self._channel.unary_unary(f"/{SERVICE}/{method}")(request)
        except grpc.aio.AioRpcError as error:
            await context.abort_with_status(Rich(error.code(), error.details() or "", error.trailing_metadata()))
        return answer

    async def call(self, request: bytes, context: Any) -> bytes:
        """The next must be given what is left by then, not what there was."""
        while context.time_remaining() > 19.7:
            await asyncio.sleep(0.02)
        return await self._on("Call", request, context)

    async def fail(self, request: bytes, context: Any) -> bytes:
        return await self._on("Fail", request, context)

    async def wait(self, request: bytes, context: Any) -> bytes:
        return await self._on("Wait", request, context)

    async def echo(self, request: bytes, context: Any) -> bytes:
        return await self._on("Echo", request, context)


class SyncFirst:
    """The same as functions, in threads."""

    def __init__(self, channel: MeshChannel) -> None:
        self._channel = channel

    def _on(self, method: str, request: bytes, context: Any) -> bytes:
        try:
            answer: bytes = self._channel.unary_unary(f"/{SERVICE}/{method}")(request)
        except grpc.RpcError as error:
            context.abort_with_status(Rich(error.code(), error.details() or "", error.trailing_metadata()))
        return answer

    def call(self, request: bytes, context: Any) -> bytes:
        while context.time_remaining() > 19.7:
            time.sleep(0.02)
        return self._on("Call", request, context)

    def fail(self, request: bytes, context: Any) -> bytes:
        return self._on("Fail", request, context)

    def wait(self, request: bytes, context: Any) -> bytes:
        return self._on("Wait", request, context)

    def echo(self, request: bytes, context: Any) -> bytes:
        return self._on("Echo", request, context)


def handlers(servicer: Any) -> Any:
    methods = {name.title(): getattr(servicer, name) for name in ("call", "fail", "wait", "echo")}
    made = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(SERVICE, made)


@contextlib.asynccontextmanager
async def serving(runtime: GrpcTestRuntime, servicer: Any, **arguments: Any) -> AsyncIterator[int]:
    server = MeshGrpcServer(runtime, options=UNLIMITED, **arguments)
    server.add_generic_rpc_handlers((handlers(servicer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.fixture(params=["coroutines", "functions"])
def chain(request: pytest.FixtureRequest, runtime: GrpcTestRuntime, authority: Authority) -> Callable[..., None]:
    """Runs a scenario, which is given the caller's channel and the last servicer."""

    @contextlib.asynccontextmanager
    async def first(port: int) -> AsyncIterator[int]:
        on = behind(port, runtime.identity)
        if request.param == "coroutines":
            async with AioMeshChannel(on, TARGET, UNLIMITED) as channel, serving(runtime, First(channel)) as entry:
                yield entry
            return
        with ThreadPoolExecutor(4) as pool, MeshChannel(on, TARGET, UNLIMITED, grpc.Compression.Gzip) as blocking:
            async with serving(runtime, SyncFirst(blocking), migration_thread_pool=pool) as entry:
                yield entry

    def run(scenario: Callable[[AioMeshChannel, Last], Any]) -> None:
        async def main() -> None:
            last = Last()
            async with (
                serving(runtime, last, compression=grpc.Compression.Gzip) as port,
                first(port) as entry,
                AioMeshChannel(behind(entry, authority.source(CLIENT)), TARGET, UNLIMITED) as channel,
            ):
                await scenario(channel, last)

        asyncio.run(main())

    return run


def test_the_deadline_shrinks_from_hop_to_hop(chain: Callable[..., None]) -> None:
    async def scenario(channel: AioMeshChannel, last: Last) -> None:
        left = json.loads(await channel.unary_unary(f"/{SERVICE}/Call")(b"", timeout=20))["left"]
        # grpcio rounds up what it writes, by at most a tenth of a second.
        assert 0 < left <= 19.8

    chain(scenario)


def test_without_a_deadline_there_is_none(chain: Callable[..., None]) -> None:
    async def scenario(channel: AioMeshChannel, last: Last) -> None:
        answer: bytes = await channel.unary_unary(f"/{SERVICE}/Echo")(b"x")
        assert answer == b"x"

    chain(scenario)


def test_a_deadline_ends_the_whole_chain(runtime: GrpcTestRuntime, authority: Authority) -> None:
    """Of coroutines: grpcio waits for ever for an abort in a thread that comes when the loop has ended."""

    async def main() -> None:
        last = Last()
        async with (
            serving(runtime, last) as port,
            AioMeshChannel(behind(port, runtime.identity), TARGET) as on,
            serving(runtime, First(on)) as entry,
            AioMeshChannel(behind(entry, authority.source(CLIENT)), TARGET) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(f"/{SERVICE}/Wait")(b"", timeout=1)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if last.waiting.is_set():  # a slow machine may not get that far in time
                await asyncio.wait_for(last.gone.wait(), PATIENCE)

    asyncio.run(main())


def test_a_cancelled_call_is_cancelled_at_the_end(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> None:
        last = Last()
        async with (
            serving(runtime, last) as port,
            AioMeshChannel(behind(port, runtime.identity), TARGET) as on,
            serving(runtime, First(on)) as entry,
            AioMeshChannel(behind(entry, authority.source(CLIENT)), TARGET) as channel,
        ):
            call = channel.unary_unary(f"/{SERVICE}/Wait")(b"")
            await asyncio.wait_for(last.waiting.wait(), PATIENCE)
            assert call.cancel()
            await asyncio.wait_for(last.gone.wait(), PATIENCE)

    asyncio.run(main())


def test_rich_error_details_pass_unharmed(chain: Callable[..., None]) -> None:
    async def scenario(channel: AioMeshChannel, last: Last) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=PATIENCE)
        assert (raised.value.code(), raised.value.details()) == (NO_BOOK.code, "no book")
        received = [(key, value) for key, value in raised.value.trailing_metadata() if key in dict(TRAILING)]
        assert sorted(received, key=str) == sorted(TRAILING, key=str)

    chain(scenario)


def test_large_messages_and_compression(chain: Callable[..., None]) -> None:
    """Through two relays, compressed by the first's channel and by the last's answers."""

    async def scenario(channel: AioMeshChannel, last: Last) -> None:
        large = bytes(range(256)) * (32 << 10)
        method = channel.unary_unary(f"/{SERVICE}/Echo")
        answers = await asyncio.gather(
            *[method(large, timeout=PATIENCE, compression=kind) for kind in (None, grpc.Compression.Deflate)]
        )
        assert answers == [large, large]

    chain(scenario)


def test_binary_metadata(runtime: GrpcTestRuntime, authority: Authority) -> None:
    async def main() -> None:
        sent = (("a-bin", bytes(range(256)) * 8), ("b-bin", b""), ("c-bin", b","), ("c-bin", b"\x00"), ("d", "text"))
        async with (
            serving(runtime, Last()) as port,
            AioMeshChannel(behind(port, authority.source(CLIENT)), TARGET) as channel,
        ):
            call = channel.unary_unary(f"/{SERVICE}/Echo")(b"", metadata=sent, timeout=PATIENCE)
            received = [(key, value) for key, value in await call.initial_metadata() if key in dict(sent)]
            assert sorted(received, key=str) == sorted(sent, key=str)

    asyncio.run(main())

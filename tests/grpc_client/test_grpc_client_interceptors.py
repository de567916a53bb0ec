"""Interceptors of ``grpc.aio`` on a channel of the mesh: the same ones on one of grpcio's own do the same."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, world

from proxyless.transport.grpc_client import AioMeshChannel

Start = Callable[..., Backend]


class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Tries twice, names itself, and asks for metadata."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.seen.append(self.name)
        client_call_details.metadata.add("x-initial", self.name)
        call = await continuation(client_call_details, request + self.name.encode())
        if await call.code() is grpc.StatusCode.UNAVAILABLE:
            call = await continuation(client_call_details, request)
        return call


class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, b"3")


class StreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        async def doubled() -> Any:
            async for one in request_iterator:
                yield one * 2

        return await continuation(client_call_details, doubled())


class StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(client_call_details, request_iterator)


class Short(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return b"cached"


async def chunks(*them: bytes) -> Any:
    for one in them:
        yield one


def channels(port: int, interceptors: list[Any]) -> dict[str, Callable[[], grpc.aio.Channel]]:
    runtime = FakeRuntime(world([cluster(port)]))
    return {
        "mesh": lambda: AioMeshChannel(runtime, TARGET, interceptors=interceptors),
        "grpcio": lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors),
    }


@pytest.mark.parametrize("whose", ["mesh", "grpcio"])
def test_all_kinds_of_call(backend: Start, whose: str) -> None:
    server, order = backend(), []  # type: ignore[var-annotated]
    server.failures = 1
    given = [UnaryUnary("a", order), UnaryUnary("b", order), UnaryStream(), StreamUnary(), StreamStream()]

    async def scenario() -> None:
        async with channels(server.port, given)[whose]() as channel:
            upper: Any = channel.unary_unary("/test.Echo/Unary", lambda text: text, lambda raw: raw.decode().upper())
            call: Any = upper(b"x", timeout=PATIENCE, metadata=grpc.aio.Metadata(("x-initial", "mine")))
            assert await call == "XAB"
            assert await call.code() is grpc.StatusCode.OK
            assert dict(await call.initial_metadata())["x-initial"] == "b"
            assert order == ["a", "b"]
            fail: Any = channel.unary_unary("/test.Echo/Fail")
            # The inner one tries again: without its own name.
            assert await fail(b"x", timeout=PATIENCE, metadata=grpc.aio.Metadata()) == b"xa"
            many: Any = channel.unary_stream("/test.Echo/Many")
            assert [one async for one in many(b"1", timeout=PATIENCE)] == [b"0", b"1", b"2"]
            join: Any = channel.stream_unary("/test.Echo/Join")
            assert await join(chunks(b"a", b"b"), timeout=PATIENCE) == b"aa,bb"
            ping: Any = channel.stream_stream("/test.Echo/Ping")
            assert [one async for one in ping(chunks(b"a", b"b"), timeout=PATIENCE)] == [b"a", b"b"]
            written: Any = channel.stream_unary("/test.Echo/Join")(timeout=PATIENCE)
            await written.write(b"1")
            await written.done_writing()
            assert await written == b"11"
            error: Any = channel.unary_unary("/test.Echo/Status")
            with pytest.raises(grpc.aio.AioRpcError, match="nothing"):
                await error(b"5 nothing", timeout=PATIENCE, metadata=grpc.aio.Metadata())

    asyncio.run(scenario())


@pytest.mark.parametrize("whose", ["mesh", "grpcio"])
def test_one_that_answers_itself(backend: Start, whose: str) -> None:
    server = backend()

    async def scenario() -> None:
        async with channels(server.port, [Short()])[whose]() as channel:
            call: Any = channel.unary_unary("/test.Echo/Unary")
            assert await call(b"") == b"cached"
        assert server.calls == []

    asyncio.run(scenario())


@pytest.mark.parametrize("whose", ["mesh", "grpcio"])
def test_what_is_no_interceptor_is_refused(whose: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="Interceptor"):
            channels(1, [object()])[whose]()

    asyncio.run(scenario())

"""What programs written for grpcio's asyncio channel do, and may go on doing with a channel of the mesh."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, world

from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

Start = Callable[..., Backend]
Scenario = Callable[[AioMeshChannel], Awaitable[None]]


def play(server: Backend, scenario: Scenario, target: str = TARGET, **settings: Any) -> None:
    async def main() -> None:
        async with AioMeshChannel(FakeRuntime(world([cluster(server.port)])), target, **settings) as channel:
            await asyncio.wait_for(scenario(channel), PATIENCE)

    asyncio.run(main())


def test_what_nobody_waits_for_is_sent(backend: Start) -> None:
    server = backend()

    async def scenario(channel: AioMeshChannel) -> None:
        channel.unary_unary("/test.Echo/Unary")(b"notice")
        gc.collect()
        while not server.calls:
            await asyncio.sleep(0.01)

    play(server, scenario)
    assert [method for method, _ in server.calls] == ["Unary"]


def test_writing_to_a_call_that_has_ended(backend: Start) -> None:
    """``done_writing`` has nothing more to do, ``write`` cannot."""

    async def scenario(channel: AioMeshChannel) -> None:
        echo = channel.stream_stream("/test.Echo/Ping")()
        await echo.write(b"one")
        assert await echo.read() == b"one"
        await echo.done_writing()
        assert [message async for message in echo] == []
        joined = channel.stream_unary("/test.Echo/Join")()
        await joined.done_writing()
        assert await joined == b""
        cancelled = channel.stream_stream("/test.Echo/Ping")()
        cancelled.cancel()
        assert await cancelled.code() is grpc.StatusCode.CANCELLED
        for call in (echo, joined, cancelled):
            await call.done_writing()
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(b"two")

    play(backend(), scenario)


def test_cancelled_is_told_whoever_did_it(backend: Start) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        call = channel.unary_unary("/test.Echo/Status")(b"1 by the server")
        with pytest.raises(grpc.aio.AioRpcError, match="by the server"):
            await call
        assert call.cancelled()

    play(backend(), scenario)


def test_an_interceptor_may_name_another_method(backend: Start) -> None:
    server = backend()

    class Elsewhere(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await continuation(client_call_details._replace(method=b"/test.Echo/Who"), request)

    async def scenario(channel: AioMeshChannel) -> None:
        assert await channel.unary_unary("/test.Echo/Unary")(b"x") == server.name.encode()

    play(server, scenario, interceptors=[Elsewhere()])
    assert [method for method, _ in server.calls] == ["Who"]


def test_a_method_by_its_bytes(backend: Start) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        assert await channel.unary_unary(b"/test.Echo/Unary")(b"x") == b"x"  # type: ignore[arg-type]

    play(backend(), scenario)


def test_text_in_binary_metadata_is_refused(backend: Start) -> None:
    """It would pass for base64, and arrive as something else."""
    server = backend()

    async def scenario(channel: AioMeshChannel) -> None:
        with pytest.raises(TypeError, match=r"metadata 'x-data-bin' must be bytes, not str"):
            await channel.unary_unary("/test.Echo/Unary")(b"x", metadata=(("x-data-bin", "abcd"),))
        given = (("x-trailing-bin", b"abcd"),)
        call = channel.unary_unary("/test.Echo/Unary")(b"x", metadata=given)
        assert (await call.trailing_metadata())["x-trailing-bin"] == b"abcd"

    play(server, scenario)
    assert len(server.calls) == 1


@pytest.mark.parametrize("message", [5, None, "text"], ids=repr)
def test_what_is_no_message_is_not_made_one(backend: Start, message: Any) -> None:
    """``bytes(5)`` is five zeros."""

    async def scenario(channel: AioMeshChannel) -> None:
        with pytest.raises(TypeError, match="must be bytes"):
            channel.unary_unary("/test.Echo/Unary")(message)
        with pytest.raises(TypeError, match="must be bytes"):
            channel.unary_stream("/test.Echo/Many", request_serializer=lambda one: one)(message)
        with pytest.raises(asyncio.CancelledError):
            await channel.stream_unary("/test.Echo/Join")([b"a", message])

    play(backend(), scenario)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e10], ids=repr)
def test_a_timeout_without_an_end_is_none(backend: Start, timeout: float) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=timeout) == b"x"
        await asyncio.sleep(0.01)  # the loop's timers still work

    play(backend(), scenario)


def test_a_channel_to_a_host_that_the_mesh_does_not_know_gets_ready(backend: Start) -> None:
    server = backend()
    target = f"127.0.0.1:{server.port}"

    async def scenario(channel: AioMeshChannel) -> None:
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY

    play(server, scenario, target)
    runtime = FakeRuntime(world([cluster(server.port)]))
    with MeshChannel(runtime, target) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
    assert server.calls == []

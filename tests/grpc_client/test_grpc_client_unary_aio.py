"""Who performs a unary call of asyncio's: whoever waits for it first, or nobody at all."""

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import TARGET, Backend, FakeRuntime, cluster, forward, retrying, world

from proxyless.model.route import Fault, FaultDelay
from proxyless.transport.grpc_client import AioMeshChannel

Start = Callable[..., Backend]
OK = grpc.StatusCode.OK


def perform(runtime: FakeRuntime, scenario: Callable[[AioMeshChannel], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AioMeshChannel(runtime, TARGET) as channel:
            await scenario(channel)

    asyncio.run(main())


def failing(server: Backend, failures: int) -> FakeRuntime:
    server.failures = failures
    return FakeRuntime(world([cluster(server.port)], forward("ratings", retry=retrying("unavailable"))))


def _code(call: Any) -> Awaitable[Any]:
    return call.code()  # type: ignore[no-any-return]


async def _callback(call: Any) -> Any:
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call.add_done_callback(told.set_result)
    return await (await told).code()


@pytest.mark.parametrize("failures", [0, 2])
@pytest.mark.parametrize("wait", [_code, _callback])
def test_a_call_that_nobody_awaits_is_performed(backend: Start, failures: int, wait: Any) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        call: Any = channel.unary_unary("/test.Echo/Fail")(b"x")
        assert await wait(call) is OK
        assert call.done() and await call == b"x"
        assert len(server.calls) == failures + 1

    server = backend()
    perform(failing(server, failures), scenario)


@pytest.mark.parametrize("failures", [0, 2])
def test_all_who_wait_get_the_answer(backend: Start, failures: int) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        call: Any = channel.unary_unary("/test.Echo/Fail")(b"x")
        assert await asyncio.gather(_of(call), _of(call), call.code()) == [b"x", b"x", OK]
        assert await call == b"x"

    perform(failing(backend(), failures), scenario)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_call_is_cancelled_under_those_who_wait(backend: Start, at_once: bool) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        call: Any = channel.unary_unary("/test.Echo/Sleep")(b"")
        waiting = [asyncio.ensure_future(_of(call)) for _ in range(2)]
        while not at_once and not server.calls:
            await asyncio.sleep(0.01)
        assert call.cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [asyncio.CancelledError] * 2
        assert await call.code() is grpc.StatusCode.CANCELLED

    server = backend()
    perform(FakeRuntime(world([cluster(server.port)])), scenario)


async def _of(call: Any) -> Any:
    return await call


def test_a_call_is_cancelled_before_its_task_has_begun(backend: Start) -> None:
    async def scenario(channel: AioMeshChannel) -> None:
        call: Any = channel.unary_unary("/test.Echo/Echo")(b"x")
        gc.collect()  # what other tests left is not told here
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert call.cancelled()
            del call
            gc.collect()
        assert not warned and not server.calls

    server = backend()
    fault = Fault(delay=FaultDelay(60.0, 1_000_000))
    perform(FakeRuntime(world([cluster(server.port)], forward("ratings", route={"fault": fault}))), scenario)

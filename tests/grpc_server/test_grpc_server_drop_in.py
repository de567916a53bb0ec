"""What programs written for grpcio's asyncio server do, and may go on doing with a server of the mesh."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, Echo, GrpcTestRuntime, SyncEcho, call, plaintext, started

from proxyless.agent.registration import Registration
from proxyless.model.workload import Workload


def test_two_reads_at_once_get_two_messages_in_order(runtime: GrpcTestRuntime) -> None:
    class Reading(Echo):
        async def sum(self, requests: Any, context: Any) -> bytes:
            return b"".join(await asyncio.gather(context.read(), context.read()))

    async def main() -> None:
        server = started(runtime, Reading())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with plaintext(port) as channel:
            summed = channel.stream_unary(f"/{SERVICE}/Sum")(timeout=30)
            await summed.write(b"1")
            await summed.write(b"2")
            await summed.done_writing()
            assert await summed == b"12"
        await server.stop(None)

    asyncio.run(main())


def test_started_twice_is_started(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        server = started(runtime, Echo())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.start()
        async with plaintext(port) as channel:
            await call(channel)
        await server.stop(None)

    asyncio.run(main())


def test_a_servicer_in_a_thread_hears_of_its_bad_metadata(runtime: GrpcTestRuntime) -> None:
    class Wrong(SyncEcho):
        def call(self, request: bytes, context: Any) -> bytes:
            context.send_initial_metadata((("X bad", "1"),))
            return b"unsent"

    async def main() -> None:
        server = started(runtime, Wrong())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with plaintext(port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Call")(b"x", timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        await server.stop(None)

    asyncio.run(main())


def test_two_servers_of_a_process_are_both_announced() -> None:
    async def unused() -> Any:
        raise AssertionError

    def announced(*ports: dict[str, int]) -> dict[str, int]:
        registration = Registration(unused)
        for one in ports:
            registration.add(Workload("id", "ns", "sa", "service", "10.0.0.1", one))
        assert registration._wanted is not None
        return dict(registration._wanted.ports)

    assert announced({"grpc": 1}, {"grpc": 2}, {"grpc": 3}) == {"grpc": 1, "grpc-2": 2, "grpc-3": 3}
    assert announced({"": 1}, {"": 2}) == {"": 1, "port-2": 2}
    assert announced({"grpc": 1}, {"grpc": 1}) == {"grpc": 1}
    assert announced({"grpc": 1, "grpc-2": 2}, {"grpc": 2, "http": 80}) == {"grpc": 1, "grpc-2": 2, "http": 80}

"""What a gRPC server keeps of requests that stream to handlers that do not read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, GrpcTestRuntime, plaintext
from test_grpc_server_hostile import CODE, PATIENCE, changed
from wire_client import Client, client, until

from proxyless.transport.grpc_server.server import MeshGrpcServer
from proxyless.transport.grpc_wire.messages import MAX_MESSAGE, frame
from proxyless.transport.grpc_wire.settings import (
    CONNECTION_WINDOW,
    MAX_FRAME,
    MOST_UNREAD,
    NARROW_WINDOW,
    STREAM_WINDOW,
)

READ, UNREAD = changed(":path", f"/{SERVICE}/Read"), changed(":path", f"/{SERVICE}/Unread")
GZIP = ("grpc-encoding", "gzip")


class Reader:
    """release: when to read. sizes: of what was read."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.sizes: list[int] = []

    async def read(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for request in requests:
            self.sizes.append(len(request))
        return b""

    async def unread(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await self.release.wait()
        return await self.read(requests, context)


@contextlib.asynccontextmanager
async def reading(runtime: GrpcTestRuntime) -> AsyncIterator[tuple[Reader, Client, MeshGrpcServer]]:
    reader = Reader()
    server = MeshGrpcServer(runtime)
    methods = {
        "Read": grpc.stream_unary_rpc_method_handler(reader.read),
        "Unread": grpc.stream_unary_rpc_method_handler(reader.unread),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE), client(port) as one:
            one.port = port
            yield reader, one, server
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (100, STREAM_WINDOW),
        # What was let in of the first message, which somebody might have waited for, and a window.
        (MAX_MESSAGE, MAX_MESSAGE + STREAM_WINDOW),
        # All but the last byte of a message is not yet one.
        (16 * MAX_FRAME - 4, 16 * MAX_FRAME + STREAM_WINDOW),
    ],
)
def test_what_a_stream_holds_is_bounded(runtime: GrpcTestRuntime, size: int, most: int) -> None:
    async def main() -> None:
        async with reading(runtime) as (reader, one, _):
            framed = frame(bytes(size))
            count = 4 * most // len(framed)
            call = one.ask(UNREAD, framed * count, end=False)
            left = await one.stuck()
            # What is given back at once may still be owed.
            assert most - STREAM_WINDOW // 4 <= len(framed) * count - left <= most
            one.data(call, b"", end=True)
            reader.release.set()
            await call.over.wait()
            assert call.found[CODE] == "0" and reader.sizes == [size] * count

    asyncio.run(main())


def test_what_waits_stays_compressed(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with reading(runtime) as (reader, one, server):
            framed = frame(bytes(MAX_MESSAGE), "gzip")
            count = STREAM_WINDOW // len(framed)
            call = one.ask([*UNREAD, GZIP], framed * count, end=False)
            assert await one.stuck() == 0
            (kept,) = server._core.calls
            assert sum(map(len, kept._queue)) < STREAM_WINDOW
            one.data(call, frame(bytes(MAX_MESSAGE + 1), "gzip"), end=True)
            reader.release.set()
            await call.over.wait()
            assert call.found[CODE] == "8" and reader.sizes == [MAX_MESSAGE] * count

    asyncio.run(main())


@pytest.mark.parametrize("how", ["read", "reset"])
def test_what_a_connection_holds_is_bounded(runtime: GrpcTestRuntime, how: str) -> None:
    async def main() -> None:
        async with reading(runtime) as (reader, one, server):
            body = frame(bytes(60_000)) * 34
            calls = [one.ask(UNREAD, body, end=False) for _ in range(64)]
            sent = len(calls) * len(body) - await one.stuck()
            assert MOST_UNREAD < sent <= MOST_UNREAD + CONNECTION_WINDOW + len(calls) * (NARROW_WINDOW + MAX_FRAME)
            # What is read goes on all the same.
            other = one.ask(READ, frame(bytes(MAX_MESSAGE)) * 4)
            await other.over.wait()
            assert other.found[CODE] == "0" and reader.sizes == [MAX_MESSAGE] * 4
            if how == "read":
                reader.release.set()
                for call in calls:
                    one.data(call, b"", end=True)
                assert await one.stuck() == 0
                for call in calls:
                    await call.over.wait()
                    assert call.found[CODE] == "0"
                assert reader.sizes[4:] == [60_000] * 34 * len(calls)
            else:
                for call in calls:
                    one.reset(call)
                await one.stuck()
            (connection,) = server._core.connections
            await until(lambda: connection.wire._window == STREAM_WINDOW and not connection.wire._unread)

    asyncio.run(main())


def test_grpcio_gets_on_with_narrow_windows(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with reading(runtime) as (reader, one, server), plaintext(one.port) as channel:

            async def requests(count: int, size: int) -> AsyncIterator[bytes]:
                for _ in range(count):
                    yield bytes(size)

            async def call(name: str, count: int, size: int) -> None:
                await channel.stream_unary(f"/{SERVICE}/{name}")(requests(count, size))

            calls = [asyncio.create_task(call("Unread", 34, 60_000)) for _ in range(32)]
            await until(lambda: any(made.wire._window == NARROW_WINDOW for made in server._core.connections))
            await call("Read", 4, MAX_MESSAGE)
            assert reader.sizes == [MAX_MESSAGE] * 4
            reader.release.set()
            await asyncio.gather(*calls)
            assert reader.sizes[4:] == [60_000] * 34 * len(calls)

    asyncio.run(main())

"""What a gRPC server keeps of requests that stream to handlers that do not read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, GrpcTestRuntime
from test_grpc_server_hostile import CODE, PATIENCE, changed
from wire_client import Client, client

from proxyless.transport.grpc_server.server import MeshGrpcServer
from proxyless.transport.grpc_wire.messages import MAX_MESSAGE, frame
from proxyless.transport.grpc_wire.settings import MAX_FRAME, STREAM_WINDOW

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

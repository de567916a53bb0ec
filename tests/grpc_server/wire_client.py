"""A client of our own HTTP/2 that does as little as it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from test_grpc_server_hostile import HEAD, PATIENCE

from proxyless.transport.grpc_wire.connection import Connection
from proxyless.transport.grpc_wire.header_blocks import Lines, encode
from proxyless.transport.grpc_wire.messages import frame
from proxyless.transport.grpc_wire.stream import Stream


class Call(Stream):
    __slots__ = ("code", "found", "over")

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.code: int | None = None
        self.over = asyncio.Event()

    def on_head(self, lines: Lines, end: bool) -> None:
        self.found |= {name.decode(): value.decode() for name, value in lines}
        if end:
            self.over.set()

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        self.code = code
        self.over.set()


class Client(Connection):
    """answers: the acknowledgements of pings leave. drained: the server said that it takes nothing more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        super().__init__(asyncio.get_running_loop().time, client=True)
        self._answers = answers
        self._reader, self._writer = reader, writer
        self.ended = asyncio.create_task(self._read())
        self.pings = self.port = 0
        self._pongs = 0

    def ask(self, head: list[tuple[str, str]] = HEAD, body: bytes = frame(b"hi"), *, end: bool = True) -> Call:
        call = Call()
        self.open(call, encode([(name.encode(), value.encode()) for name, value in head]))
        self.data(call, body, end=end)
        self._writer.write(self.take())
        return call

    async def stuck(self) -> int:
        """Once the server takes nothing more: bytes that wait for its windows."""
        while True:
            before, pongs = self._waiting, self._pongs
            self.ping(b"unstuck?")
            self._writer.write(self.take())
            # It comes after all that the server says to what was sent before it.
            await until(lambda pongs=pongs: self._pongs > pongs or self.over)
            if self._waiting == before:
                return before

    @property
    def _waiting(self) -> int:
        return sum(stream.waiting for stream in self.streams.values())

    def on_pong(self, payload: bytes) -> None:
        self._pongs += 1

    def _got_ping(self, flags: int, number: int, payload: bytes) -> None:
        self.pings += not flags
        if self._answers or flags:
            super()._got_ping(flags, number, payload)

    async def _read(self) -> None:
        self._writer.write(self.take())
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                self.feed(data)
                self._writer.write(self.take())
        self.lost("closed")


@contextlib.asynccontextmanager
async def client(port: int, *, answers: bool = True) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    made = Client(reader, writer, answers=answers)
    try:
        yield made
    finally:
        writer.close()
        await made.ended


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)

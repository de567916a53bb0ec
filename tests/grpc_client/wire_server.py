"""An HTTP/2 server that does what a test tells it, frame by frame; it knows nothing of gRPC."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from hpack import Encoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4
HEAD = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)


class Peer:
    """One connection. got: its frames (kind, flags, stream, payload), but for SETTINGS and WINDOW_UPDATE."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder = Encoder()
        self.got: list[tuple[int, int, int, bytes]] = []

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        size = len(payload)
        self.writer.write(struct.pack(">BHBBL", size >> 16, size & 0xFFFF, kind, flags, stream) + payload)

    def head(self, stream: int, *lines: tuple[str, str], end: bool = False) -> None:
        block = self.encoder.encode(lines or HEAD)
        for start in range(0, len(block), 16_384):
            last = END_HEADERS if start + 16_384 >= len(block) else 0
            flags = last | (END_STREAM if end and not start else 0)
            self.frame(HEADERS if not start else 9, flags, stream, block[start : start + 16_384])

    def data(self, stream: int, payload: bytes, *, end: bool = False) -> None:
        for start in range(0, len(payload) or 1, 16_384):
            last = end and start + 16_384 >= len(payload)
            self.frame(DATA, END_STREAM if last else 0, stream, payload[start : start + 16_384])

    def message(self, stream: int, payload: bytes, *, flag: int = 0, end: bool = False) -> None:
        self.data(stream, struct.pack(">BL", flag, len(payload)) + payload, end=end)

    def reset(self, stream: int, code: int) -> None:
        self.frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))

    def goaway(self, last: int, code: int = 0) -> None:
        self.frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def answer(self, stream: int, payload: bytes = b"answer") -> None:
        self.head(stream)
        self.message(stream, payload)
        self.head(stream, *OK, end=True)

    async def next(self) -> tuple[int, int, int, bytes]:
        while True:
            high, low, kind, flags, stream = struct.unpack(">BHBBL", await self.reader.readexactly(9))
            payload = await self.reader.readexactly(high << 16 | low)
            if kind == PING and not flags:
                self.frame(PING, 1, 0, payload)
            if kind not in (SETTINGS, WINDOW_UPDATE):
                self.got.append((kind, flags, stream, payload))
                return self.got[-1]


Script = Callable[[Peer, int], Any]


class WireServer:
    """script: called for each request that has arrived whole, with its stream. settings: what it says of itself.

    first: instead of SETTINGS. peers: its connections so far. reads: cleared, it leaves in the socket what comes.
    """

    def __init__(self, script: Script, settings: bytes = b"", first: bytes | None = None, port: int = 0) -> None:
        self._script = script
        self._settings = settings
        self._first = first
        self.port = port
        self.peers: list[Peer] = []
        self.requests = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scripts: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> "WireServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reads.set()
        for peer in self.peers:
            peer.writer.transport.abort()  # whoever reads it ends by that
        for task in self._scripts:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._scripts, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            if self._first is not None:
                writer.write(self._first)
            else:
                peer.frame(SETTINGS, 0, 0, self._settings)
            await reader.readexactly(24)
            while True:
                kind, flags, stream, _ = await peer.next()
                await self.reads.wait()
                if kind in (HEADERS, DATA) and flags & END_STREAM:
                    self.requests += 1
                    done = self._script(peer, stream)
                    if isinstance(done, Awaitable):
                        self._scripts.add(asyncio.ensure_future(done))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

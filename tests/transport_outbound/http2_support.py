"""An HTTP/2 server that does exactly what a test says, and clients in the mesh that meet it."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings
from outbound_support import FakeRuntime, Peer, Server, cluster, snapshot

from proxyless.model.cluster import Protocol

Script = Callable[["H2Peer", int, dict[str, str]], Awaitable[None]]


class H2Peer:
    """One connection as the server sees it. bodies: of requests so far, by stream. bare: streams whose head said that
    there is no body."""

    def __init__(self, peer: Peer, script: Script, settings: dict[SettingCodes, int], window: int | None) -> None:
        self.peer, self.script = peer, script
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self.h2.local_settings = Settings(client=False, initial_values=settings)
        self.requests: dict[int, list[tuple[str, str]]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.bare: set[int] = set()
        self.ended: dict[int, asyncio.Event] = {}
        self.resets: dict[int, int] = {}
        self.most_open = 0
        self.acknowledge = True
        self._window = window
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        try:
            while data := await self.peer.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._event(event)
                await self.flush()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(list(self._tasks))

    async def flush(self) -> None:
        await self.peer.send(self.h2.data_to_send())

    def _event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                number = event.stream_id
                self.requests[number] = list(event.headers)
                if event.stream_ended is not None:
                    self.bare.add(number)
                self.peer.server.requests.append((self.peer.number, number, dict(event.headers)))  # type: ignore[arg-type]
                self.bodies[number], self.ended[number] = bytearray(), asyncio.Event()
                self.most_open = max(self.most_open, self.h2.open_inbound_streams)
                task = asyncio.get_running_loop().create_task(self._run(number, dict(event.headers)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case DataReceived():
                self.bodies[event.stream_id] += event.data
                if self.acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.ended[event.stream_id].set()
            case StreamReset():
                self.resets[event.stream_id] = int(event.error_code)
                self.ended[event.stream_id].set()
        if isinstance(event, WindowUpdated | StreamReset):
            self._moved.set()

    async def _run(self, number: int, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            await self.script(self, number, headers)

    # What scripts do

    async def head(self, number: int, status: int = 200, *headers: tuple[str, str], end: bool = False) -> None:
        self.h2.send_headers(number, [(":status", str(status)), *headers], end_stream=end)
        await self.flush()

    async def data(self, number: int, body: bytes, *, end: bool = True) -> None:
        while True:
            if number in self.resets:
                return
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            piece, body = body[:room], body[room:]
            if piece:
                self.h2.send_data(number, piece)
                await self.flush()
            if not body:
                break
            if not piece:
                self._moved.clear()
                await self._moved.wait()
        if end:
            self.h2.end_stream(number)
            await self.flush()

    async def ok(self, number: int, body: bytes = b"hello") -> None:
        await self.head(number)
        await self.data(number, body)

    async def reset(self, number: int, code: int) -> None:
        self.h2.reset_stream(number, code)
        await self.flush()

    async def go_away(self, last: int, code: int = 0) -> None:
        """As a server does that goes on with what it has; h2 itself would be done with the connection."""
        frame = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + last.to_bytes(4, "big") + code.to_bytes(4, "big")
        await self.peer.send(frame)


async def echo2(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
    await peer.ended[number].wait()
    if number not in peer.resets:
        await peer.ok(number, f"{headers[':method']} {headers[':path']}|".encode() + bytes(peer.bodies[number]))


class H2Server(Server):
    """peers: the connections so far."""

    def __init__(
        self, script: Script, context: ssl.SSLContext | None = None, settings: dict[SettingCodes, int] | None = None
    ) -> None:
        self.peers: list[H2Peer] = []

        async def handler(peer: Peer) -> None:
            one = H2Peer(peer, script, settings or {}, None)
            self.peers.append(one)
            await one.serve()

        super().__init__(handler, context)


@contextlib.contextmanager
def mesh2(
    script: Script,
    settings: dict[SettingCodes, int] | None = None,
    members: dict[str, object] | None = None,
    **of: object,
) -> Iterator[tuple[H2Server, FakeRuntime]]:
    """An h2c server and a runtime whose ``reviews:80`` is it."""
    with H2Server(script, settings=settings) as server:
        world = cluster(server.port, protocol=Protocol.HTTP2, **(members or {}))
        yield server, FakeRuntime(snapshot(world, **of))  # type: ignore[arg-type]

"""Our TLS transport at one end of a loopback connection; at the other a peer whose every byte a test decides."""

import asyncio
import contextlib
import functools
import socket
import ssl
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inbound_support import CLIENT, LOOPS, SERVER, Authority

from proxyless.model.inbound import MutualTls
from proxyless.transport.tls_handshake import secure
from proxyless.transport.tls_transport import TlsTransport

# Which loop, and which side of the handshake is ours. On uvloop the client's side is uvloop's own TLS.
ENDS = [("asyncio", "server"), ("asyncio debug", "client"), ("uvloop", "server")]


@functools.cache
def bytes_of(size: int) -> bytes:
    """No two places look alike."""
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


@dataclass(frozen=True)
class Contexts:
    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def of(cls, authority: Authority, client: Authority | None = None) -> "Contexts":
        return cls(
            authority.source(SERVER).server_context(MutualTls.STRICT, "http/1.1"),
            (client or authority).client_context(str(CLIENT)),
        )


class Recorder(asyncio.Protocol):
    """What a transport told its protocol, in order. act: what the application does at each, by its name."""

    def __init__(self, **act: Callable[["Recorder"], object]) -> None:
        self.act = act
        self.events: list[str] = []
        self.data = bytearray()
        self.lost: list[BaseException | None] = []
        self._changed = asyncio.Event()

    def happened(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()
        if event in self.act:
            self.act[event](self)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_lost(self) -> BaseException | None:
        await self.until(lambda: self.lost)
        assert len(self.lost) == 1
        return self.lost[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.happened("made")

    def data_received(self, data: bytes) -> None:
        assert not self.lost and "eof" not in self.events
        self.data += data
        self.happened("data")

    def eof_received(self) -> None:
        self.happened("eof")

    def pause_writing(self) -> None:
        self.happened("paused")

    def resume_writing(self) -> None:
        self.happened("resumed")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)
        self.happened("lost")


class Echo(Recorder):
    """Reads no faster than it is read."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.resume_reading()


class Peer:
    """TLS by hand. cut: how the ciphertext is divided for the socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        self.sock = sock
        self.cut: Callable[[bytes], Iterable[bytes]] = lambda data: (data,)
        self.eof = False  # that of TCP was seen
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._lock = asyncio.Lock()

    async def _do(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self.flush()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self.flush()  # the alert
                raise
            else:
                await self.flush()
                return result
            if data := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                self._in.write(data)
            else:
                self.eof = True
                self._in.write_eof()

    def sealed(self, data: bytes = b"") -> bytes:
        """The records of ``data``, and what else was to be sent."""
        if data:
            self.tls.write(data)
        return self._out.read()

    async def flush(self) -> None:
        async with self._lock:
            await self.send_raw(self._out.read())

    async def send_raw(self, data: bytes) -> None:
        for piece in self.cut(data) if data else ():
            await asyncio.get_running_loop().sock_sendall(self.sock, piece)

    async def handshake(self) -> None:
        await self._do(self.tls.do_handshake)

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            self.tls.write(data[start : start + 65536])
            await self.flush()

    async def read(self, size: int = 65536) -> bytes:
        """b"" at the end that TLS says, or TCP: see ``eof``."""
        try:
            return bytes(await self._do(lambda: self.tls.read(size)))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await self.read(min(65536, size - len(data)))
            assert piece, f"the end after {len(data)} of {size}"
            data += piece
        return bytes(data)

    async def read_to_the_end(self) -> bytes:
        """Everything, and then a goodbye of TLS."""
        data = bytearray()
        while piece := await self.read():
            data += piece
        assert not self.eof, f"TCP ended without a goodbye, after {len(data)}"
        return bytes(data)

    def say_goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._out.read()

    async def leave(self) -> None:
        """A goodbye of TLS, and one of TCP."""
        await self.send_raw(self.say_goodbye())
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def connected(buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two non-blocking ends. buffer: bytes, about, that the kernel keeps for each direction."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listening.setblocking(False)
        left = socket.socket()
        left.setblocking(False)
        if buffer is not None:
            left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        loop = asyncio.get_running_loop()
        accepting = asyncio.ensure_future(loop.sock_accept(listening))
        await loop.sock_connect(left, listening.getsockname())
        right, _ = await accepting
    for sock in (left, right):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


def sockets() -> int:
    """How many this process has open."""
    count = 0
    for descriptor in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            count += stat.S_ISSOCK(descriptor.stat().st_mode)
    return count


@dataclass
class World:
    """A loop, and who we are in it. complaints: what the loop's exception handler was told."""

    contexts: Contexts
    side: str
    complaints: list[dict[str, Any]] = field(default_factory=list)

    def ours(self, sock: socket.socket, factory: Callable[[], Any] = Recorder) -> Awaitable[tuple[Any, Any]]:
        context = getattr(self.contexts, self.side)
        return secure(asyncio.get_running_loop(), sock, context, factory, server_side=self.side == "server")

    def peer(self, sock: socket.socket) -> Peer:
        theirs = self.contexts.client if self.side == "server" else self.contexts.server
        return Peer(sock, theirs, self.side == "client")

    @contextlib.asynccontextmanager
    async def pair(
        self,
        factory: Callable[[], Any] = Recorder,
        *,
        buffer: int | None = None,
        cut: Callable[[bytes], Iterable[bytes]] | None = None,
    ) -> AsyncIterator[tuple[TlsTransport, Any, Peer]]:
        """Connected; whatever a test leaves is ended, and every descriptor must be closed then."""
        before = sockets()
        left, right = await connected(buffer)
        peer = self.peer(right)
        if cut is not None:
            peer.cut = cut
        (transport, protocol), _ = await asyncio.gather(self.ours(left, factory), peer.handshake())
        assert isinstance(transport, TlsTransport)
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            right.close()
        await closed(before)


async def closed(before: int) -> None:
    """Until no more sockets are open than before."""
    while sockets() > before:
        await asyncio.sleep(0.001)


def play(
    end: tuple[str, str],
    contexts: Contexts,
    scenario: Callable[[World], Awaitable[None]],
    *,
    complaints: Iterable[str] = (),
) -> None:
    """complaints: what the loop is to be told, by type; nothing else."""
    kind, side = end
    world = World(contexts, side)

    async def bounded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: world.complaints.append(told))
        await asyncio.wait_for(scenario(world), 60)  # type: ignore[arg-type]

    with asyncio.Runner(debug=kind.endswith("debug"), loop_factory=LOOPS[kind.partition(" ")[0]]) as runner:
        runner.run(bounded())
    assert [type(told["exception"]).__name__ for told in world.complaints] == list(complaints)

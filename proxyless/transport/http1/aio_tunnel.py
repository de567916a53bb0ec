"""What a connection is once it no longer speaks HTTP: bytes both ways, on an event loop (a WebSocket, for one)."""

import asyncio
import ssl
from collections import deque
from typing import cast

from proxyless.transport.http1.errors import ConnectFailed, ConnectionEnded, ReadTimedOut, WriteTimedOut

# Bytes that may wait for the application before the peer is made to wait.
_HIGH_WATER = 256 * 1024
# Seconds that what was written has to leave after ``aclose``.
_LINGER = 5.0


class AsyncTunnel(asyncio.Protocol):
    """``read`` by one task, ``write`` by any number. Raises WireError; ``read`` gives b"" at the peer's end.

    within: seconds.
    """

    __slots__ = (
        "_buffered", "_chunks", "_ended", "_error", "_loop", "_read_paused", "_reader", "_transport", "_write_paused",
        "_writers",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, leading: bytes, write_paused: bool = False
    ) -> None:
        """leading: what the peer sent already."""
        self._loop = loop
        self._transport = transport
        self._chunks: deque[bytes] = deque([leading] if leading else ())
        self._buffered = len(leading)
        self._ended = self._read_paused = False
        self._write_paused = write_paused
        self._error: str | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writers: set[asyncio.Future[None]] = set()

    async def read(self, limit: int, within: float | None) -> bytes:
        """What has arrived, at most ``limit`` bytes."""
        while not self._chunks:
            if self._error is not None:
                raise ConnectionEnded(self._error, clean=False)
            if self._ended:
                return b""
            if self._reader is not None:
                raise RuntimeError("another task is reading this stream")
            waiter = self._reader = self._loop.create_future()
            try:
                async with asyncio.timeout(within):
                    await waiter
            except TimeoutError:
                raise ReadTimedOut(f"the server sent nothing for {within:g} s") from None
            finally:
                self._reader = None
        data = self._chunks.popleft()
        if len(data) > limit:
            self._chunks.appendleft(data[limit:])
            data = data[:limit]
        self._buffered -= len(data)
        if self._read_paused and self._buffered <= _HIGH_WATER:
            self._read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    async def write(self, data: bytes, within: float | None) -> None:
        """Returns when there is room for more."""
        if self._error is not None or self._transport.is_closing():
            raise ConnectionEnded(self._error or "the connection is closed", clean=False)
        self._transport.write(data)
        if not self._write_paused:
            return
        waiter = self._loop.create_future()
        self._writers.add(waiter)
        try:
            async with asyncio.timeout(within):
                await waiter
        except TimeoutError:
            raise WriteTimedOut(f"the server took nothing for {within:g} s") from None
        finally:
            self._writers.discard(waiter)
        if self._error is not None:
            raise ConnectionEnded(self._error, clean=False)

    async def aclose(self) -> None:
        """What was written still goes out; who reads gets b""."""
        self._ended = True
        if not self._transport.is_closing():
            self._transport.close()
            # A peer that takes nothing must not keep the socket.
            self._loop.call_later(_LINGER, self._transport.abort)
        self._wake()
        await asyncio.sleep(0)

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None, within: float | None) -> "AsyncTunnel":
        """TLS from here on, on the tunnel that is returned."""
        if self._chunks:
            raise ConnectFailed("the server sent bytes before TLS")
        try:
            async with asyncio.timeout(within):
                transport = await self._loop.start_tls(self._transport, self, context, server_hostname=server_name)
        except TimeoutError:
            self._transport.abort()
            raise ConnectFailed(f"no TLS within {within:g} s") from None
        except (OSError, EOFError) as error:
            self._transport.abort()
            raise ConnectFailed(f"TLS: {getattr(error, 'reason', None) or error or type(error).__name__}") from None
        if transport is None:
            raise ConnectFailed("the connection is closed")
        inner = AsyncTunnel(self._loop, transport, b"")
        transport.set_protocol(inner)
        while self._chunks:  # what came in the same turn of the loop as the end of the handshake
            inner.data_received(self._chunks.popleft())
        return inner

    @property
    def tunnel(self) -> "AsyncTunnel":
        """As a connection has one."""
        return self

    def fact(self, name: str) -> object:
        """asyncio's ``get_extra_info``."""
        return self._transport.get_extra_info(name)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        for waiter in self._writers:
            if not waiter.done():
                waiter.set_result(None)

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > _HIGH_WATER and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        # Half-closed: we may still write. TLS knows no such thing.
        return self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._error = f"the connection was lost: {getattr(exc, 'strerror', None) or type(exc).__name__}"
        elif self._writers:
            self._error = "the connection is closed"
        self._ended = True
        self._wake()
        self._wake_writers()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake_writers()

"""One relayed connection: the side of the caller, the side of the gRPC server, and bytes between with back-pressure.

grpcio's Python server can only demand client certificates or not ask for them, and speaks either TLS or plaintext on a
port. So we accept, and it gets the bytes. TLS ends here; HTTP/2 is between the caller and the server.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

# Bytes that are kept of a caller while its other side is being connected.
_MAX_EARLY = 1 << 20


class Inner(asyncio.Protocol):
    """The connection to the gRPC server that belongs to one ``Outer``."""

    def __init__(self, outer: asyncio.Transport) -> None:
        self._outer = outer
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._outer.write(data)

    def pause_writing(self) -> None:
        self._outer.pause_reading()

    def resume_writing(self) -> None:
        self._outer.resume_reading()

    def end(self) -> None:
        """What was written already still arrives."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._outer.close()


class Outer(asyncio.Protocol):
    """The caller's side. ``connection_made`` is the subclass's: it judges the connection, and then calls ``relay``."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._inner: Inner | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._early = b""
        self.closed = asyncio.Event()

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def relay(self, connect: Callable[[], Awaitable[Inner]]) -> None:
        """Read nothing before ``connect`` has given the other side; an OSError of it ends the connection."""
        self.transport.pause_reading()
        self._connecting = asyncio.create_task(self._connect(connect))

    async def _connect(self, connect: Callable[[], Awaitable[Inner]]) -> None:
        try:
            self._inner = await connect()
        except OSError as error:
            self.unreachable(error)
            self.transport.abort()
        else:
            self._inner.transport.write(self._early)
            self._early = b""
            self.transport.resume_reading()

    def unreachable(self, error: OSError) -> None:
        """The gRPC server could not be reached; for a subclass to say so."""

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.transport.write(data)
            return
        # uvloop reads once more after it was told to pause in connection_made.
        self._early += data
        if len(self._early) > _MAX_EARLY:
            self.transport.abort()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._inner is not None:
            self._inner.end()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

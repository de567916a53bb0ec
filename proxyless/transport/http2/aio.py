"""One HTTP/2 client connection on an asyncio (or uvloop) event loop, and the streams that share it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterable, Callable
from typing import cast

from hpack import HeaderTuple

from proxyless.transport.http1.aio import SMALL_BODY, lost
from proxyless.transport.http1.errors import (
    ConnectionEnded,
    DeadlineExceeded,
    ReadTimedOut,
    RemoteProtocolError,
    WriteTimedOut,
)
from proxyless.transport.http1.framing import Framing
from proxyless.transport.http1.response import ResponseHead
from proxyless.transport.http2.session import Session
from proxyless.transport.http2.stream import DataFramer, Stream, checked

# Bytes that may wait for a peer that does not read: heads of many requests, and answers to its own frames.
_MOST_UNSENT = 8 * 1024 * 1024


class AsyncHttp2(asyncio.Protocol):
    """``claim`` a stream while there is ``room``. One loop's thread uses it.

    changed: told by whoever owns it (the pool) when there may be room again, or the connection is over.
    """

    __slots__ = (
        "__weakref__", "_closed", "_draining", "_flushing", "_ready", "_transport", "_write_paused", "_writers",
        "changed", "claimed", "generation", "idle_since", "loop", "made_at", "peer", "requests", "session",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, max_streams: int | None = None) -> None:
        self.loop = loop
        self.session = Session(time.monotonic, max_streams)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] | None = None
        self._closed = self._draining = self._flushing = self._write_paused = False
        self._writers: dict[AsyncStream, None] = {}
        self.changed: Callable[[AsyncHttp2], None] | None = None
        self.claimed = 0
        # The pool's notes.
        self.peer: str | None = None
        self.generation = self.requests = 0
        self.idle_since = self.made_at = 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    async def ready(self) -> None:
        """Speak first, until the server has said how many streams it takes; then it has shown that it speaks HTTP/2.

        Raises WireError.
        """
        self._flush()
        while not self.session.settled:
            if self.session.error is not None:
                raise self.session.error
            self._ready = self.loop.create_future()
            await self._ready

    @property
    def room(self) -> int:
        """How many more streams can be claimed now."""
        return self.session.limit - self.claimed if self.usable() else 0

    def claim(self) -> "AsyncStream":
        """A place for one request, held until the stream is closed. Only with ``room``."""
        self.claimed += 1
        self.requests += 1
        return AsyncStream(self)

    def usable(self) -> bool:
        """Whether further requests may be sent on it, when others have ended."""
        return not (self._closed or self._draining or self.session.draining)

    def drain(self) -> None:
        """No further claims; requests that have theirs go on, and with the last the connection ends."""
        self._draining = True
        if not self.claimed:
            self.close()

    def close(self) -> None:
        """Now; streams that are open fail."""
        if self._closed:
            return
        self._closed = True
        self.session.fail(ConnectionEnded("the connection was closed", clean=False))
        if self._transport is not None:
            self._transport.abort()
        self._tell()

    def fileno(self) -> int:
        """The socket's descriptor, -1 when it has none any more."""
        sock = cast(socket.socket | None, self.fact("socket"))
        return sock.fileno() if sock is not None else -1

    def fact(self, name: str) -> object:
        """asyncio's ``get_extra_info``."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    # The streams'

    @property
    def write_paused(self) -> bool:
        return self._write_paused

    def wait_to_write(self, stream: "AsyncStream") -> None:
        """``wake`` follows when the transport takes more."""
        self._writers[stream] = None

    def flush_soon(self) -> None:
        """Requests that begin in the same turn of the loop go out in one write."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_turn)

    def flush_now(self) -> None:
        """For back-pressure: whether the transport takes more shows only when it was given something."""
        self._flush()

    def left(self, stream: "AsyncStream") -> None:
        """A claimed stream is over."""
        self.claimed -= 1
        self._writers.pop(stream, None)
        if self._closed:
            return
        self.flush_soon()
        if not self.claimed:
            self.idle_since = time.monotonic()
            if self._draining or self.session.draining:
                # In a moment: a reset that says so to the server is still to be written.
                self.loop.call_soon(self._end_gently)
                return
        self._tell()

    def _end_gently(self) -> None:
        if self._closed or self.claimed:
            return
        self._closed = True
        self.session.fail(ConnectionEnded("the connection was closed", clean=True))
        if self._transport is not None:
            self._transport.close()
        self._tell()

    def _flush_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or self._closed:
            return
        if data := self.session.outgoing():
            transport.write(data)
            if self._write_paused and transport.get_write_buffer_size() > _MOST_UNSENT:
                self.session.fail(RemoteProtocolError("the server makes us say much and reads none of it"))
                self._abort()

    def _tell(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        if self.changed is not None:
            self.changed(self)

    def _abort(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
        self._tell()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        session = self.session
        limit, draining, settled = session.limit, session.draining, session.settled
        session.feed(data)
        self._flush()
        if session.error is not None:
            self._closed = True
            if self._transport is not None:
                self._transport.close()  # after the GOAWAY that says why
            self._tell()
        elif session.draining and not self.claimed:
            self._end_gently()
        elif session.limit > limit or session.draining != draining or session.settled != settled:
            self._tell()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._writers.clear()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        writers, self._writers = self._writers, {}
        for stream in writers:
            stream.wake()

    def _ended(self, exc: Exception | None) -> None:
        first, self._closed = not self._closed, True
        if exc is None:
            self.session.eof()
        else:
            # A certificate that was refused is told before anything was answered.
            self.session.fail(lost(exc, started=self.session.settled))
        if first:
            self._tell()


class AsyncStream(Stream):
    """To an attempt what ``http1.aio.AsyncConnection`` is: ``start``, ``read_head``, ``read_chunk`` until b"".

    ``close`` it in any case; what was not complete is reset then, and the connection goes on.
    """

    __slots__ = ("_held", "_sender", "_waiter", "_write_waiter", "connection", "sent_at")

    tunnel: None = None  # nothing is switched to

    def __init__(self, connection: AsyncHttp2) -> None:
        super().__init__()
        self.connection = connection
        self._held = True
        self._sender: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._write_waiter: asyncio.Future[bool] | None = None
        self.sent_at: float | None = None  # monotonic; None when ``start`` sent everything

    @property
    def reader(self) -> Stream:
        return self

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.connection.loop

    @property
    def peer(self) -> str | None:
        return self.connection.peer

    def fact(self, name: str) -> object:
        return self.connection.fact(name)

    def start(
        self,
        method: str,
        head: list[HeaderTuple],
        body: bytes | AsyncIterable[bytes],
        framing: Framing,
        *,
        write_timeout: float | None,
    ) -> None:
        """Send a request; all but a small body is sent by a task, whose exceptions the next read raises."""
        connection = self.connection
        session = connection.session
        session.open(self, method, head, complete=body == b"")
        connection.flush_soon()
        if self.request_done:
            return
        rest = body
        if isinstance(body, bytes) and len(body) <= SMALL_BODY:
            count = session.send(self, memoryview(body))
            self.request_bytes = count
            if count == len(body):
                session.end(self)
                return
            rest = body[count:]
            framing = Framing("", len(rest))
        self._sender = connection.loop.create_task(self._send_body(rest, DataFramer(framing), write_timeout))

    async def read_head(self, deadline: float | None, read_timeout: float | None) -> ResponseHead:
        """deadline: loop time. read_timeout: seconds without anything, once the request is sent. Raises WireError."""
        while self.head is None:
            await self._receive(deadline, read_timeout)
        return self.head

    async def read_chunk(self, deadline: float | None, read_timeout: float | None) -> bytes:
        """Some of the body; b"" once at its end."""
        while (data := self.ready_chunk()) is None:
            await self._receive(deadline, read_timeout)
        return data

    def ready_chunk(self) -> bytes | None:
        """``read_chunk`` without waiting: None when there is nothing yet."""
        if not self.buffered:
            return b"" if self.complete else None
        data = self.connection.session.take(self)
        self.connection.flush_soon()
        return data

    def finish(self) -> bool:
        """There is nothing to keep: the connection is the pool's all the while."""
        return False

    def close(self) -> None:
        """Ends this stream only."""
        if not self._held:
            return
        self._held = False
        if self._sender is not None:
            self._sender.cancel()
        self.connection.session.leave(self)
        self.gone = True
        self.connection.left(self)

    def wake(self) -> None:
        for waiter in (self._waiter, self._write_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_result(True)

    async def _receive(self, deadline: float | None, read_timeout: float | None) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)  # others may raise the same
        until, user = deadline, False
        # The application's read timeout starts when there is nothing left to write, as in httpx.
        if read_timeout is not None and self._sender is None:
            patience = self.loop.time() + read_timeout
            if until is None or patience < until:
                until, user = patience, True
        waiter = self._waiter = self.loop.create_future()
        timer = None if until is None else self.loop.call_at(until, _expire, waiter)
        try:
            arrived = await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if not arrived:
            if user:
                raise ReadTimedOut(f"the server sent nothing for {read_timeout:g} s")
            raise DeadlineExceeded("the time for this request ran out")

    async def _send_body(
        self, body: bytes | AsyncIterable[bytes], framer: DataFramer, write_timeout: float | None
    ) -> None:
        try:
            if isinstance(body, bytes):
                await self._write(framer, body, write_timeout)
            else:
                chunks = aiter(body)
                try:
                    async for chunk in chunks:
                        if not await self._write(framer, chunk, write_timeout):
                            return
                finally:
                    # Not left to the garbage collector: it may hold the application's resources.
                    if (finalise := getattr(chunks, "aclose", None)) is not None:
                        await finalise()
            if not (self.gone or self.request_done):
                framer.end()
                self.connection.session.end(self)
                self.sent_at = time.monotonic()
        except asyncio.CancelledError:
            self._fail(ConnectionEnded("the request was given up", clean=False))
            raise
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._sender = None
            if not self.gone:
                self.connection.flush_soon()
            self.wake()

    async def _write(self, framer: DataFramer, chunk: object, write_timeout: float | None) -> bool:
        """False when there is no more use in it."""
        connection = self.connection
        for piece in framer.frame(checked(chunk)):
            view = memoryview(piece)
            while view:
                if self.gone or self.request_done:
                    return False
                if not connection.write_paused:
                    count = connection.session.send(self, view)
                    connection.flush_now()
                    self.request_bytes += count
                    view = view[count:]
                    if not view:
                        break
                    if count:
                        continue  # a paused transport, a closed window: the next turn tells
                else:
                    connection.wait_to_write(self)
                await self._writable(write_timeout)
        return True

    async def _writable(self, write_timeout: float | None) -> None:
        waiter = self._write_waiter = self.loop.create_future()
        timer = None if write_timeout is None else self.loop.call_later(write_timeout, _expire, waiter)
        try:
            if not await waiter:
                raise WriteTimedOut(f"the server took nothing for {write_timeout:g} s")
        finally:
            self._write_waiter = None
            if timer is not None:
                timer.cancel()

    def _fail(self, error: BaseException) -> None:
        if self.error is None and not self.complete:
            self.error = error
        self.connection.session.leave(self)


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)

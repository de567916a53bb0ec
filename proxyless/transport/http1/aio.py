"""One HTTP/1.1 client connection on an asyncio (or uvloop) event loop."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterable
from typing import cast

from proxyless.transport.arrival import Arrival, Waiters
from proxyless.transport.http1.aio_tunnel import AsyncTunnel
from proxyless.transport.http1.errors import (
    ConnectionEnded,
    DeadlineExceeded,
    LocalProtocolError,
    PeerRefusedTls,
    ReadTimedOut,
    WireError,
    WriteTimedOut,
)
from proxyless.transport.http1.framing import CONTINUE_WAIT, BodyFramer, Framing
from proxyless.transport.http1.response import ResponseHead, ResponseReader

# Body bytes that may wait for the application before the server is made to wait.
_HIGH_WATER = 256 * 1024
# Up to this size a body goes out in the same write as its head, and nothing needs to watch over it.
SMALL_BODY = 64 * 1024


class AsyncConnection(asyncio.Protocol):
    """``start`` an exchange, ``read_head``, ``read_chunk`` until it returns b"".

    Only one task uses it at a time. After an exception, a cancellation included, all that is left to do is ``close``.
    """

    __slots__ = (
        "__weakref__", "_busy", "_closed", "_error", "_expecting", "_keep", "_read_paused", "_sender", "_timer",
        "_timer_at", "_transport", "_until", "_waiter", "_waiters", "_write_paused", "_write_waiter", "generation",
        "idle_since", "loop", "made_at", "peer", "reader", "request_bytes", "requests", "sent_at", "tunnel",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, waiters: Waiters) -> None:
        """waiters: of all connections of ``loop`` that take turns."""
        self.loop = loop
        self._waiters = waiters
        self.reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._busy = self._closed = self._expecting = self._keep = False
        self._read_paused = self._write_paused = False
        self._error: BaseException | None = None
        self._waiter: Arrival | None = None
        self._write_waiter: asyncio.Future[bool] | None = None
        self._until: float | None = None  # when the waiter's patience ends, loop time
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._sender: asyncio.Task[None] | None = None
        self.request_bytes = 0
        self.sent_at: float | None = None  # monotonic; None when ``start`` sent everything
        self.tunnel: AsyncTunnel | None = None  # once the server switched protocols
        # The pool's notes.
        self.peer: str | None = None
        self.generation = self.requests = 0
        self.idle_since = self.made_at = 0.0

    # The life of an exchange

    def start(
        self,
        method: str,
        head: bytes,
        body: bytes | AsyncIterable[bytes],
        framing: Framing,
        *,
        keep_alive: bool,
        write_timeout: float | None,
        upgrade: str = "",
        expect: bool = False,
    ) -> None:
        """Send a request. All but a small body is sent by a task: an early response is seen, and both can stream.

        upgrade: the protocols that the head offers. expect: the body waits for a 100, a moment.
        What goes wrong in that task, exceptions of the application's own iterator included, is raised by the next read.
        """
        transport = self._transport
        if transport is None or not self.usable():
            raise ConnectionEnded("the server closed the connection before the request", clean=True)
        self.reader.begin(method, upgrade)
        self._busy, self._keep = True, keep_alive
        self.requests += 1
        self.request_bytes = 0
        self.sent_at = None
        if isinstance(body, bytes) and len(body) <= SMALL_BODY and not expect:
            self.request_bytes = len(body)
            transport.write(head + body if body else head)
            return
        transport.write(head)
        self._expecting = expect
        self._sender = self.loop.create_task(self._send_body(transport, body, BodyFramer(framing), write_timeout))

    async def read_head(self, deadline: float | None, read_timeout: float | None) -> ResponseHead:
        """deadline: loop time. read_timeout: seconds without a byte, once the request is sent.

        Raises WireError, or what the application's body iterator raised.
        """
        reader = self.reader
        while reader.head is None:
            await self._receive(deadline, read_timeout)
        return reader.head

    async def read_chunk(self, deadline: float | None, read_timeout: float | None) -> bytes:
        """Some of the body; b"" once at its end."""
        while (data := self.ready_chunk()) is None:
            await self._receive(deadline, read_timeout)
        return data

    def ready_chunk(self) -> bytes | None:
        """``read_chunk`` without waiting: None when there is nothing yet."""
        reader = self.reader
        if not reader.buffered:
            return b"" if reader.complete else None
        data = reader.take()
        if self._read_paused:
            self._resume_reading()
        return data

    def finish(self) -> bool:
        """Nobody reads on. True if the response is complete and another exchange may follow; else ``close``."""
        if self._sender is not None or not self.reader.complete or not self.reader.keep_alive or not self._keep:
            return False
        if self._read_paused:
            self._resume_reading()
        self._busy = False
        return self.usable()

    def usable(self) -> bool:
        """No system call: the loop has told us whatever there is to know."""
        return not (self._closed or self._busy or self._error is not None)

    def close(self) -> None:
        """Now; what was not sent is lost, unless the application closed what it switched to: that says goodbye."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sender is not None:
            self._sender.cancel()
        if self._transport is not None and not (self.tunnel is not None and self._transport.is_closing()):
            self._transport.abort()

    def fact(self, name: str) -> object:
        """asyncio's ``get_extra_info``."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    def fileno(self) -> int:
        """The socket's descriptor, -1 when it has none any more."""
        sock = cast(socket.socket | None, self.fact("socket"))
        return sock.fileno() if sock is not None else -1

    async def _receive(self, deadline: float | None, read_timeout: float | None) -> None:
        if self._error is not None:
            raise self._error
        until, user = deadline, False
        # The application's read timeout starts when there is nothing left to write, as in httpx.
        if read_timeout is not None and self._sender is None:
            patience = self.loop.time() + read_timeout
            if until is None or patience < until:
                until, user = patience, True
        waiter = self._waiter = Arrival(self.loop)
        self._until = until
        if until is not None and (self._timer is None or until < self._timer_at):
            self._watch(until)
        self._waiters.count += 1
        try:
            arrived = await waiter
        finally:
            self._waiters.count -= 1
            self._waiter = None
        if not arrived:
            if user:
                raise ReadTimedOut(f"the server sent nothing for {read_timeout:g} s")
            raise DeadlineExceeded("the time for this request ran out")

    def _watch(self, until: float) -> None:
        """One timer that is set again when it went off too early: making and cancelling one for each answer costs more
        than reading it.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self.loop.call_at(until, self._look), until

    def _look(self) -> None:
        self._timer = None
        waiter, until = self._waiter, self._until
        if waiter is None or until is None:
            return
        if self._timer_at >= until:
            waiter.soon(False)
        else:
            self._watch(until)

    async def _send_body(
        self,
        transport: asyncio.Transport,
        body: bytes | AsyncIterable[bytes],
        framer: BodyFramer,
        write_timeout: float | None,
    ) -> None:
        try:
            if self._expecting and not await self._continued():
                self._keep = False  # the head announced a body that never comes
                return
            if isinstance(body, bytes):
                if not await self._write(transport, framer, body, write_timeout):
                    return
            else:
                chunks = aiter(body)
                try:
                    async for chunk in chunks:
                        if not await self._write(transport, framer, chunk, write_timeout):
                            return
                finally:
                    # Not left to the garbage collector: it may hold the application's resources.
                    if (finalise := getattr(chunks, "aclose", None)) is not None:
                        await finalise()
            if not self._closed:
                transport.write(framer.end())
                self.sent_at = time.monotonic()
        except asyncio.CancelledError as error:
            sender, self._sender = self._sender, None
            if sender is not None and not sender.cancelling():
                self._fail(error)  # the application's own: what its body waited for was cancelled
                return
            self._fail(ConnectionEnded("the request was given up", clean=False))
            raise
        except BaseException as error:
            self._sender = None
            self._fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._sender = None
            self._wake()

    async def _continued(self) -> bool:
        """Wait for a 100, or a moment: not every server says it. False when the server has answered instead."""
        reader = self.reader
        if reader.head is None and not reader.continued and not self._closed:
            waiter = self._write_waiter = self.loop.create_future()
            timer = self.loop.call_later(CONTINUE_WAIT, _expire, waiter)
            try:
                await waiter
            finally:
                self._write_waiter = None
                timer.cancel()
        self._expecting = False
        return reader.head is None and not self._closed

    async def _write(
        self, transport: asyncio.Transport, framer: BodyFramer, chunk: bytes, write_timeout: float | None
    ) -> bool:
        """False when there is no more use in it: the connection or the response has ended."""
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise LocalProtocolError(f"a request body is made of bytes, not {type(chunk).__name__}")
        for piece in framer.frame(bytes(chunk)):
            if self._closed or self.reader.complete:
                return False
            transport.write(piece)
            self.request_bytes = framer.total
            if self._write_paused:
                waiter = self._write_waiter = self.loop.create_future()
                timer = None if write_timeout is None else self.loop.call_later(write_timeout, _expire, waiter)
                try:
                    if not await waiter:
                        raise WriteTimedOut(f"the server took nothing for {write_timeout:g} s")
                finally:
                    self._write_waiter = None
                    if timer is not None:
                        timer.cancel()
        return True

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self.close()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.soon(True)

    def _wake_writer(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(True)

    def _switch(self, leading: bytes) -> None:
        """HTTP has ended here; the rest of the connection's life is the tunnel's."""
        if self._transport is None:
            return
        self.tunnel = AsyncTunnel(self.loop, self._transport, leading, self._write_paused)
        self._transport.set_protocol(self.tunnel)

    def _resume_reading(self) -> None:
        self._read_paused = False
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if not self._busy or reader.complete:
            # Nobody asked: a response that nobody waits for must never meet the next request.
            reader.keep_alive = False
            self.close()
            self._wake()
            return
        try:
            reader.feed(data)
        except WireError as error:
            self._fail(error)
            return
        if reader.switched:
            self._switch(reader.trailing)
        elif self._expecting and (reader.continued or reader.head is not None):
            self._wake_writer()
        if reader.buffered > _HIGH_WATER and not self._read_paused and not reader.complete:
            self._read_paused = True
            if self._transport is not None:
                self._transport.pause_reading()
        if self._waiter is not None:
            if self._waiters.count == 1:
                self._waiter.now()  # last of all: the task goes on within this call
            else:
                self._waiter.soon(True)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._wake_writer()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake_writer()

    def _ended(self, exc: Exception | None) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.reader.keep_alive = False
        if self._error is None and not self.reader.complete:
            try:
                if exc is None:
                    self.reader.eof()
                else:
                    raise lost(exc, started=self.reader.started)
            except ConnectionEnded as error:
                self._error = error
        self._wake()


def lost(exc: Exception, *, started: bool) -> ConnectionEnded:
    """What an exception of the socket means for the exchange."""
    reason = (exc.reason or "") if isinstance(exc, ssl.SSLError) else ""
    # The alerts that refuse a client's certificate: in TLS 1.3 they arrive when the client's handshake is over.
    if (
        not started
        and "ALERT" in reason
        and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))
    ):
        return PeerRefusedTls(f"the peer refused our certificate ({reason.lower().replace('_', ' ')})", clean=False)
    what = reason or getattr(exc, "strerror", None) or type(exc).__name__
    return ConnectionEnded(f"the connection was lost: {what}", clean=False)


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)

"""One HTTP/1.1 client connection for a thread that waits. Waiting is ``poll``, never the socket, so it has an end."""

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterable

from proxyless.transport.http1.aio import lost
from proxyless.transport.http1.blocking_tunnel import BlockingTunnel
from proxyless.transport.http1.errors import (
    ConnectionEnded,
    DeadlineExceeded,
    LocalProtocolError,
    ReadTimedOut,
    WireError,
    WriteTimedOut,
)
from proxyless.transport.http1.framing import CONTINUE_WAIT, BodyFramer, Framing
from proxyless.transport.http1.response import ResponseHead, ResponseReader
from proxyless.transport.patience import milliseconds

_READ_SIZE = 64 * 1024
# What is read of an early response while the request body is still being sent; after that the server must wait.
_EARLY_RESPONSE = 1024 * 1024
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class BlockingConnection:
    """The same life as ``aio.AsyncConnection``, without a loop. Times are ``time.monotonic`` seconds.

    One thread uses it at a time. After an exception the only thing left to do is ``close``.
    """

    __slots__ = (
        "__weakref__", "_broken", "_busy", "_early", "_error", "_keep", "_poll", "_sock", "generation", "idle_since",
        "made_at", "peer", "reader", "request_bytes", "requests", "sent", "tunnel",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.reader = ResponseReader()
        self._busy = self._broken = self._early = self._keep = False
        self._error: WireError | None = None
        self.sent = False
        self.request_bytes = 0
        self.tunnel: BlockingTunnel | None = None  # once the server switched protocols
        # The pool's notes.
        self.peer: str | None = None
        self.generation = self.requests = 0
        self.idle_since = self.made_at = 0.0

    def start(
        self,
        method: str,
        head: bytes,
        body: bytes | Iterable[bytes],
        framing: Framing,
        *,
        keep_alive: bool,
        write_timeout: float | None,
        deadline: float | None,
        upgrade: str = "",
        expect: bool = False,
    ) -> None:
        """Send a request. Returns before the body ends if the server refuses or completes its response meanwhile.

        upgrade: the protocols that the head offers. expect: the body waits for a 100, a moment.
        Raises WireError, or what the application's body iterator raised. ``sent``: some of it reached the socket.
        """
        self.reader.begin(method, upgrade)
        self._busy, self._keep, self._early, self.sent = True, keep_alive, False, False
        self.requests += 1
        self.request_bytes = 0
        framer = BodyFramer(framing)
        if isinstance(body, bytes) and len(body) <= _READ_SIZE and not expect:
            self.request_bytes = len(body)
            self._send(head + body if body else head, write_timeout, deadline)
            return
        if not self._send(head, write_timeout, deadline):
            return
        if expect and not self._continued(deadline):
            self._keep = False  # the head announced a body that never comes
            return
        chunks = iter((body,) if isinstance(body, bytes) else body)
        try:
            for chunk in chunks:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise LocalProtocolError(f"a request body is made of bytes, not {type(chunk).__name__}")
                for piece in framer.frame(bytes(chunk)):
                    if not self._send(piece, write_timeout, deadline):
                        return
                    self.request_bytes = framer.total
        finally:
            if (finalise := getattr(chunks, "close", None)) is not None:
                finalise()
        self._send(framer.end(), write_timeout, deadline)

    def read_head(self, deadline: float | None, read_timeout: float | None) -> ResponseHead:
        """Raises WireError."""
        reader = self.reader
        while reader.head is None:
            self._receive(deadline, read_timeout)
        if reader.switched and self.tunnel is None:
            self.tunnel = BlockingTunnel(self._sock, reader.trailing)
        return reader.head

    def read_chunk(self, deadline: float | None, read_timeout: float | None) -> bytes:
        """Some of the body; b"" once at its end."""
        reader = self.reader
        while not reader.buffered:
            if reader.complete:
                return b""
            self._receive(deadline, read_timeout)
        return reader.take()

    def finish(self) -> bool:
        """Nobody reads on. True if the response is complete and another exchange may follow; else ``close``."""
        try:
            while not self.reader.complete and self.reader.buffered < _READ_SIZE and self._read_once():
                pass  # what is here already of a small response that nobody wants
        except WireError:
            return False
        self._busy = False
        reader = self.reader
        return reader.complete and reader.keep_alive and self._keep and not (self._early or self._broken or self._error)

    def usable(self) -> bool:
        """One system call. What arrives while idle, an end or bytes that nobody asked for, ends a connection."""
        if self._broken or self._busy:
            return False
        if not self._poll.poll(0):
            return True
        if isinstance(self._sock, ssl.SSLSocket):
            # Not so under TLS 1.3, where a server may send session tickets at any time.
            with contextlib.suppress(OSError):
                self._sock.recv(1)
                return False
            return not self._poll.poll(0)
        return False

    def close(self) -> None:
        self._broken = True
        if self.tunnel is not None:
            self.tunnel.close()
        self._sock.close()

    def abandon(self) -> None:
        """From any thread, while another waits on this connection: it hears of an end, and closes."""
        with contextlib.suppress(OSError):
            # Not a TLS socket's own, which would take its state from under the other thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    def _send(self, data: bytes, write_timeout: float | None, deadline: float | None) -> bool:
        """False when there is no more use in sending: the server has answered."""
        if self._early:
            return False
        view = memoryview(data)
        while view:
            try:
                count = self._sock.send(view)
            except (*_WOULD_BLOCK, ssl.SSLWantWriteError):
                self._wait_to_send(write_timeout, deadline)
            except OSError as error:
                # The server may have said why before it closed.
                with contextlib.suppress(ConnectionEnded):
                    self._read_early()
                self._broken = True
                if self.reader.head is None:
                    raise lost(error, started=self.reader.started) from None
                self._early = True
            else:
                self.sent = True
                view = view[count:]
                continue
            if self._early:
                return False
        return True

    def _continued(self, deadline: float | None) -> bool:
        """Wait for a 100, or a moment: not every server says it. False when the server has answered instead."""
        reader, until = self.reader, time.monotonic() + CONTINUE_WAIT
        while reader.head is None and not reader.continued:
            if self._read_once():
                continue
            left = until - time.monotonic()
            if left <= 0 or self._wait(deadline, left) is not None:
                break
        return reader.head is None

    def _wait_to_send(self, write_timeout: float | None, deadline: float | None) -> None:
        wanted = select.POLLOUT
        if self.reader.buffered < _EARLY_RESPONSE and not self._broken:
            wanted |= select.POLLIN
        self._poll.modify(self._sock, wanted)
        try:
            user = self._wait(deadline, write_timeout)
        finally:
            self._poll.modify(self._sock, select.POLLIN)
        if user is not None:
            raise WriteTimedOut(f"the server took nothing for {user:g} s")
        self._read_early()

    def _read_early(self) -> None:
        """Take what the server says while we send. A refusal, or a complete response, ends the sending."""
        try:
            while not self.reader.complete and self.reader.buffered < _EARLY_RESPONSE and self._read_once():
                pass
        except ConnectionEnded:
            if self.reader.head is None:
                raise
        head = self.reader.head
        self._early = self.reader.complete or (head is not None and head.status >= 400)

    def _receive(self, deadline: float | None, read_timeout: float | None) -> None:
        while not self._read_once():
            user = self._wait(deadline, read_timeout)
            if user is not None:
                raise ReadTimedOut(f"the server sent nothing for {user:g} s")

    def _read_once(self) -> bool:
        """Feed what the socket has; False when it has nothing now. Raises WireError at a bad end."""
        if self._error is not None:
            raise self._error
        try:
            data = self._sock.recv(_READ_SIZE)
        except _WOULD_BLOCK:
            return False
        except ssl.SSLWantWriteError:
            return False
        except ssl.SSLZeroReturnError:
            data = b""
        except OSError as error:
            self._broken = True
            raise lost(error, started=self.reader.started) from None
        if not data:
            self._broken = True
            self.reader.eof()
            return True
        try:
            self.reader.feed(data)
        except WireError as error:
            self._error = error
            # A head that came whole counts, whatever came with it: the outcome must not depend on packets.
            if self.reader.head is None:
                raise
        return True

    def _wait(self, deadline: float | None, timeout: float | None) -> float | None:
        """Until the socket is ready. Returns the application's timeout if that ran out, raises if the deadline did."""
        seconds, user = timeout, timeout is not None
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded("the time for this request ran out")
            if seconds is None or left < seconds:
                seconds, user = left, False
        if self._poll.poll(milliseconds(seconds)):
            return None
        if user:
            return timeout
        raise DeadlineExceeded("the time for this request ran out")

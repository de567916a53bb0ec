"""One HTTP/2 client connection for threads that wait, and the streams that share it.

No thread of its own: of those that wait for something, one reads for all, and hands that on when it has what it wants.
"""

import contextlib
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable

from hpack import HeaderTuple

from proxyless.transport.http1.aio import lost
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

_READ_SIZE = 64 * 1024
_WANT = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# Above this senders wait. Below it what the socket does not take now goes out with whatever comes next.
_UNSENT = 64 * 1024
_MOST_UNSENT = 8 * 1024 * 1024


class BlockingHttp2:
    """``claim`` a stream while there is ``room``. Thread-safe.

    lock: of everything in it and in its streams; held for a moment, never while a thread waits. changed: told, without
    the lock, when there may be room again, or the connection is over.
    """

    __slots__ = (
        "__weakref__", "_closed", "_draining", "_reading", "_unsent", "_waiting", "changed", "claimed",
        "generation", "idle_since", "lock", "made_at", "peer", "requests", "session", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, max_streams: int | None = None) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.session = Session(time.monotonic, max_streams)
        self.lock = threading.Lock()
        self._closed = self._draining = False
        self._reading = 0  # threads in ``poll``
        self._unsent = bytearray()
        self._waiting: dict[BlockingStream, None] = {}
        self.changed: Callable[[BlockingHttp2], None] | None = None
        self.claimed = 0
        # The pool's notes.
        self.peer: str | None = None
        self.generation = self.requests = 0
        self.idle_since = self.made_at = 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    def ready(self, until: float) -> None:
        """Until the server has said how many streams it takes; it has shown then that it speaks HTTP/2, too.

        Raises WireError, or TimeoutError.
        """
        with self.lock:
            self.flush()
            while not self.session.settled:
                if self.session.error is not None:
                    raise self.session.error
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if not self._read():
                    self._poll(left)

    @property
    def room(self) -> int:
        """How many more streams can be claimed now."""
        return self.session.limit - self.claimed if self.usable() else 0

    def claim(self) -> "BlockingStream":
        """A place for one request, held until the stream is closed. Only with ``room``, and by one thread at a time."""
        with self.lock:
            self.claimed += 1
        self.requests += 1
        return BlockingStream(self)

    def usable(self) -> bool:
        """Whether further requests may be sent on it, when others have ended. Hears what came while nobody listened."""
        if not self.claimed and not (self._closed or self._draining or self.session.draining):
            with self.lock:
                if not self._reading:
                    self._read()
        return not (self._closed or self._draining or self.session.draining)

    def drain(self) -> None:
        """No further claims; requests that have theirs go on, and with the last the connection ends."""
        self._draining = True
        if not self.claimed:
            self.close()

    def close(self) -> None:
        """Now; streams that are open fail."""
        with self.lock:
            self._end()
        self._tell()

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self.sock.fileno()

    # The streams'. With the lock.

    def flush(self) -> None:
        """Write what there is, as far as the socket takes it."""
        self._unsent += self.session.outgoing()
        while self._unsent and not self._closed:
            try:
                count = self.sock.send(self._unsent)
            except _WANT:
                if len(self._unsent) > _MOST_UNSENT:
                    self.session.fail(RemoteProtocolError("the server makes us say much and reads none of it"))
                    self._end()
                return
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.session.feed(self.sock.recv(_READ_SIZE))  # the server may have said why
                self.session.fail(lost(error, started=self.session.settled))
                self._end()
                return
            del self._unsent[:count]

    @property
    def clogged(self) -> bool:
        return len(self._unsent) > _UNSENT

    def wait(self, stream: "BlockingStream", until: float | None) -> bool:
        """Until something happened to the stream, False when the time (monotonic) came first. May return early."""
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return False
        # A thread that polls for others does not know that there is something to write: who must write polls, too.
        if self._reading and not self.clogged:
            self._waiting[stream] = None
            try:
                return stream.woken.wait(left)
            finally:
                self._waiting.pop(stream, None)
                self._hand_on()
        self._reading += 1
        try:
            return self._read() or self._poll(left)
        finally:
            self._reading -= 1
            if self._closed and not self._reading:
                self.sock.close()
            self._hand_on()

    def _poll(self, left: float | None) -> bool:
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        poll = select.poll()
        poll.register(self.sock, wanted)
        self.lock.release()
        try:
            ready = poll.poll(None if left is None else math.ceil(left * 1000))
        finally:
            self.lock.acquire()
        if not ready:
            return False
        if self._unsent:
            self.flush()
        self._read()
        return True

    def _hand_on(self) -> None:
        if not self._reading:
            for stream in self._waiting:
                stream.woken.notify()
                return

    def _read(self) -> bool:
        """Feed what the socket has; False when it has nothing now."""
        if self._closed:
            return True
        session = self.session
        try:
            data = self.sock.recv(_READ_SIZE)
        except _WANT:
            return False
        except ssl.SSLZeroReturnError:
            data = b""
        except OSError as error:
            session.fail(lost(error, started=session.settled))
            self._end()
            return True
        if data:
            session.feed(data)
            self.flush()
        else:
            session.eof()
        if session.error is not None:
            self._end()
        return True

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.session.fail(ConnectionEnded("the connection was closed", clean=False))
        # First so that a thread in ``poll`` hears of it: the number must not mean another file to it.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if not self._reading:
            self.sock.close()

    def left(self) -> None:
        """A claimed stream is over. Without the lock."""
        with self.lock:
            self.claimed -= 1
            self.flush()
            if not self.claimed:
                self.idle_since = time.monotonic()
                if self._draining or self.session.draining:
                    self._end()
            if self._closed and not self._reading:
                self.sock.close()
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed(self)


class BlockingStream(Stream):
    """To an attempt what ``http1.blocking.BlockingConnection`` is: ``start``, ``read_head``, ``read_chunk`` until b"".

    One thread uses it. ``close`` it in any case; what was not complete is reset then, and the connection goes on.
    """

    __slots__ = ("_events", "_held", "connection", "sent", "woken")

    tunnel: None = None  # nothing is switched to

    def __init__(self, connection: BlockingHttp2) -> None:
        super().__init__()
        self.connection = connection
        self._held = True
        self._events = 0
        self.sent = False
        self.woken = threading.Condition(connection.lock)

    @property
    def reader(self) -> Stream:
        return self

    @property
    def peer(self) -> str | None:
        return self.connection.peer

    @property
    def sock(self) -> socket.socket:
        return self.connection.sock

    def start(
        self,
        method: str,
        head: list[HeaderTuple],
        body: bytes | Iterable[bytes],
        framing: Framing,
        *,
        write_timeout: float | None,
        deadline: float | None,
    ) -> None:
        """Send a request. Returns before the body ends if the server refuses or completes its response meanwhile.

        Raises WireError, or what the application's body iterator raised. ``sent``: some of it reached the connection.
        """
        connection = self.connection
        with connection.lock:
            connection.session.open(self, method, head, complete=body == b"")
            self.sent = True
            if not isinstance(body, bytes):
                connection.flush()
        if self.request_done:
            self._flush()
            return
        framer = DataFramer(framing)
        chunks = iter((body,) if isinstance(body, bytes) else body)
        try:
            for chunk in chunks:
                for piece in framer.frame(checked(chunk)):
                    if not self._send(memoryview(piece), write_timeout, deadline):
                        return
        finally:
            if (finalise := getattr(chunks, "close", None)) is not None:
                finalise()
        framer.end()
        with connection.lock:
            connection.session.end(self)
        self._flush()

    def read_head(self, deadline: float | None, read_timeout: float | None) -> ResponseHead:
        """Raises WireError."""
        with self.connection.lock:
            while self.head is None:
                self._receive(deadline, read_timeout)
            return self.head

    def read_chunk(self, deadline: float | None, read_timeout: float | None) -> bytes:
        """Some of the body; b"" once at its end."""
        connection = self.connection
        with connection.lock:
            while not self.buffered:
                if self.complete:
                    return b""
                self._receive(deadline, read_timeout)
            data = connection.session.take(self)
            connection.flush()
            return data

    def finish(self) -> bool:
        """There is nothing to keep: the connection is the pool's all the while."""
        return False

    def close(self) -> None:
        """Ends this stream only."""
        if not self._held:
            return
        self._held = False
        with self.connection.lock:
            self.connection.session.leave(self)
            self.gone = True
        self.connection.left()

    def abandon(self) -> None:
        """From any thread, while another waits for this stream: it is reset, and the other hears of an end."""
        with self.connection.lock:
            self.error = self.error or ConnectionEnded("nobody wants the response", clean=False)
            self.wake()
        self.close()

    def wake(self) -> None:
        self._events += 1
        self.woken.notify()

    def _flush(self) -> None:
        with self.connection.lock:
            self.connection.flush()

    def _send(self, view: memoryview, write_timeout: float | None, deadline: float | None) -> bool:
        """False when there is no more use in sending: the server has answered."""
        connection = self.connection
        with connection.lock:
            while view:
                if self.error is not None:
                    raise self.error.with_traceback(None)
                if self.gone or self.request_done or self.complete or (self.head and self.head.status >= 400):
                    return False
                if not connection.clogged:
                    count = connection.session.send(self, view)
                    connection.flush()
                    self.request_bytes += count
                    view = view[count:]
                    if count:
                        continue
                if not self._wait(deadline, write_timeout):
                    raise WriteTimedOut(f"the server took nothing for {write_timeout:g} s")
        return True

    def _receive(self, deadline: float | None, read_timeout: float | None) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)
        if not self._wait(deadline, read_timeout):
            raise ReadTimedOut(f"the server sent nothing for {read_timeout:g} s")

    def _wait(self, deadline: float | None, timeout: float | None) -> bool:
        """False when the application's timeout came first; raises DeadlineExceeded when the deadline did."""
        until, user = deadline, False
        if timeout is not None:
            patience = time.monotonic() + timeout
            if until is None or patience < until:
                until, user = patience, True
        connection, seen, clogged = self.connection, self._events, self.connection.clogged
        while self._events == seen and (not clogged or connection.clogged):
            if not connection.wait(self, until):
                if user:
                    return False
                raise DeadlineExceeded("the time for this request ran out")
        return True

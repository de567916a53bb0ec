"""TLS straight on a socket, for connections of an event loop.

asyncio and uvloop put TLS between two buffers in memory, which OpenSSL and then the loop copy, and read until OpenSSL
says with an exception that there is no more. For the small messages of most calls that costs more than encrypting them.
Here OpenSSL has the socket: a message that fits one TLS record is read by one call, and written by one.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from proxyless.transport.tls import PLAIN_END

# What a TLS record holds at most (RFC 8446 section 5.1), and what is read in one turn of the loop at most.
_RECORD = 16 * 1024
_TURN = 256 * 1024
# asyncio's own mark for what may wait to be written.
_HIGH_WATER = 64 * 1024
# Seconds that a connection which says goodbye waits for its peer's: closing a socket that has unread bytes resets it,
# and the peer may lose what was sent last. A client that keeps its pooled connection unread never answers.
_LINGER = 0.5
# Seconds in which the peer of a closed connection must take something of what still waits to be sent. As asyncio's
# ssl_shutdown_timeout, but a peer that is only slow gets everything (Envoy's delayed_close_timeout restarts the same).
_PATIENCE = 30.0
# Not errors: OpenSSL could not go on without the other direction, or there was nothing after all.
_LATER = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)


class TlsTransport(asyncio.Transport):
    """An established connection. What asyncio says of transports and protocols holds; TLS knows no half-close."""

    __slots__ = (
        "_backlog", "_closing", "_deliver", "_descriptor", "_ended", "_eof", "_high", "_linger", "_loop", "_low",
        "_patience", "_paused", "_protocol", "_reading", "_recv", "_secured", "_send", "_unsent", "_watching",
    )  # fmt: skip

    # ``loop.start_tls`` puts TLS within this one.
    _start_tls_compatible = True

    def __init__(self, loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        facts = {"socket": TransportSocket(secured), "ssl_object": secured, "sslcontext": context}
        with contextlib.suppress(OSError):  # reset meanwhile
            facts |= {"sockname": secured.getsockname(), "peername": secured.getpeername()}
        super().__init__(facts | {"cipher": secured.cipher(), "peercert": secured.getpeercert()})
        self._loop = loop
        self._secured = secured
        self._descriptor = secured.fileno()
        # Where ``recv`` and ``send`` of Python's socket lead to, by five and two further calls for each message.
        inner = getattr(secured, "_sslobj", None) if PLAIN_END else None
        self._recv: Callable[[int], bytes] = secured.recv if inner is None else inner.read
        self._send: Callable[[bytes | bytearray | memoryview], int] = secured.send if inner is None else inner.write
        self._backlog: deque[memoryview] = deque()
        self._unsent = 0
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._paused = False  # the protocol's writing
        self._reading = self._watching = False  # the descriptor's two events
        self._closing = self._ended = False
        self._eof = False  # OpenSSL has said that there is no more, and nobody was told
        self._linger: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    def begin(self, protocol: asyncio.Protocol) -> None:
        self.set_protocol(protocol)
        self.resume_reading()  # first: ``connection_made`` may pause it
        try:
            protocol.connection_made(self)
        except BaseException:
            self.abort()  # the loop may watch the descriptor already
            raise

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._deliver: Callable[[bytes], None] = (
            partial(_copy, protocol)
            if isinstance(protocol, asyncio.BufferedProtocol)
            else cast(asyncio.Protocol, protocol).data_received
        )

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    # Reading

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._readable)
            if self._eof:
                self._loop.call_soon(self._again)

    def _readable(self) -> None:
        error: OSError | None = None
        try:
            data = self._recv(_RECORD)
            # Less than a full record is mostly all there is; if not, the loop says so at once.
            if len(data) == _RECORD:
                data, error = self._more(data)
        except ssl.SSLWantWriteError:
            self._watch()
            return
        except _LATER:
            if self._backlog and not self._watching:
                self._flush()  # it may have waited for a message of TLS itself
            return
        except OSError as failure:
            self._end(failure)
            return
        try:
            if data:
                self._deliver(data)
            else:
                cast(asyncio.Protocol, self._protocol).eof_received()
                self.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as bug:
            self._report(bug, "a protocol failed at what it received")
            self._end(bug)
        if error is not None:
            self._end(error)
        elif self._backlog and not self._watching:
            self._flush()  # it waited for something to read

    def _more(self, first: bytes) -> tuple[bytes, OSError | None]:
        """What has come after a full record, and the failure that ended it."""
        pieces, size = [first], len(first)
        try:
            while size < _TURN:
                piece = self._recv(_RECORD)
                if not piece:
                    # OpenSSL says so again when asked; the descriptor, whose peer waits for our goodbye, does not.
                    self._eof = True
                    self._loop.call_soon(self._again)
                    break
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLWantWriteError:
            self._watch()
        except _LATER:
            pass
        except OSError as error:
            return b"".join(pieces), error
        return b"".join(pieces), None

    def _again(self) -> None:
        if self._reading and not self._closing:
            self._readable()

    # Writing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and low at least 0")
        self._high, self._low = high, low
        self._pause_if_full()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """At once, as far as the socket takes it; the rest when it can. Nothing once the connection is closed."""
        if self._closing or not data:
            return
        sent = 0
        if not self._backlog:
            try:
                sent = self._send(data)
            except _LATER:
                pass
            except OSError as error:
                self._end(self._reason(error))
                return
            if sent == len(data):
                return
        # What its owner may change is copied.
        rest = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)))[sent:]
        self._backlog.append(rest)
        self._unsent += len(rest)
        if len(self._backlog) == 1:
            self._flush()
        self._pause_if_full()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        backlog = self._backlog
        try:
            while backlog:
                sent = self._send(backlog[0])
                self._unsent -= sent
                # OpenSSL wants to be asked again with what it was asked to write, or with more.
                if sent == len(backlog[0]):
                    backlog.popleft()
                else:
                    backlog[0] = backlog[0][sent:]
        except ssl.SSLWantWriteError:
            self._watch()
        except _LATER:
            pass
        except OSError as error:
            self._end(self._reason(error))
            return
        if self._paused and self._unsent <= self._low:
            self._paused = False
            self._tell(self._protocol.resume_writing)
        if self._closing and not backlog:
            self._say_goodbye()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._descriptor, self._writable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._descriptor)

    def _writable(self) -> None:
        self._unwatch()
        if self._reading:
            self._readable()  # it may have waited for room to write
        if not self._ended:
            self._flush()

    def _pause_if_full(self) -> None:
        if not self._paused and self._unsent > self._high:
            self._paused = True
            self._tell(self._protocol.pause_writing)

    def _tell(self, news: Callable[[], None]) -> None:
        """A protocol that fails at it hurts neither who writes nor what is left to write, as in asyncio."""
        try:
            news()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as bug:
            self._report(bug, "a protocol failed at being paused or resumed")

    def _reason(self, error: OSError) -> OSError:
        """Why nothing can be written: a peer that refuses a certificate says so before it resets the connection."""
        try:
            while self._recv(_RECORD):
                pass
        except _LATER:
            pass
        except ssl.SSLError as alert:
            return alert
        except OSError:
            pass
        return error

    def _report(self, bug: BaseException, message: str) -> None:
        told = {"exception": bug, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler({"message": message, **told})

    # The end

    def close(self) -> None:
        """Once everything is written: says goodbye, and waits a moment for the peer's."""
        if not self._closing:
            self._closing = True
            self.pause_reading()
            if self._backlog:
                self._be_patient()
            else:
                self._say_goodbye()

    def abort(self) -> None:
        """Now."""
        self._end(None)

    def _force_close(self, exc: BaseException | None) -> None:
        """What asyncio's TLS within this one calls."""
        self._end(exc)

    def _say_goodbye(self) -> None:
        if self._ended or self._linger is not None:
            return
        try:
            self._secured.unwrap()
        except ssl.SSLWantWriteError:
            self._watch()
            self._be_patient()
            return
        except ssl.SSLWantReadError:
            answered = False
        except (OSError, ValueError):  # there are unread bytes, or it is gone
            answered = False
        else:
            answered = True
        self._unwatch()  # nothing may use TLS below here: the socket would send and receive plaintext
        try:
            self._secured.shutdown(socket.SHUT_WR)
        except OSError:
            answered = True  # nobody is there any more
        if answered:
            self._end(None)
        else:
            self._linger = self._loop.call_later(_LINGER, self._end, None)
            self._loop.add_reader(self._descriptor, self._discard)
            self._reading = True

    def _be_patient(self) -> None:
        if self._patience is None:
            self._patience = self._loop.call_later(_PATIENCE, self._lose_patience, self._unsent)

    def _lose_patience(self, unsent: int) -> None:
        self._patience = None
        if self._unsent < unsent:
            self._be_patient()
        elif self._linger is None:
            self._end(TimeoutError("the peer takes nothing of what was sent before the connection was closed"))

    def _discard(self) -> None:
        try:
            # Below TLS, which has ended here.
            if self._secured.recv(_TURN):
                return
        except _LATER:
            return
        except OSError:
            pass
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._ended:
            return
        if isinstance(error, ssl.SSLEOFError):
            # Until 3.12 Python forgets what the system said.
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._ended = self._closing = True
        self.pause_reading()
        self._unwatch()
        for timer in (self._linger, self._patience):
            if timer is not None:
                timer.cancel()
        self._backlog.clear()
        self._unsent = 0
        if self._loop.is_closed():
            self._release()  # there is nobody to tell
        else:
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(cast(Exception | None, error))
        finally:
            self._release()

    def _release(self) -> None:
        # Nothing of OpenSSL's may outlive the descriptor: it would use whatever has the number next, and its buffers
        # would stay until the garbage collector finds that transport and protocol know only each other.
        self._recv, self._send = self._secured.recv, self._secured.send
        self._secured.close()


def _copy(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    view = memoryview(data)
    while view:
        buffer = memoryview(protocol.get_buffer(len(view))).cast("B")
        if not buffer:
            raise RuntimeError("get_buffer() returned an empty buffer")
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        protocol.buffer_updated(size)
        view = view[size:]

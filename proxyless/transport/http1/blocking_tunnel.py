"""What a connection is once it no longer speaks HTTP: bytes both ways, for threads that wait."""

import contextlib
import select
import socket
import ssl
import threading
import time

from proxyless.transport.http1.errors import ConnectFailed, ConnectionEnded, ReadTimedOut, WriteTimedOut
from proxyless.transport.patience import milliseconds

_RETRY_READ = (BlockingIOError, InterruptedError, ssl.SSLWantReadError)


class BlockingTunnel:
    """One thread may ``read`` while another writes. Raises WireError; ``read`` gives b"" at the peer's end."""

    def __init__(self, sock: socket.socket, leading: bytes) -> None:
        """sock: does not block. leading: what the peer sent already."""
        self._sock = sock
        self._leading = leading
        self._closed = False
        # OpenSSL's connection must not be read and written at once. Nobody waits while holding this.
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # one whole buffer at a time

    def read(self, limit: int, within: float | None) -> bytes:
        """What has arrived, at most ``limit`` bytes."""
        if self._leading:
            data, self._leading = self._leading[:limit], self._leading[limit:]
            return data
        until = None if within is None else time.monotonic() + within
        while True:
            wanted = select.POLLIN
            try:
                with self._lock:
                    self._check()
                    return self._sock.recv(limit)
            except _RETRY_READ:
                pass
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""
            except OSError as error:
                raise ConnectionEnded(f"the connection was lost: {error.strerror or error}", clean=False) from None
            if not self._wait(wanted, until):
                raise ReadTimedOut(f"the server sent nothing for {within:g} s")

    def write(self, data: bytes, within: float | None) -> None:
        """Returns when the system has taken all of it. within: seconds, for each piece that it takes."""
        view = memoryview(data)
        with self._writing:
            while view:
                wanted = select.POLLOUT
                try:
                    with self._lock:
                        self._check()
                        view = view[self._sock.send(view) :]
                    continue
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                    pass
                except OSError as error:
                    raise ConnectionEnded(f"the connection was lost: {error.strerror or error}", clean=False) from None
                if not self._wait(wanted, None if within is None else time.monotonic() + within):
                    raise WriteTimedOut(f"the server took nothing for {within:g} s")

    def close(self) -> None:
        """Wakes a thread that reads."""
        self._closed = True
        with self._lock:
            # A thread in poll() is not woken by close().
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def start_tls(self, context: ssl.SSLContext, server_name: str | None, within: float | None) -> "BlockingTunnel":
        """TLS from here on, on the tunnel that is returned."""
        if isinstance(self._sock, ssl.SSLSocket) or self._leading:
            self.close()
            raise ConnectFailed(
                "no TLS inside of TLS here" if not self._leading else "the server sent bytes before TLS"
            )
        until = None if within is None else time.monotonic() + within
        try:
            secured = context.wrap_socket(self._sock, server_hostname=server_name, do_handshake_on_connect=False)
            self._sock = secured
            while True:
                try:
                    secured.do_handshake()
                    return BlockingTunnel(secured, b"")
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
                if not self._wait(wanted, until):
                    raise ConnectFailed(f"no TLS within {within:g} s")
        except OSError as error:
            self.close()
            raise ConnectFailed(f"TLS: {getattr(error, 'reason', None) or error}") from None
        except BaseException:
            self.close()
            raise

    @property
    def tunnel(self) -> "BlockingTunnel":
        """As a connection has one."""
        return self

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def _check(self) -> None:
        if self._closed:
            raise ConnectionEnded("the connection is closed", clean=False)

    def _wait(self, wanted: int, until: float | None) -> bool:
        poll = select.poll()
        with self._lock:
            self._check()
            poll.register(self._sock, wanted)
        seconds = None if until is None else max(0.0, until - time.monotonic())
        return bool(poll.poll(milliseconds(seconds)))

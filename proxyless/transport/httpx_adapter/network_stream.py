"""``response.extensions["network_stream"]``: httpcore's interface to the connection under a response.

Once the server has switched protocols (101, or 2xx to CONNECT) the bytes are the application's: httpx-ws speaks
WebSocket through this. Before that it only tells facts; the connection may serve others by then.
Source: httpcore's documentation, "Network Backends" and "Extensions".
"""

import contextlib
import select
import ssl
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from proxyless.transport.http1.errors import ConnectFailed, ReadTimedOut, WireError, WriteTimedOut
from proxyless.transport.httpx_adapter.trace import socket_info

if TYPE_CHECKING:
    from proxyless.transport.http1.aio import AsyncConnection
    from proxyless.transport.http1.aio_tunnel import AsyncTunnel
    from proxyless.transport.http1.blocking import BlockingConnection
    from proxyless.transport.http1.blocking_tunnel import BlockingTunnel
    from proxyless.transport.http2.aio import AsyncStream
    from proxyless.transport.http2.blocking import BlockingStream

_CORE = {"httpx": "httpcore", "httpx2": "httpcore2"}


class AsyncNetworkStream:
    """core: the library whose exceptions are raised, httpcore or httpcore2."""

    __slots__ = ("_library", "_source")

    def __init__(self, library: str, source: "AsyncConnection | AsyncStream | AsyncTunnel") -> None:
        """library: httpx or httpx2."""
        self._library = library
        self._source = source

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        with _raising(self._library, "ReadError"):
            return await self._tunnel().read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _raising(self._library, "WriteError"):
            await self._tunnel().write(bytes(buffer), timeout)

    async def aclose(self) -> None:
        """Ends what was switched to. Of a connection that still speaks HTTP the response is the one to close."""
        tunnel = self._source.tunnel
        if tunnel is not None:
            await tunnel.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "AsyncNetworkStream":
        with _raising(self._library, "ConnectError"):
            inner = await self._tunnel().start_tls(ssl_context, server_hostname, timeout)
        return AsyncNetworkStream(self._library, inner)

    def get_extra_info(self, info: str) -> Any:
        source = self._source
        if info == "ssl_object":
            return source.fact("ssl_object")
        sock = source.fact("socket")
        if sock is None:
            return None
        return _readable(sock) if info == "is_readable" else socket_info(sock, info)

    def _tunnel(self) -> "AsyncTunnel":
        tunnel = self._source.tunnel
        if tunnel is None:
            raise WireError("the server has not switched protocols: read the response instead")
        return tunnel


class NetworkStream:
    """The same for a thread that waits."""

    __slots__ = ("_library", "_source")

    def __init__(self, library: str, source: "BlockingConnection | BlockingStream | BlockingTunnel") -> None:
        """library: httpx or httpx2."""
        self._library = library
        self._source = source

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _raising(self._library, "ReadError"):
            return self._tunnel().read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _raising(self._library, "WriteError"):
            self._tunnel().write(bytes(buffer), timeout)

    def close(self) -> None:
        """Ends what was switched to. Of a connection that still speaks HTTP the response is the one to close."""
        tunnel = self._source.tunnel
        if tunnel is not None:
            tunnel.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "NetworkStream":
        with _raising(self._library, "ConnectError"):
            inner = self._tunnel().start_tls(ssl_context, server_hostname, timeout)
        return NetworkStream(self._library, inner)

    def get_extra_info(self, info: str) -> Any:
        sock = self._source.sock
        if info == "ssl_object":
            return sock if isinstance(sock, ssl.SSLSocket) else None
        return _readable(sock) if info == "is_readable" else socket_info(sock, info)

    def _tunnel(self) -> "BlockingTunnel":
        tunnel = self._source.tunnel
        if tunnel is None:
            raise WireError("the server has not switched protocols: read the response instead")
        return tunnel


@contextlib.contextmanager
def _raising(library: str, otherwise: str) -> Iterator[None]:
    """Ours as httpcore's: who uses a network stream knows no other."""
    try:
        yield
    except WireError as error:
        name = otherwise
        if isinstance(error, ReadTimedOut):
            name = "ReadTimeout"
        elif isinstance(error, WriteTimedOut):
            name = "WriteTimeout"
        elif isinstance(error, ConnectFailed):
            name = "ConnectError"
        raise getattr(import_module(_CORE[library]), name)(str(error)) from error


def _readable(sock: Any) -> bool:
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))

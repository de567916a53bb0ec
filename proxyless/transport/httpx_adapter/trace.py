"""httpcore's ``trace`` extension: the application is told each step of a request, by httpcore's names, as it happens.

Made only for requests that carry the extension. Source: httpcore's documentation, "Extensions", ``trace``.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from proxyless.transport.http1.response import ResponseHead

CONNECT, TLS = "connection.connect_tcp", "connection.start_tls"
HEADERS, BODY = "http11.send_request_headers", "http11.send_request_body"
RESPONSE, CONTENT, CLOSED = (
    "http11.receive_response_headers",
    "http11.receive_response_body",
    "http11.response_closed",
)


class AsyncTrace:
    """One step at a time: ``start`` it, then ``done`` or ``failed``."""

    __slots__ = ("_open", "_tell", "request")

    def __init__(self, tell: Callable[[str, dict[str, Any]], Awaitable[None]], request: Any) -> None:
        self._tell = tell
        self._open = ""
        self.request = request

    async def start(self, step: str, info: dict[str, Any] | None = None) -> None:
        self._open = step
        await self._tell(f"{step}.started", {"request": self.request} if info is None else info)

    async def done(self, value: Any = None) -> None:
        step, self._open = self._open, ""
        if step:
            await self._tell(f"{step}.complete", {"return_value": value})

    async def failed(self, error: BaseException) -> None:
        step, self._open = self._open, ""
        if step:
            await self._tell(f"{step}.failed", {"exception": error})

    async def tcp_connected(self, sock: socket.socket, context: ssl.SSLContext | None, name: str | None) -> None:
        """For the pool: TCP is there, TLS comes next if there is a context."""
        await self.done(Connected(sock))
        if context is not None:
            await self.start(TLS, {"ssl_context": context, "server_hostname": name, "timeout": None})


class SyncTrace:
    """The same for a thread that waits."""

    __slots__ = ("_open", "_tell", "request")

    def __init__(self, tell: Callable[[str, dict[str, Any]], None], request: Any) -> None:
        self._tell = tell
        self._open = ""
        self.request = request

    def start(self, step: str, info: dict[str, Any] | None = None) -> None:
        self._open = step
        self._tell(f"{step}.started", {"request": self.request} if info is None else info)

    def done(self, value: Any = None) -> None:
        step, self._open = self._open, ""
        if step:
            self._tell(f"{step}.complete", {"return_value": value})

    def failed(self, error: BaseException) -> None:
        step, self._open = self._open, ""
        if step:
            self._tell(f"{step}.failed", {"exception": error})

    def tcp_connected(self, sock: socket.socket, context: ssl.SSLContext | None, name: str | None) -> None:
        """For the pool: TCP is there, TLS comes next if there is a context."""
        self.done(Connected(sock))
        if context is not None:
            self.start(TLS, {"ssl_context": context, "server_hostname": name, "timeout": None})


class Connected:
    """What ``connect_tcp`` returned, as far as a trace may ask."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, info: str) -> Any:
        return socket_info(self._sock, info)


def where(host: str, port: int, timeout: float) -> dict[str, Any]:
    return {"host": host, "port": port, "local_address": None, "timeout": timeout, "socket_options": None}


def received(answer: ResponseHead) -> tuple[bytes, int, bytes, list[tuple[bytes, bytes]]]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    return (b"HTTP/" + answer.version.encode(), answer.status, answer.reason, headers)


def socket_info(sock: Any, info: str) -> Any:
    """What httpcore's streams know of their socket; None for what they do not."""
    try:
        match info:
            case "socket":
                return sock
            case "client_addr":
                return sock.getsockname()
            case "server_addr":
                return sock.getpeername()
    except OSError:  # not connected any more
        return None
    return None

"""httpcore's ``trace`` extension: the application is told each step of a request, by httpcore's names, as it happens.

Made only for requests that carry the extension. Source: httpcore's documentation, "Extensions", ``trace``.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from proxyless.transport.http1.response import ResponseHead

CONNECT, TLS = "connection.connect_tcp", "connection.start_tls"
# Of a request, after ``http11.`` or ``http2.``.
PREFACE, HEADERS, BODY = "send_connection_init", "send_request_headers", "send_request_body"
RESPONSE, CONTENT, CLOSED = "receive_response_headers", "receive_response_body", "response_closed"


class _Names:
    """What a step is called, and which facts come with it: those of the connection that the request goes out on."""

    __slots__ = ("_http", "_stream", "request")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.on_http1()

    def on_http1(self) -> None:
        self._http = "http11"
        self._stream: dict[str, int] = {}

    def on_stream(self, number: int) -> None:
        """Of an HTTP/2 connection."""
        self._http, self._stream = "http2", {"stream_id": number}

    def name(self, step: str) -> str:
        return step if "." in step else f"{self._http}.{step}"

    def info(self, step: str) -> dict[str, Any]:
        about = {} if step == CLOSED else {"request": self.request}
        return about if step == PREFACE else about | self._stream


class AsyncTrace(_Names):
    """One step at a time: ``start`` it, then ``done`` or ``failed``."""

    __slots__ = ("_open", "_tell")

    def __init__(self, tell: Callable[[str, dict[str, Any]], Awaitable[None]], request: Any) -> None:
        super().__init__(request)
        self._tell = tell
        self._open = ""

    async def start(self, step: str, info: dict[str, Any] | None = None) -> None:
        self._open = self.name(step)
        await self._tell(f"{self._open}.started", self.info(step) if info is None else info)

    async def done(self, value: Any = None) -> None:
        step, self._open = self._open, ""
        if step:
            await self._tell(f"{step}.complete", {"return_value": value})

    async def failed(self, error: BaseException) -> None:
        step, self._open = self._open, ""
        if step:
            await self._tell(f"{step}.failed", {"exception": error})

    async def opened(self, stream: int, *, fresh: bool) -> None:
        """The request's head went out as a ``stream`` of HTTP/2. fresh: the first on its connection."""
        self.on_stream(stream)
        for step in (PREFACE, HEADERS) if fresh else (HEADERS,):
            await self.start(step)
            await self.done()

    async def sent(self) -> None:
        """Head and body go out together, or side by side with the answer: no moment between them is told of."""
        await self.done()
        await self.start(BODY)
        await self.done()
        await self.start(RESPONSE)

    async def tcp_connected(self, sock: socket.socket, context: ssl.SSLContext | None, name: str | None) -> None:
        """For the pool: TCP is there, TLS comes next if there is a context."""
        await self.done(Connected(sock))
        if context is not None:
            await self.start(TLS, {"ssl_context": context, "server_hostname": name, "timeout": None})


class SyncTrace(_Names):
    """The same for a thread that waits."""

    __slots__ = ("_open", "_tell")

    def __init__(self, tell: Callable[[str, dict[str, Any]], None], request: Any) -> None:
        super().__init__(request)
        self._tell = tell
        self._open = ""

    def start(self, step: str, info: dict[str, Any] | None = None) -> None:
        self._open = self.name(step)
        self._tell(f"{self._open}.started", self.info(step) if info is None else info)

    def done(self, value: Any = None) -> None:
        step, self._open = self._open, ""
        if step:
            self._tell(f"{step}.complete", {"return_value": value})

    def failed(self, error: BaseException) -> None:
        step, self._open = self._open, ""
        if step:
            self._tell(f"{step}.failed", {"exception": error})

    def opened(self, stream: int, *, fresh: bool) -> None:
        """The request's head went out as a ``stream`` of HTTP/2. fresh: the first on its connection."""
        self.on_stream(stream)
        for step in (PREFACE, HEADERS) if fresh else (HEADERS,):
            self.start(step)
            self.done()

    def sent(self) -> None:
        """Head and body go out together, or side by side with the answer: no moment between them is told of."""
        self.done()
        self.start(BODY)
        self.done()
        self.start(RESPONSE)

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


def received(answer: ResponseHead) -> tuple[Any, ...]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.version == "2":
        return (answer.status, headers)
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

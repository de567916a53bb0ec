"""Prometheus text on a port of its own, at the path Istio's sidecars have: ``/stats/prometheus``. Plaintext.

A server this small needs no framework: one GET, one answer, the end. What it reads is bounded in size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType

from proxyless.telemetry.telemetry import Telemetry

_HEAD_LIMIT = 8192
_TIMEOUT = 5.0
_MAX_CONNECTIONS = 32
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsEndpoint:
    """``async with`` it; ``address`` is where it listens. ``healthy`` answers /healthz/ready."""

    def __init__(self, listening: socket.socket, telemetry: Telemetry, healthy: Callable[[], bool]) -> None:
        self._listening = listening
        self._telemetry = telemetry
        self._healthy = healthy
        self._open = 0
        self.address: tuple[str, int] = listening.getsockname()[:2]

    async def __aenter__(self) -> MetricsEndpoint:
        self._server = await asyncio.start_server(self._answer, sock=self._listening, limit=_HEAD_LIMIT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MAX_CONNECTIONS:
                async with asyncio.timeout(_TIMEOUT):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._respond(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            self._open -= 1
            with contextlib.suppress(OSError):
                writer.close()

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        status, body = "404 Not Found", b"try /stats/prometheus\n"
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", b""
        elif path in (b"/stats/prometheus", b"/metrics"):
            status, body = "200 OK", self._telemetry.prometheus()
        elif path == b"/healthz/ready":
            status, body = ("200 OK", b"ok\n") if self._healthy() else ("503 Service Unavailable", b"draining\n")
        lines = f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
        lines += "connection: close\r\n\r\n"
        return lines.encode("ascii") + (b"" if method == b"HEAD" else body)

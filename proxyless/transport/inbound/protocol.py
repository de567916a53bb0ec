"""uvicorn's HTTP/1.1 connection with the mesh's facts in every scope, and with limits on what a head may cost."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import ssl
import time
from collections import deque
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxyless.engine.caller import Caller
from proxyless.model.address import join_address
from proxyless.model.errors import IdentityError
from proxyless.transport.inbound.admission import Admission
from proxyless.transport.inbound.ambiguity import framing_problem, line_problem
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.connection import Connection, examine
from proxyless.transport.inbound.cycle import Cycle
from proxyless.transport.inbound.head import read
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.server_state import MeshServerState
from proxyless.transport.inbound.target import remembered, target
from proxyless.transport.stall import Stall

log = logging.getLogger("proxyless.inbound")

# Envoy's max_request_headers_kb and max_headers_count.
MAX_HEAD_BYTES = 60 * 1024
MAX_HEADERS = 100
# Seconds from a connection's beginning to its first complete head, and from the first bytes of any later one.
HEAD_TIMEOUT = 60.0
# Requests of one connection that wait for the answer to an earlier one. Clients that pipeline at all send a few.
MAX_PIPELINED = 100
_TOO_LARGE = "431 Request Header Fields Too Large", "head is larger than 60 KiB or has more than 100 headers"


class MeshProtocol(HttpToolsProtocol):
    """One accepted connection. ``config.app`` is a ``MeshASGI``. facts: what is known of the connection's peer."""

    # Of the attributes that each request reads, written to without a dictionary.
    __slots__ = (
        "_active",
        "_chunk_is_head",
        "_chunk_size",
        "_closed",
        "_context",
        "_expiry_timer",
        "_head_at_most",
        "_head_bytes",
        "_head_timer",
        "_idle_since",
        "_idle_timer",
        "_in_head",
        "_mesh",
        "_reading",
        "_runtime",
        "_stall",
        "_unheard",
        "_waiting",
        "admission",
        "asgi",
        "facts",
        "port",
        "telemetry",
    )

    server_state: MeshServerState
    cycle: Cycle | None  # type: ignore[assignment]

    def __init__(
        self,
        runtime: InboundRuntime,
        config: Config,
        server_state: MeshServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config.app, MeshASGI)
        self._mesh = config.app
        self._runtime = runtime
        self.telemetry = runtime.telemetry
        self.asgi = {"version": self.asgi_version, "spec_version": "2.3"}
        self.facts = Connection(Caller())
        self.port = 0
        self.headers = []
        # Bytes of a head: those that surely are, counted as they come, and those that may be.
        self._head_bytes = 0
        self._head_at_most = 0
        self._chunk_size = 0
        self._in_head = True
        self._chunk_is_head = True
        # By us: nothing more of what came is a request.
        self._closed = False
        # What came since the last part of a body: trailers and chunk extensions, of which nobody hears.
        self._unheard = 0
        # The request whose body is being read, requests that came before the answer to an earlier one, and the one that
        # is being answered.
        self._reading: Cycle | None = None
        self._waiting: deque[Cycle] = deque()
        self._active: Cycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        if self.ws_protocol_class is not None:
            # A WebSocket goes on in another class of uvicorn's, which builds its scope itself.
            self.ws_protocol_class = functools.partial(self._websocket, self.ws_protocol_class)  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # TLS here is the mesh's own. Its caller asked for http, as behind a sidecar: an application that made URLs of
        # https, to redirect to, would send it to a port that there is not.
        self.scheme = "http"
        self._stall = Stall(self.loop, transport, self._stalled)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.port = port = (self.server[1] if self.server else None) or 0
        self._context = contextvars.copy_context()
        try:
            self.facts = examine(
                tls,
                self._runtime.identity,
                self._runtime.snapshot().inbound.get(port),
                local=_address(self.server),
                remote=_address(self.client),
            )
        except IdentityError as error:
            log.warning("port %s: connection from %s refused: %s", port, _address(self.client), error)
            transport.abort()
            return
        if (not_after := self.facts.not_after) is not None:
            # An identity ends with its certificate: what is under way is finished, nothing more comes on it.
            self._expiry_timer = self.loop.call_later(max(0.0, not_after - time.time()), self.shutdown)
        self.admission = Admission(self.facts.caller, self._runtime, port)
        self._start_head_timer()

    def eof_received(self) -> None:
        self.close()

    def close(self) -> None:
        """Once everything is written, if the client reads it."""
        transport = self.transport
        self._closed = True
        if not transport.is_closing():
            transport.close()
            if transport.get_write_buffer_size():
                self._stall.watch()

    def shutdown(self) -> None:
        self.begin_drain()
        if not self._answering():
            self.close()

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._stall.watch()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.transport.is_closing():
            self._stall.stop()

    def _stalled(self) -> None:
        log.info("port %s: closing a connection from %s: it does not read", self.port, _address(self.client))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self.connections.discard(self)
        for cycle in (self.cycle, self._active, *self._waiting):
            if cycle is not None:
                cycle.disconnected = cycle.disconnected or not cycle.response_complete
                cycle.wake()
        self._waiting.clear()
        if self.flow is not None:
            self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        # Counted before parsing: a head that never ends must not be kept. A chunk that begins inside a body, or holds
        # more than one head, is not all head; what it has of the last one is not counted.
        self._chunk_is_head = self._in_head
        self._chunk_size = size = len(data)
        if self._in_head:
            self._head_bytes += size
            self._head_at_most += size
        else:
            self._unheard += size
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._answering():
                self.close()
            else:
                self.send_400_response("Invalid HTTP request received.")
                self._stall.watch()
            return
        if self._unheard > MAX_HEAD_BYTES:
            self.close()
        if not (self._in_head and self._head_bytes) or self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)
        elif self._head_timer is None:
            self._start_head_timer()

    def _upgrade(self, rest: memoryview) -> None:
        """As uvicorn's, but an Upgrade that we do not take is ignored (RFC 9110 section 7.8).

        llhttp counts such a request as complete with its head: its body would be read as the next request.
        """
        while not self.transport.is_closing():
            # Not into the middle of an earlier answer.
            if self._should_upgrade() and not self._answering():
                self._stop_timers()
                self.handle_websocket_upgrade()
                return
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.scope["http_version"].encode(), b"\r\n"]
            for name, value in self.headers:
                if name not in (b"connection", b"upgrade", b"http2-settings"):
                    head += [name, b": ", value, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            # Only one request more is taken from such a connection's client: it wanted to speak something else.
            self.parser.feed_data(b"".join([*head, b"connection: close\r\n\r\n"]))
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._reading = None
        self._head_at_most = self._chunk_size
        if not self._chunk_is_head:
            self._head_bytes = 0
        self._chunk_is_head = False
        self._unheard = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name, value))
        # Else a trailer. ASGI has no place for it, and among the headers it would say what nobody has judged.

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._stop_head_timer()
        if self._closed:
            return
        parser, url = self.parser, self.url
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        old = version == "1.0"
        if (len(self.headers) > MAX_HEADERS or self._head_at_most > MAX_HEAD_BYTES) and self._is_too_large():
            self._refuse(*_TOO_LARGE)
            return
        # A path that is remembered has passed the questions about it.
        known = remembered(url) if version == "1.1" and method != "CONNECT" else None
        if known is None:
            if (problem := line_problem(version, method, url, self.headers)) is not None:
                self._refuse(*problem)
                return
            asked, query = target(url, method)
        else:
            asked, query = known, b""
        request = read(method, asked, query, self.headers, self.facts, "http", old, self._mesh.drop_underscores)
        expects = False
        if request.framing:
            if (problem := framing_problem(version, request.framing)) is not None:
                self._refuse(*problem)
                return
            expects = not old and (b"expect", b"100-continue") in request.framing
        if parser.should_upgrade():
            # To a WebSocket, or this head comes again without its Upgrade.
            self.headers = [(name.lower(), value) for name, value in self.headers]
            self.scope = {"method": method, "http_version": version, "headers": self.headers}  # type: ignore[typeddict-item]
            return
        keep_alive = parser.should_keep_alive() and not old and not self.server_state.draining
        cycle = Cycle(self, request, asked, query, version, keep_alive, expects)
        before, self.cycle, self._reading = self.cycle, cycle, cycle
        if before is None or before.response_complete:
            self._begin(cycle)
            return
        # Pipelined: one after the other, and no more of them than came with this.
        self.flow.pause_reading()
        self._waiting.append(cycle)
        if len(self._waiting) > MAX_PIPELINED:
            self.close()

    def on_body(self, body: bytes) -> None:
        self._unheard = 0
        # A refused head has no cycle for the body that may follow it.
        if self._reading is not None:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        if (cycle := self._reading) is not None:
            cycle.more_body = False
            cycle.wake()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._waiting:
            self._begin(self._waiting.popleft())
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def resume_reading(self) -> None:
        """For what the request that is being answered has to come, but not for more requests behind those that wait."""
        if self._active is self.cycle:
            self.flow.resume_reading()

    def _begin(self, cycle: Cycle) -> None:
        self._active = cycle
        # In the connection's context: this may run in the task of the request before, or in what that made resume, and
        # what an application kept there may be another user's.
        context = self._context.copy()
        self.loop.create_task(cycle.run(self._mesh), context=context)

    def _close_if_idle(self) -> None:
        """One timer for all requests of the connection: starting one for each would cost more than looking again."""
        used = self._answering() or self._head_timer is not None
        until = (self.loop.time() if used else self._idle_since) + self.timeout_keep_alive
        if until <= self.loop.time():
            self._idle_timer = None
            self.close()
        else:
            self._idle_timer = self.loop.call_at(until, self._close_if_idle)

    @property
    def idle_since(self) -> float | None:
        """Loop time since when no request is served, None while one is."""
        return None if self._answering() else self._idle_since

    @property
    def new(self) -> bool:
        """Whether its first request is still to come."""
        return self._head_timer is not None

    def begin_drain(self) -> None:
        """Let the answer under way say ``connection: close``."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def _is_too_large(self) -> bool:
        if len(self.headers) > MAX_HEADERS:
            return True
        if self._head_at_most <= MAX_HEAD_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES

    def _refuse(self, status: str, reason: str) -> None:
        if not self._answering():
            head = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n"
            self.transport.write(f"{head}x-proxyless-reason: the request's {reason}\r\n\r\n".encode("ascii"))
        self.close()

    def _answering(self) -> bool:
        """Whether bytes written now would end up inside the answer to an earlier request."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._answering():
            self._start_head_timer()  # pipelined behind a request that is still being answered
        else:
            self.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._expiry_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._expiry_timer = self._idle_timer = None
        self._stall.stop()

    def _websocket(self, inner: Any, **arguments: Any) -> asyncio.Protocol:
        protocol: asyncio.Protocol = inner(**arguments)
        app, connection = self.app, self.facts

        async def with_connection(scope: dict[str, Any], receive: Any, send: Any) -> None:
            scope["scheme"] = "ws"
            scope["extensions"] = {**(scope.get("extensions") or {}), **connection.extensions()}
            await app(scope, receive, send)

        protocol.app = with_connection  # type: ignore[attr-defined]
        return protocol


def _address(pair: tuple[str, int | None] | None) -> str:
    return "" if pair is None else join_address(pair[0], pair[1] or 0)

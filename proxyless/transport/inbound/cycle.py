"""One request of our own server and its response: what uvicorn's RequestResponseCycle does, with the mesh inside.

Every request comes by here, so it is written for speed. The head and the first part of the body leave as one write:
that is one TLS record and one system call, and a process killed in between leaves no half of an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any

from proxyless.engine.steps import Flag
from proxyless.model.load_report import HEADER
from proxyless.telemetry.application import serve_from_here
from proxyless.telemetry.observation import ServerObservation
from proxyless.transport.inbound.admission import Message, Scope, application_headers, judge, refuse
from proxyless.transport.inbound.response_head import STATUS_LINES, head_lines
from proxyless.transport.inbound.served_request import ServedRequest
from proxyless.transport.inbound.target import Target

if TYPE_CHECKING:
    from proxyless.transport.inbound.asgi import MeshASGI
    from proxyless.transport.inbound.protocol import MeshProtocol

# The application's errors belong where its server's would be.
logger = logging.getLogger("uvicorn.error")

# Bytes of a body that wait for the application before the client is made to wait (uvicorn's).
_HIGH_WATER = 64 * 1024
# Seconds without a byte of a body that the application waits for (Envoy's stream_idle_timeout), before it has answered.
BODY_TIMEOUT = 300.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED = b"Internal Server Error"
_NO_BODY = frozenset({204, 304})
_LOAD = HEADER.encode()


class Cycle:
    """request: as the mesh read it, before it has judged anything. version: of HTTP.

    disconnected: the client has left. response_complete: nothing more is to be written. keep_alive: whether another
    request may follow on the connection.
    """

    __slots__ = (
        "_awaited",
        "_body",
        "_buffered",
        "_chunked",
        "_continue",
        "_delivered",
        "_error",
        "_head",
        "_left",
        "_no_body",
        "_protocol",
        "_query",
        "_request",
        "_seen",
        "_started",
        "_stepping",
        "_target",
        "_version",
        "disconnected",
        "grpc_status",
        "keep_alive",
        "more_body",
        "received",
        "response_complete",
        "sent",
        "status",
        "task",
    )

    def __init__(  # noqa: PLR0917  positions are cheaper than names, here
        self,
        protocol: MeshProtocol,
        request: ServedRequest,
        target: Target,
        query: bytes,
        version: str,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._protocol = protocol
        self._request = request
        self._target = target
        self._query = query
        self._version = version
        self.keep_alive = keep_alive
        self.task: asyncio.Task[None] | None = None
        self.disconnected = False
        self.response_complete = False
        self.more_body = True
        self.received = 0
        self.sent = 0
        self.status = 0
        self.grpc_status = ""
        self._continue = expects_continue
        self._error = ""
        self._seen: ServerObservation | None = None
        # Of the request: what the application has not had yet, whether it had all, and what wakes it.
        self._body: list[bytes] = []
        self._buffered = 0
        self._delivered = False
        self._awaited: asyncio.Event | None = None
        # Of the response: whether it began, its head while that waits for the body, and how much body may follow.
        self._started = self._stepping = False
        self._head = b""
        self._no_body = False
        self._chunked = False
        self._left: int | None = None

    # Told by the connection

    def feed(self, body: bytes) -> None:
        """A part of the request's body arrived."""
        self.received += len(body)
        if self.response_complete:
            return
        self._body.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER:
            self._protocol.flow.pause_reading()
        self.wake()

    def wake(self) -> None:
        """What ``receive`` waits for may have happened."""
        if self._awaited is not None:
            self._awaited.set()

    # The life of a request

    async def run(self, app: MeshASGI) -> None:
        """Judge the request; let the application answer it, or answer for it. Never raises."""
        protocol, request = self._protocol, self._request
        try:
            runtime, connection = app.runtime, protocol.facts
            self._seen = seen = runtime.telemetry.begin_server(request, connection.observed, request.told)
            refusal = judge(request, connection.caller, runtime, protocol.port)
            if refusal is not None:
                await refuse({"type": "http", "method": request.method}, self.send, refusal, seen)
                return
            serve_from_here(seen.context)
            answering: Any = app.app(self._scope(seen), self.receive, self.send)
            if type(answering) is CoroutineType:
                # Most applications answer in their first step: no turn of the loop is asked for, in which the head of
                # an answer would go without its body.
                self._stepping = True
                try:
                    awaited = answering.send(None)
                except StopIteration as ended:
                    result: object = ended.value
                else:
                    self._stepping = False
                    self.flush()
                    result = await _further(answering, awaited)
                finally:
                    self._stepping = False
            else:
                result = await answering
        except BaseException as error:
            self._error = type(error).__name__
            logger.error("Exception in ASGI application\n", exc_info=error)
            self._fail()
        else:
            if result is not None:
                logger.error("ASGI callable should return None, but returned '%s'.", result)
                if not self.response_complete:
                    self._cut()
            elif not (self.response_complete or self.disconnected):
                what = "completing" if self._started else "starting"
                logger.error("ASGI callable returned without %s response.", what)
                self._fail()
        finally:
            if self._seen is not None:
                self._end()
            if self.task is not None:
                protocol.tasks.discard(self.task)

    def _scope(self, seen: ServerObservation) -> Scope:
        """ASGI's, all of it the application's to write to."""
        protocol, request, target = self._protocol, self._request, self._target
        scope = protocol.common_scope.copy()
        scope["asgi"] = scope["asgi"].copy()
        scope["http_version"] = self._version
        scope["method"] = request.method
        scope["path"] = target.path
        scope["raw_path"] = target.raw_path
        scope["query_string"] = self._query
        scope["headers"] = application_headers(request, seen)
        scope["state"] = protocol.app_state.copy()
        scope["extensions"] = protocol.facts.extensions(handled=True)
        return scope

    async def receive(self) -> Message:
        """ASGI's ``receive``."""
        if self._continue and not self._protocol.transport.is_closing():
            self._continue = False
            self._protocol.transport.write(_CONTINUE)
        if not (self.disconnected or self.response_complete):
            self._protocol.resume_reading()
            # After the whole body, all that is left to hear of is the end.
            if not self._body and (self.more_body or self._delivered):
                self._awaited = self._awaited or asyncio.Event()
                self._awaited.clear()
                late = None
                if self.more_body and not self._started:
                    late = self._protocol.loop.call_later(BODY_TIMEOUT, self._protocol.transport.abort)
                try:
                    await self._awaited.wait()
                finally:
                    if late is not None:
                        late.cancel()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        self._delivered = not self.more_body
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``."""
        protocol = self._protocol
        if protocol.flow.write_paused and not self.disconnected:
            await protocol.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self._started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._start(message)
        elif self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            self._write(message.get("body", b""), message.get("more_body", False))

    def _start(self, message: Message) -> None:
        status = message["status"]
        if not 200 <= status <= 999:
            # What follows an informational head is the next head: its body would be read as one.
            raise RuntimeError(f"Invalid HTTP status {status}.")
        protocol, version = self._protocol, self._version
        plain, framing = head_lines(message.get("headers", ()))
        content = [
            STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            protocol.server_state.default_lines,
            *plain,
        ]
        # Anew: an earlier head may have been refused half-way.
        self._left, self._chunked = None, False
        closes = False
        for line in framing:
            value = line.value
            if line.name == b"content-length":
                if not value.isdigit() or self._left is not None:
                    raise RuntimeError("Invalid Content-Length.")
                self._left = int(value)
            elif line.name == b"transfer-encoding":
                if value.lower() != b"chunked" or self._chunked:
                    raise RuntimeError("Invalid Transfer-Encoding: the server's own is chunked.")
                if version == "1.0":
                    continue
                self._chunked = True
            elif line.name == b"connection":
                closes = closes or b"close" in [token.strip() for token in value.lower().split(b",")]
            else:
                self.grpc_status = value.decode("latin-1")[:3]
            content.append(line.text)
        if self._chunked and self._left is not None:
            raise RuntimeError("Content-Length and Transfer-Encoding exclude each other.")
        if self._continue and self.more_body:
            # The client may send its body yet, or never: what comes next could be that or a request.
            self.keep_alive = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            content.append(b"connection: close\r\n")
        self._no_body = status in _NO_BODY or self._request.method == "HEAD"
        # To HTTP/1.0 the end of the connection is the end of the body.
        if self._left is None and not self._chunked and not self._no_body and version != "1.0":
            self._chunked = True
            content.append(b"transfer-encoding: chunked\r\n")
        if self._seen is not None and (load := self._seen.load()) is not None:
            content.append(b"%b: %b\r\n" % (_LOAD, load.header().encode()))
        content.append(b"\r\n")
        self._started, self._continue = True, False
        self.status = status
        self._head = b"".join(content)
        # An application that thinks about its body lets the head go before; most do not.
        if not self._stepping:
            protocol.server_state.flush_soon(self, protocol.loop)

    def flush(self) -> None:
        """Let the head go, if it still waits for the body."""
        # Writing to a connection that was aborted could raise, and others wait for the same turn.
        if self._head and not self._protocol.transport.is_closing():
            head, self._head = self._head, b""
            self._protocol.transport.write(head)

    def _write(self, body: bytes, more: bool) -> None:
        self.sent += len(body)
        if self._no_body:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("Response content longer than Content-Length")
            if self._left and not more:
                raise RuntimeError("Response content shorter than Content-Length")
        if head := self._head:
            self._head = b""
            if len(body) > _HIGH_WATER:
                self._protocol.transport.write(head)  # rather than copy what is large
            else:
                body = head + body
        if body:
            self._protocol.transport.write(body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self._end()
        if self._awaited is not None:
            self._awaited.set()
        if not self.keep_alive:
            self._protocol.close()
        self._protocol.on_response_complete()

    def _fail(self) -> None:
        """The application gave no answer, or not all of it."""
        if self.disconnected or self.response_complete:
            return
        if self._started and not self._head:
            # It is on its way: only an end that is no end can say that it is wrong.
            self._cut()
            return
        self._head = b""
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_FAILED)),
            (b"connection", b"close"),
        ]
        self._start({"status": 500, "headers": headers})
        self._write(_FAILED, False)

    def _cut(self) -> None:
        self._head = b""
        if self._started and self._left is None and not self._chunked and not self._no_body:
            self._protocol.transport.abort()  # a mere end would complete it
        else:
            self._protocol.close()

    def _end(self) -> None:
        """Tell telemetry, the first time."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        gone = self.disconnected and not self.response_complete
        seen.end(
            # Nothing was answered: the client is cut off.
            self.status or (0 if gone else 500),
            (Flag.DOWNSTREAM_CONNECTION_TERMINATION,) if gone else (),
            request_bytes=self.received,
            response_bytes=self.sent,
            error=self._error,
            grpc_status=self.grpc_status,
        )


@coroutine
def _further(answering: Any, awaited: object) -> Generator[object, object, object]:
    """``await`` a coroutine that was begun, and waits for ``awaited``."""
    while True:
        try:
            yield awaited
        except GeneratorExit:
            answering.close()
            raise
        except BaseException as error:  # the task is cancelled
            try:
                awaited = answering.throw(error)
            except StopIteration as ended:
                return ended.value
        else:
            return (yield from answering)

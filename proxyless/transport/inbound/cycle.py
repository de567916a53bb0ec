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
from proxyless.transport.inbound.admission import Message, Scope, application_headers, refuse
from proxyless.transport.inbound.response_head import response_head
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
        # Of the response: whether it began, its head while that waits for the body, and from then on how the body ends.
        self._started = self._stepping = False
        self._head = b""
        self._no_body: bool
        self._chunked: bool
        self._left: int | None

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
            self._seen = seen = protocol.telemetry.begin_server(request, protocol.facts.observed, request.told)
            if (refusal := protocol.admission.judge(request)) is not None:
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
                    result = await self._kept(_further(answering, awaited))
                finally:
                    self._stepping = False
            else:
                result = await self._kept(answering)
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

    async def _kept(self, answering: Any) -> object:
        """In a task that waits: the server's end waits for it, and the event loop alone would forget it."""
        tasks, task = self._protocol.tasks, asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            return await answering
        finally:
            tasks.discard(task)

    def _scope(self, seen: ServerObservation) -> Scope:
        """ASGI's, all of it the application's to write to."""
        protocol, request, target = self._protocol, self._request, self._target
        return {
            "type": "http",
            "asgi": protocol.asgi.copy(),
            "http_version": self._version,
            "server": protocol.server,
            "client": protocol.client,
            "scheme": protocol.scheme,
            "root_path": "",
            "method": request.method,
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": self._query,
            "headers": application_headers(request, seen),
            "state": protocol.app_state.copy(),
            "extensions": protocol.facts.extensions(handled=True),
        }

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
        head = response_head(status, message.get("headers", ()))
        protocol = self._protocol
        self._no_body = no_body = head.bodiless or self._request.method == "HEAD"
        self._left = head.length
        further = b""
        # To HTTP/1.0 the end of the connection is the end of the body.
        self._chunked = head.length is None and self._version != "1.0" and (head.chunked or not no_body)
        if self._chunked:
            further = b"transfer-encoding: chunked\r\n"
        if self._continue and self.more_body:
            # The client may send its body yet, or never: what comes next could be that or a request.
            self.keep_alive = False
        if head.closes:
            self.keep_alive = False
        elif not self.keep_alive:
            further += b"connection: close\r\n"
        if self._seen is not None and (load := self._seen.load()) is not None:
            further += b"%b: %b\r\n" % (_LOAD, load.header().encode())
        self._continue = False
        self._started = True
        self.status = status
        self.grpc_status = head.grpc_status
        self._head = b"".join((head.text, protocol.server_state.default_lines, further, b"\r\n"))
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
        size = len(body)
        self.sent += size
        if self._no_body:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (size, body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif (left := self._left) is not None:
            self._left = left = left - size
            if left < 0:
                raise RuntimeError("Response content longer than Content-Length")
            if left and not more:
                raise RuntimeError("Response content shorter than Content-Length")
        if head := self._head:
            self._head = b""
            if size > _HIGH_WATER:
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
        # Nothing was answered: the client is cut off.
        status = self.status or (0 if gone else 500)
        flags = (Flag.DOWNSTREAM_CONNECTION_TERMINATION,) if gone else ()
        seen.end(status, flags, self.received, self.sent, "", self._error, self.grpc_status)


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

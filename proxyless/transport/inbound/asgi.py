"""The mesh around an ASGI application: identity, policy, telemetry and context of every request.

Works under any ASGI server; only ``proxyless serve`` tells it about TLS, so under others STRICT refuses everything.
"""

from __future__ import annotations

from proxyless.engine.caller import Caller
from proxyless.engine.steps import Flag
from proxyless.model.load_report import HEADER
from proxyless.telemetry.application import serving
from proxyless.telemetry.observation import ServerObservation
from proxyless.transport.inbound.admission import (
    Application,
    Message,
    Receive,
    Scope,
    Send,
    application_headers,
    judge,
    read_scope,
    refuse,
)
from proxyless.transport.inbound.connection import EXTENSION, Connection
from proxyless.transport.inbound.runtime import InboundRuntime

_LOAD = HEADER.encode()


class MeshASGI:
    """``app`` inside the mesh. Lifespan events pass through; HTTP and WebSocket requests are judged and observed.

    runtime: the mesh. drop_underscores: for WSGI applications behind an adapter, see ``head.read``.
    """

    def __init__(self, app: Application, runtime: InboundRuntime, *, drop_underscores: bool = False) -> None:
        self.app = app
        self.runtime = runtime
        self.drop_underscores = drop_underscores

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        ours = (scope.get("extensions") or {}).get(EXTENSION) or {}
        # Wrapped twice (mesh.asgi under proxyless serve): the outer one has done everything.
        if kind not in ("http", "websocket") or ours.get("handled"):
            await self.app(scope, receive, send)
            return
        connection = ours.get("connection") or _unknown(scope)
        request, target = read_scope(scope, connection, drop_underscores=self.drop_underscores)
        seen = self.runtime.telemetry.begin_server(request, connection.observed, request.told)
        port = (scope.get("server") or ("", None))[1]
        refusal = judge(request, connection.caller, self.runtime, port)
        if refusal is not None:
            await refuse(scope, send, refusal, seen)
            return
        scope = {
            **scope,
            "headers": application_headers(request, seen),
            "extensions": {**(scope.get("extensions") or {}), **connection.extensions(handled=True)},
        }
        if target.respelled:
            # The application sees the path that was judged.
            scope["raw_path"], scope["path"] = target.raw_path, target.path
        exchange = (_Http if kind == "http" else _WebSocket)(seen, receive, send)
        with serving(seen.context):
            try:
                await self.app(scope, exchange.receive, exchange.send)
            except BaseException as error:
                exchange.end(type(error).__name__)
                raise
            exchange.end("")


def _unknown(scope: Scope) -> Connection:
    """A connection of a server that is not ours: nothing about it is believed."""
    local, remote = _address(scope.get("server")), _address(scope.get("client"))
    return Connection(Caller(local=local, remote=remote), local=local, remote=remote)


def _address(pair: tuple[str, int | None] | None) -> str:
    return f"{pair[0]}:{pair[1] or 0}" if pair and pair[0] else ""


class _Exchange:
    """Counts what passes between server and application, and tells telemetry once."""

    __slots__ = ("_receive", "_seen", "_send", "complete", "gone", "grpc_status", "received", "sent", "status")

    def __init__(self, seen: ServerObservation, receive: Receive, send: Send) -> None:
        self._seen = seen
        self._receive = receive
        self._send = send
        self.received = 0
        self.sent = 0
        self.status = 0
        self.grpc_status = ""
        self.complete = False
        self.gone = False

    def end(self, error: str) -> None:
        flags: tuple[Flag, ...] = ()
        status = self.status
        if self.gone and not self.complete:
            flags = (Flag.DOWNSTREAM_CONNECTION_TERMINATION,)
        elif not status or (error and not self.complete):
            # Nothing was answered, or not to its end: the server says 500 or cuts the connection.
            status = status or 500
        self._seen.end(
            status,
            flags,
            request_bytes=self.received,
            response_bytes=self.sent,
            error=error,
            grpc_status=self.grpc_status,
        )


class _Http(_Exchange):
    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                if name == b"grpc-status":
                    self.grpc_status = bytes(value).decode("latin-1")[:3]
            if (load := self._seen.load()) is not None:
                message = {**message, "headers": [*message.get("headers", ()), (_LOAD, load.header().encode())]}
        elif kind == "http.response.body":
            self.sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.complete = True
        await self._send(message)


class _WebSocket(_Exchange):
    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self.received += len(message.get("bytes") or message.get("text") or "")
        elif message["type"] == "websocket.disconnect":
            # The normal end of a WebSocket, whoever begins it.
            self.complete = self.status != 0
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.send":
            self.sent += len(message.get("bytes") or message.get("text") or "")
        elif kind == "websocket.close":
            self.status = self.status or 403
            self.complete = True
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        await self._send(message)

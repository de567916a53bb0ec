"""What happens to a request before its application has it: read, observed, judged; and what the refused are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import ALLOW, Allow, decide, listener_of
from proxyless.engine.replies import respond
from proxyless.engine.steps import Respond
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.observation import ServerObservation
from proxyless.telemetry.trace_context import inject
from proxyless.transport.inbound.connection import EXTENSION, Connection
from proxyless.transport.inbound.head import Head, read
from proxyless.transport.inbound.runtime import InboundRuntime

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Admission:
    """One request, judged. seen: what telemetry is told. refusal: the mesh's answer instead of the application's.

    scope: becomes the application's, see ``application_scope``.
    """

    __slots__ = ("_connection", "_scope", "head", "refusal", "seen")

    def __init__(
        self, scope: Scope, connection: Connection, runtime: InboundRuntime, *, drop_underscores: bool = False
    ) -> None:
        self._scope = scope
        self._connection = connection
        self.head = head = read(scope, connection, drop_underscores=drop_underscores)
        self.seen: ServerObservation = runtime.telemetry.begin_server(
            head.request, connection.observed, head.read_lines
        )
        port = (scope.get("server") or ("", None))[1]
        verdict = _judge(head, connection.caller, runtime, port)
        self.refusal = verdict if isinstance(verdict, Respond) else None
        if verdict is not ALLOW and isinstance(verdict, Allow):
            head.headers = [line for line in head.headers if line[0].decode("latin-1") not in verdict.remove]
            head.headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in verdict.add]

    def application_scope(self) -> Scope:
        """The application's: judged headers, the request id and trace context it should log and may forward."""
        context = self.seen.context
        headers = self.head.headers
        headers.append((b"x-request-id", context.request_id.encode("ascii")))
        for name, value in inject(context.trace):
            headers.append((name.encode("ascii"), value.encode("latin-1")))
        extensions = self._connection.extensions()
        extensions[EXTENSION]["handled"] = True
        scope = self._scope
        if others := scope.get("extensions"):
            extensions = {**others, **extensions}
        scope["headers"] = headers
        scope["extensions"] = extensions
        if self.head.respelled:
            # The application sees the path that was judged.
            path = self.head.request.path.partition("?")[0]
            scope["raw_path"] = path.encode("latin-1")
            scope["path"] = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace")
        return scope

    async def refuse(self, send: Send) -> None:
        """Tell telemetry, and answer with ``refusal``, which there must be."""
        reply = self.refusal
        assert reply is not None
        # First: whoever sends the answer tells what he knows of its end, and that is not the reason.
        self.seen.end(reply.status, reply.flags, response_bytes=len(reply.body), reason=reply.reason or "refused")
        await _answer(self._scope, send, reply, self.head.request.method)


def _judge(head: Head, caller: Caller, runtime: InboundRuntime, port: int | None) -> Allow | Respond:
    if head.problem:
        reason = f"the request has {head.problem}"
        return respond(head.request, 400, b"Bad Request", reason, (), headers=(("connection", "close"),))
    return decide(listener_of(runtime.snapshot().inbound, port or 0), caller, head.request)


async def _answer(scope: Scope, send: Send, reply: Respond, method: str) -> None:
    told = (*reply.headers, ("content-length", str(len(reply.body))), ("x-proxyless-reason", reply.reason))
    if reply.flags:
        told += (("x-envoy-response-flags", flag_letters(reply.flags)),)
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in told]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": reply.body})
    else:
        # Closing before accepting makes the server answer 403.
        await send({"type": "websocket.close", "code": 1008, "reason": reply.reason[:120]})

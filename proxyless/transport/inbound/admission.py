"""What happens to a request before its application has it: read, judged; and what the refused are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import ALLOW, decide, listener_of
from proxyless.engine.replies import respond
from proxyless.engine.steps import Respond
from proxyless.model.inbound import InboundListener
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.observation import ServerObservation
from proxyless.telemetry.trace_context import NO_FORMATS, inject_further, traceparent
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.head import read
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.served_request import Line, ServedRequest
from proxyless.transport.inbound.target import Target

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_scope(scope: Scope, connection: Connection, *, drop_underscores: bool = False) -> tuple[ServedRequest, Target]:
    """Read an ASGI ``http`` or ``websocket`` scope of any server. drop_underscores: see ``read``."""
    raw = scope.get("raw_path")
    # As on the wire. ``raw_path`` is optional in ASGI; without it the path is percent-encoded again.
    path = raw.decode("latin-1") if raw else quote(scope.get("path", ""), safe="/:@!$&'()*+,;=~-._%")
    path, _, more = path.partition("?")
    query = b"&".join(part for part in (more.encode("latin-1"), scope.get("query_string", b"")) if part)
    method = scope.get("method", "GET")
    target = Target(path, method)
    request = read(
        method,
        target,
        query,
        scope["headers"],
        connection,
        scope.get("scheme", "http"),
        old=scope.get("http_version", "1.1") in ("0.9", "1.0"),
        drop_underscores=drop_underscores,
    )
    return request, target


def judge(request: ServedRequest, caller: Caller, runtime: InboundRuntime, port: int | None) -> Respond | None:
    """The mesh's answer instead of the application's, None if the application may have the request."""
    if request.problem:
        reason = f"the request has {request.problem}"
        return respond(request, 400, b"Bad Request", reason, (), headers=(("connection", "close"),))
    verdict = decide(listener_of(runtime.snapshot().inbound, port or 0), caller, request)
    if verdict is ALLOW:
        return None
    if isinstance(verdict, Respond):
        return verdict
    request.kept = [line for line in request.kept if line[0].decode("latin-1") not in verdict.remove]
    request.kept += [(name.encode("ascii"), value.encode("latin-1")) for name, value in verdict.add]
    return None


class Admission:
    """Judges the requests of one connection. What does not depend on the request is found once for each configuration.

    Of a snapshot only what is about this process is kept: an idle connection keeps it for long.
    """

    __slots__ = ("_caller", "_inbound", "_open", "_port", "_runtime")

    def __init__(self, caller: Caller, runtime: InboundRuntime, port: int) -> None:
        self._caller = caller
        self._runtime = runtime
        self._port = port
        self._inbound: Mapping[int, InboundListener] | None = None
        self._open = False

    def judge(self, request: ServedRequest) -> Respond | None:
        """As the function of this name."""
        inbound = self._runtime.snapshot().inbound
        if inbound is not self._inbound:
            listener = listener_of(inbound, self._port)
            # Without filters only the connection counts.
            filtered = listener is not None and listener.filters
            self._open = not filtered and decide(listener, self._caller, request) is ALLOW
            self._inbound = inbound
        if self._open and not request.problem:
            return None
        return judge(request, self._caller, self._runtime, self._port)


def application_headers(request: ServedRequest, seen: ServerObservation) -> list[Line]:
    """The judged lines, with the request id and trace context that the application should log and may forward.

    Anew: the application may write to them, and telemetry still reads its own.
    """
    context = seen.context
    trace = context.trace
    lines = [
        *request.kept,
        (b"x-request-id", context.request_id.encode("ascii")),
        (b"traceparent", traceparent(trace).encode("ascii")),
    ]
    if trace.state or trace.formats is not NO_FORMATS:
        lines += [(name.encode("ascii"), value.encode("latin-1")) for name, value in inject_further(trace)]
    return lines


async def refuse(scope: Scope, send: Send, reply: Respond, seen: ServerObservation) -> None:
    """Tell telemetry, and answer with ``reply``."""
    # First: whoever sends the answer tells what he knows of its end, and that is not the reason.
    seen.end(reply.status, reply.flags, response_bytes=len(reply.body), reason=reply.reason or "refused")
    told = (*reply.headers, ("content-length", str(len(reply.body))), ("x-proxyless-reason", reply.reason))
    if reply.flags:
        told += (("x-envoy-response-flags", flag_letters(reply.flags)),)
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in told]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else reply.body})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": reply.body})
    else:
        # Closing before accepting makes the server answer 403.
        await send({"type": "websocket.close", "code": 1008, "reason": reply.reason[:120]})

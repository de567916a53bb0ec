"""What happens to an RPC before its servicer has it: observed, judged; and what telemetry is told at its end."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import unquote

from proxyless.engine.inbound import ALLOW, Allow, decide
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.inbound import InboundListener
from proxyless.model.load_report import BINARY
from proxyless.telemetry.context import RequestContext
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.observation import ServerObservation
from proxyless.telemetry.trace_context import inject
from proxyless.transport.grpc_server.load_reports import message
from proxyless.transport.grpc_server.metadata import Metadatum
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.head import path_problem
from proxyless.transport.inbound.runtime import InboundRuntime

# gRPC's status codes (grpc.io, "Status codes and their use in gRPC").
OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 1, 2, 4, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
# What grpcio's server says.
NOT_FOUND = "Method not found!"
TOO_MANY = "Concurrent RPC limit exceeded!"
UNREADABLE = "Exception deserializing request!"
_GONE = (Flag.DOWNSTREAM_CONNECTION_TERMINATION,)


class Refusal:
    """The mesh's answer instead of the servicer's."""

    __slots__ = ("code", "details", "flags", "metadata", "reason")

    def __init__(self, reply: Respond) -> None:
        told = dict(reply.headers)
        self.code = int(told.get("grpc-status", UNKNOWN))
        self.details = unquote(told.get("grpc-message", ""))
        self.reason = reply.reason
        self.flags = reply.flags
        rest = tuple(line for line in reply.headers if line[0].startswith("x-"))
        self.metadata: tuple[tuple[str, str], ...] = (*rest, ("x-proxyless-reason", reply.reason))
        if reply.flags:
            self.metadata += (("x-envoy-response-flags", flag_letters(reply.flags)),)


class Rpc:
    """One RPC, judged. refusal: set if its servicer must not have it.

    head: as policy sees it. read: those of its lines that telemetry reads. shown: metadata for the servicer, before the
    mesh's own. label: its method for metrics. known: somebody serves it by that name. received, sent: bytes of
    messages.
    """

    __slots__ = ("_ended", "_metadata", "_seen", "_shown", "received", "refusal", "sent")

    def __init__(
        self,
        runtime: InboundRuntime,
        facts: Connection,
        listener: InboundListener | None,
        head: Request,
        *,
        read: list[tuple[str, str]],
        shown: list[Metadatum],
        label: str,
        known: bool,
        authority_known: bool = True,
    ) -> None:
        self._ended = False
        self.received = self.sent = 0
        self._shown = shown
        self._metadata: tuple[Metadatum, ...] | None = None
        self._seen: ServerObservation = runtime.telemetry.begin_server(head, facts.observed, read, label)
        verdict: Allow | Respond
        if facts.not_after is not None and time.time() >= facts.not_after:
            # The identity has ended with its certificate.
            reason = "the certificate of this connection's caller has expired; connect again"
            verdict = respond(head, 401, b"certificate expired", reason, (), grpc_status=UNAVAILABLE)
        elif not known and (problem := path_problem(head.path, head.method)):
            verdict = respond(head, 400, b"Bad Request", f"the request has {problem}", ())
        else:
            verdict = decide(listener, facts.caller, head, authority_known=authority_known)
        self.refusal: Refusal | None = None
        if verdict is ALLOW:
            return
        if isinstance(verdict, Respond):
            self.refusal = Refusal(verdict)
        else:
            self._shown = [line for line in shown if line.key not in verdict.remove]
            self._shown += [Metadatum(key, value) for key, value in verdict.add]

    @property
    def metadata(self) -> tuple[Metadatum, ...]:
        """The servicer's."""
        if self._metadata is None:
            context = self._seen.context
            own = (("x-request-id", context.request_id), *inject(context.trace))
            self._metadata = (*self._shown, *[Metadatum(key, value) for key, value in own])
        return self._metadata

    @property
    def context(self) -> RequestContext:
        """What calls made from it continue."""
        return self._seen.context

    def load(self) -> tuple[Metadatum, ...]:
        """What the trailing metadata tells of the server's load, mostly nothing."""
        report = self._seen.load()
        return () if report is None else (Metadatum(BINARY, message(report).SerializeToString()),)

    def end(self, status: int, *, gone: bool = False, error: str = "") -> None:
        """status: gRPC's. gone: the caller went, or its deadline came. error: the servicer's exception, by name."""
        if self._ended:
            return
        self._ended = True
        flags: tuple[Flag, ...] = _GONE if gone else ()
        reason = ""
        if self.refusal is not None:
            flags, reason = self.refusal.flags, self.refusal.reason or "refused"
        self._seen.end(
            0 if gone else 200,
            flags,
            request_bytes=self.received,
            response_bytes=self.sent,
            reason=reason,
            error=error,
            grpc_status="" if gone else str(status),
        )


def number(code: Any) -> int:
    """Of a ``grpc.StatusCode`` or a number; UNKNOWN for what is neither."""
    value = getattr(code, "value", code)
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int) and 0 <= value <= 16 else UNKNOWN

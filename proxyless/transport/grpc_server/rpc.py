"""What happens to an RPC before its servicer has it: read, observed, judged; and what telemetry is told at its end."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import unquote

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import ALLOW, Allow, decide
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.inbound import InboundListener
from proxyless.model.load_report import BINARY
from proxyless.telemetry.application import serving
from proxyless.telemetry.grpc_metrics import OTHER
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.observation import ServerObservation
from proxyless.telemetry.telemetry import READ_HEADERS
from proxyless.telemetry.trace_context import TRACE_HEADERS, inject
from proxyless.transport.grpc_server.callers import Served
from proxyless.transport.grpc_server.context import Metadatum
from proxyless.transport.grpc_server.load_reports import message
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable, client_cert
from proxyless.transport.inbound.head import path_problem
from proxyless.transport.inbound.runtime import InboundRuntime

# gRPC's status codes (grpc.io, "Status codes and their use in gRPC").
UNKNOWN, UNAVAILABLE = 2, 14
# What telemetry reads, and writes anew for the servicer.
_CONTEXT = TRACE_HEADERS | {"x-request-id"}
# grpc-timeout has at most eight digits; whoever waits for longer than a day waits for ever.
_LONGEST_TIMEOUT = 86_400.0

Metadata = Iterable[tuple[str, str | bytes]]


class Refusal:
    """The mesh's answer instead of the servicer's."""

    __slots__ = ("code", "details", "flags", "metadata", "reason")

    def __init__(self, reply: Respond) -> None:
        told = dict(reply.headers)
        self.code = int(told.get("grpc-status", UNKNOWN))
        self.details = unquote(told.get("grpc-message", ""))
        self.reason = reply.reason
        self.flags = reply.flags
        self.metadata: tuple[tuple[str, str], ...] = (("x-proxyless-reason", reply.reason),)
        if reply.flags:
            self.metadata += (("x-envoy-response-flags", flag_letters(reply.flags)),)


class Sizes:
    """Bytes of the messages of one RPC."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Rpc:
    """One RPC, judged. refusal: set if its servicer must not have it. metadata: the servicer's.

    received, waits: its metadata, and the seconds its caller waits. known: somebody serves the method. problem: why it
    must be refused in any case.
    """

    __slots__ = ("_ended", "_seen", "_served", "_sizes", "metadata", "refusal")

    def __init__(
        self,
        runtime: InboundRuntime,
        served: Served,
        listener: InboundListener | None,
        *,
        method: str,
        received: Metadata,
        waits: float | None,
        sizes: Sizes,
        known: bool = True,
        problem: str = "",
    ) -> None:
        facts = served.facts
        kept, judged = read(received, facts)
        if waits is not None and 0 <= waits < _LONGEST_TIMEOUT:
            judged.append(("grpc-timeout", f"{int(waits * 1000)}m"))
        head = Request("POST", facts.local, method, "", "https" if facts.caller.tls else "http", judged)
        lines = [line for line in judged if line[0] in READ_HEADERS]
        self._served = served
        self._sizes = sizes
        self._ended = False
        self._seen: ServerObservation = runtime.telemetry.begin_server(
            head, facts.observed, lines, method[1:] if known else OTHER
        )
        verdict = _judge(served, listener, head, problem)
        self.refusal = Refusal(verdict) if isinstance(verdict, Respond) else None
        if isinstance(verdict, Allow) and verdict is not ALLOW:
            kept = [line for line in kept if line[0].lower() not in verdict.remove] + list(verdict.add)
        context = self._seen.context
        self.metadata = (
            *(Metadatum(key, value) for key, value in kept),
            Metadatum("x-request-id", context.request_id),
            *(Metadatum(key, value) for key, value in inject(context.trace)),
        )
        served.active += 1

    def serving(self) -> serving:
        """Calls made in the block continue this RPC."""
        return serving(self._seen.context)

    def load(self) -> tuple[Metadatum, ...]:
        """What the trailing metadata tells of the server's load, mostly nothing."""
        report = self._seen.load()
        return () if report is None else (Metadatum(BINARY, message(report).SerializeToString()),)

    def end(self, status: int, *, gone: bool = False, error: str = "") -> None:
        """status: gRPC's. gone: the caller went, or its deadline came. error: the servicer's exception, by name."""
        if self._ended:
            return
        self._ended = True
        self._served.active -= 1
        flags: tuple[Flag, ...] = (Flag.DOWNSTREAM_CONNECTION_TERMINATION,) if gone else ()
        reason = ""
        if self.refusal is not None:
            flags, reason = self.refusal.flags, self.refusal.reason or "refused"
        self._seen.end(
            0 if gone else 200,
            flags,
            request_bytes=self._sizes.received,
            response_bytes=self._sizes.sent,
            reason=reason,
            error=error,
            grpc_status="" if gone else str(status),
        )


def _judge(served: Served, listener: InboundListener | None, head: Request, problem: str) -> Allow | Respond:
    verdict: Allow | Respond
    if problem:
        verdict = respond(head, 403, b"unknown connection", problem, ())
    elif served.expired:
        reason = "the certificate of this connection's caller has expired; connect again"
        verdict = respond(head, 401, b"certificate expired", reason, (), grpc_status=UNAVAILABLE)
    elif problem := path_problem(head.path, head.method):
        verdict = respond(head, 400, b"Bad Request", f"the request has {problem}", ())
    else:
        # grpcio tells its interceptors the method, and not the authority.
        verdict = decide(listener, served.facts.caller, head, authority_known=False)
    return verdict


def read(received: Metadata, facts: Connection) -> tuple[list[tuple[str, str | bytes]], list[tuple[str, str]]]:
    """Metadata by the rules for HTTP headers: what the servicer gets (without trace and request id), what is judged."""
    authenticated = facts.caller.peer is not None
    kept: list[tuple[str, str | bytes]] = []
    judged: list[tuple[str, str]] = [("content-type", "application/grpc")]
    forwarded: list[str] = []
    for key, value in received:
        name = key.lower()
        if not believable(name, authenticated):
            continue
        text = value if isinstance(value, str) else base64.b64encode(value).decode("ascii")
        if name == XFCC:
            forwarded.append(text)
            continue
        # grpc-timeout is gRPC's own: what it says is in the context.
        if name not in ("content-type", "grpc-timeout"):
            judged.append((name, text))
        if name not in _CONTEXT:
            kept.append((key, value))
    told = client_cert(forwarded, facts)
    if told is not None:
        judged.append((XFCC, told))
        kept.append((XFCC, told))
    return kept, judged


def anonymous(peer: str) -> Served:
    """A caller of a server that is not ours. peer: as gRPC writes it."""
    scheme, _, address = peer.partition(":")
    remote = unquote(address) if scheme in ("ipv4", "ipv6") else ""
    return Served(Connection(Caller(remote=remote), remote=remote), 0)


def error_name(error: BaseException) -> str:
    """ "" for the exception by which ``abort`` ends a servicer."""
    import grpc

    aborted = isinstance(error, grpc.aio.AbortError) or (type(error) is Exception and not error.args)
    return "" if aborted else type(error).__name__

"""How a call ended, and what an attempt's end means for the engine."""

import re
import time
from dataclasses import dataclass
from urllib.parse import unquote

import grpc

from proxyless.engine import replies
from proxyless.engine.steps import Answered, Failed, FailureKind, Flag, Outcome, Respond
from proxyless.transport.grpc_client.metadata import Metadata, lines, metadata

CODES = {code.value[0]: code for code in grpc.StatusCode}
# grpcio says who made a status only in its text: these are its own words for a connection that failed.
_NOT_CONNECTED = re.compile(
    r"failed to connect to all addresses|DNS resolution failed|empty address list|Domain name not found"
    r"|call host does not match|Failed to create secure"
)
_REFUSED = re.compile(r"RST_STREAM with error code 7|REFUSED_STREAM", re.IGNORECASE)
_BROKEN = re.compile(
    r"Socket closed|Connection reset|recvmsg|sendmsg|Broken pipe|Stream removed|RST_STREAM|GOAWAY|Connection closed"
    r"|keepalive (watchdog )?timeout|ping timeout|Endpoint clos|Transport closed|Connection dropped|EOF",
    re.IGNORECASE,
)
_EXPIRED = "Deadline Exceeded"
_NO_CONNECTION = frozenset({Flag.NO_HEALTHY_UPSTREAM, Flag.UPSTREAM_CONNECTION_FAILURE})


@dataclass(frozen=True, slots=True)
class Status:
    """code, details and trailing metadata as the application sees them. local: the application itself cancelled."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Metadata = ()
    local: bool = False

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    @property
    def number(self) -> str:
        return str(self.code.value[0])

    def __str__(self) -> str:
        return f"{self.code.name}: {self.details}" if self.details else self.code.name


CANCELLED = Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", local=True)


def unavailable(details: str) -> Status:
    return Status(grpc.StatusCode.UNAVAILABLE, details)


def of_reply(step: Respond, *, out_of_time: bool) -> Status:
    """An answer of the mesh itself. It says why in its trailing metadata, as the HTTP side does in headers.

    out_of_time: the call's deadline has passed; Envoy answers UNAVAILABLE then, but to a gRPC client its deadline is
    DEADLINE_EXCEEDED, whoever set it (gRFC A31). And without a route gRPC's own xDS client says UNAVAILABLE: by Envoy's
    UNIMPLEMENTED an application would take the server to lack the method.
    """
    code, details, rest = None, step.body.decode("utf-8", "replace"), []
    for name, value in step.headers:
        if name == "grpc-status":
            code = CODES.get(int(value), grpc.StatusCode.UNKNOWN)
        elif name == "grpc-message":
            details = unquote(value)
        else:
            rest.append((name, value))
    if code is None:
        code = CODES[replies.grpc_status(step.status)]
    if out_of_time:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    elif Flag.NO_ROUTE in step.flags:
        code = grpc.StatusCode.UNAVAILABLE
    if step.reason:
        rest.append(("x-proxyless-reason", step.reason))
        details = f"{details}: {step.reason}" if details else step.reason
    if step.flags:
        rest.append(("x-envoy-response-flags", ",".join(flag.value for flag in step.flags)))
    return Status(code, details, metadata(rest))


def is_not_connected(step: Respond) -> bool:
    """Whether a call with ``wait_for_ready`` goes on waiting instead: nothing was there to connect to."""
    return not _NO_CONNECTION.isdisjoint(step.flags)


def outcome(status: Status, deadline: float | None, *, consumed: bool) -> Outcome:
    """An attempt that ended before its first message. consumed: its requests cannot be sent again."""
    code, details = status.code, status.details
    # grpcio's own timers run out a little early, under load by tens of milliseconds; a server's status is its own.
    early = 0.25 if details == _EXPIRED and not status.trailing else 0.01
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and deadline is not None and time.monotonic() >= deadline - early:
        return Failed(FailureKind.TIMEOUT, details, request_sent=True, body_consumed=consumed)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED) and _NOT_CONNECTED.search(details):
        return Failed(FailureKind.CONNECT, details, body_consumed=consumed)
    if not status.trailing and code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
    ):
        if _REFUSED.search(details):
            return Failed(FailureKind.REFUSED_STREAM, details, request_sent=True, body_consumed=consumed)
        if _BROKEN.search(details):
            return Failed(FailureKind.RESET, details, request_sent=True, body_consumed=consumed)
    return Answered(200, [*lines(status.trailing), ("grpc-status", status.number)])

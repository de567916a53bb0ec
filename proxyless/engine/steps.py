"""What a call asks of the adapter that performs it, and what the adapter reports back.

The loop, the same for every protocol::

    while (step := call.next_step()) is not None:
        match step:
            case Delay(seconds=seconds):  sleep(seconds)
            case Respond():               answer with it; the call is over
            case Attempt():               call.report(send(step))       # Answered or Failed

After ``None`` the last answer reported is the one for the application.

Hedged attempts are under way together (Envoy's request hedging)::

            case Attempt(hedged=True):    start it, and ask for the next step at once
            case Wait(seconds=seconds):   until an attempt ends, call.report(its outcome, its number), or time is over

What a reported attempt brought is for the application if None comes next, and for nobody if another step does. With
``None`` or ``Respond`` end all others.
"""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from proxyless.model.cluster import Cluster, Endpoint


class Flag(enum.Enum):
    """Envoy's response flags (access log, %RESPONSE_FLAGS%): why the mesh, not the service, decided an outcome."""

    # In Envoy's order, which is that of its log.
    NO_HEALTHY_UPSTREAM = "UH"
    UPSTREAM_REQUEST_TIMEOUT = "UT"
    UPSTREAM_REMOTE_RESET = "UR"
    UPSTREAM_CONNECTION_FAILURE = "UF"
    UPSTREAM_CONNECTION_TERMINATION = "UC"
    UPSTREAM_OVERFLOW = "UO"
    NO_ROUTE = "NR"
    DELAY_INJECTED = "DI"
    FAULT_INJECTED = "FI"
    RATE_LIMITED = "RL"
    DOWNSTREAM_CONNECTION_TERMINATION = "DC"
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX"
    NO_CLUSTER_FOUND = "NC"
    DROP_OVERLOAD = "DO"
    UNCONDITIONAL_DROP_OVERLOAD = "UDO"


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before asking for the next step. ``reason`` is ``fault`` or ``back-off``."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Respond:
    """The mesh answers itself. ``reason`` goes into ``x-proxyless-reason``, ``flags`` into the access log and
    telemetry.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    reason: str = ""
    flags: tuple[Flag, ...] = ()


# Named tuples, here and below: every call makes them, and a frozen dataclass costs a call per field.
class Attempt(NamedTuple):
    """Send the request to ``endpoint`` with this head.

    number: 1 for the first attempt. timeout: seconds within which the response head must be here, None for no limit;
    TCP and TLS have the cluster's connect timeout as well. With a PASSTHROUGH cluster ``endpoint`` is what was dialled.
    hedged: others of the call may be under way beside it.
    """

    endpoint: Endpoint
    cluster: Cluster
    number: int
    timeout: float | None
    method: str
    path: str
    authority: str
    headers: list[tuple[str, str]]
    hedged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Until one of the attempts under way ends, at most for ``seconds``, None for as long as it takes."""

    seconds: float | None


class FailureKind(enum.Enum):
    CONNECT = "connect"  # no connection: refused, unreachable, connect timeout, TLS or identity refused
    RESET = "reset"  # the connection ended, or broke the protocol, before the response head was complete
    REFUSED_STREAM = "refused-stream"  # HTTP/2 REFUSED_STREAM: the server did not process it
    TIMEOUT = "timeout"  # Attempt.timeout ran out
    OVERFLOW = "overflow"  # a limit of our own connection pool


class Answered(NamedTuple):
    """The response head arrived. Header names are lower case."""

    status: int
    headers: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt brought no response head.

    request_sent: at least a part of the request reached the connection (so the server may have acted on it).
    body_consumed: the body was read and cannot be sent again unless the request is replayable.
    detail: for people; never key material.
    """

    kind: FailureKind
    detail: str
    request_sent: bool = False
    body_consumed: bool = False


Step = Delay | Respond | Attempt | Wait
Outcome = Answered | Failed

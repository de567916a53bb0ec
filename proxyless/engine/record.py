"""What happened to one call: filled by the engine and the transport, read by telemetry and explanations."""

from dataclasses import dataclass, field

from proxyless.engine.steps import Failed, Flag
from proxyless.model.cluster import Cluster, Endpoint

# The durations of an attempt, in the order in which they pass.
PHASES = ("queue", "resolve", "connect", "tls", "send", "wait", "receive")
_ORDER = {flag: place for place, flag in enumerate(Flag)}


@dataclass(slots=True)
class AttemptRecord:
    """One attempt. Times are monotonic seconds; durations are seconds, None where they do not apply.

    queue: until there was room for it in the pool. resolve, connect, tls: setting up a connection. send: the request.
    wait: from then until the response head. receive: from then until the end of the body. reused: the connection had
    served before. peer: the SPIFFE ID that the endpoint proved. grpc_status: its number, where an attempt of a gRPC
    call ended with one. These are the transport's to fill.

    hedge: it began while an earlier one was under way. lost: it was ended because another was the answer.
    """

    number: int
    endpoint: Endpoint
    started: float
    ended: float | None = None
    status: int | None = None
    failure: Failed | None = None
    queue: float | None = None
    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    send: float | None = None
    wait: float | None = None
    receive: float | None = None
    reused: bool | None = None
    peer: str | None = None
    grpc_status: str = ""
    hedge: bool = False
    lost: bool = False


@dataclass(slots=True)
class CallRecord:
    """One call. ``route`` is the route's name and ``origin`` the rule it was written in; both may be empty.

    attempts: in order, but the one that decided a hedged call comes last. How they began is told by their numbers.

    status: of the response that the application gets, None while there is none. reason: for people, why the mesh
    decided. policy: seconds spent on deciding, all attempts together.
    """

    target: str
    started: float
    virtual_host: str = ""
    route: str = ""
    origin: str = ""
    cluster: Cluster | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    status: int | None = None
    reason: str = ""
    ended: float | None = None
    policy: float = 0.0

    def phases(self) -> dict[str, float]:
        """Seconds by phase: ``policy``, and the attempts' own, summed; those that did not pass are left out."""
        found = {"policy": self.policy}
        for name in PHASES:
            passed = [seconds for attempt in self.attempts if (seconds := getattr(attempt, name)) is not None]
            if passed:
                found[name] = sum(passed)
        return found

    def flag(self, flag: Flag) -> None:
        """Adds a response flag once; they stay in Envoy's order."""
        if flag not in self.flags:
            self.flags.append(flag)
            self.flags.sort(key=_ORDER.__getitem__)

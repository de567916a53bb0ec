"""A routing decision as data: what ``explain`` returns, what ``-o json`` prints. Field names are stable.

Shares and percentages are 0 to 100, durations seconds; None or an empty text or list is "none".
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RouteCheck:
    """One route in order. why: what the request lacks, or what matched. percent: of the requests that match."""

    index: int
    name: str
    origin: str
    matched: bool
    why: str
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class EndpointFact:
    """identity: we present our certificate. san: what the peer's identity must match, empty for any of the mesh.

    ejected: outlier detection leaves it out for now.
    """

    address: str
    health: str
    usable: bool
    weight: int
    priority: int
    locality: str
    tls: bool
    identity: bool
    san: tuple[str, ...]
    labels: dict[str, str]
    ejected: bool = False


@dataclass(frozen=True, slots=True)
class FaultFact:
    """applies: the request meets the fault's header condition."""

    source: str
    applies: bool
    headers: tuple[str, ...] = ()
    delay_seconds: float | None = None
    delay_percent: float = 0.0
    abort_http_status: int | None = None
    abort_grpc_status: int | None = None
    abort_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class RateLimitFact:
    """Requests that get a token of the bucket pass. rate: as ``proxyless.io/rate-limit`` has it. name: who set it."""

    name: str
    rate: str
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class HeaderFact:
    """One header mutation. source: cluster, route or virtual host. action: remove, append, overwrite, ..."""

    source: str
    action: str
    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFact:
    """One leg of the split. share: of the route's requests. problem: why it cannot serve but answers ``status``."""

    cluster: str
    weight: int
    share: float
    load_balancer: str = ""
    protocol: str = ""
    service: str = ""
    endpoints: tuple[EndpointFact, ...] = ()
    drop_percent: float = 0.0
    fault: FaultFact | None = None
    rate_limit: RateLimitFact | None = None
    authority: str = ""
    request_headers: tuple[HeaderFact, ...] = ()
    response_headers: tuple[HeaderFact, ...] = ()
    problem: str = ""
    status: int | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MirrorFact:
    """Where copies go. percent: of the route's requests. problem: why there are none."""

    cluster: str
    percent: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RetryFact:
    """hedge: a try that takes longer than ``per_try_timeout`` is not ended, but a retry begins beside it."""

    conditions: tuple[str, ...]
    num_retries: int
    per_try_timeout: float | None
    back_off_base: float
    back_off_max: float
    retriable_status_codes: tuple[int, ...]
    other_host: bool
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """outcome: passthrough, no_route, forward, redirect, direct_response or refused.

    status and reason: the mesh's own answer, where it gives one. route: index of the chosen one in ``routes``.
    """

    method: str
    target: str
    authority: str
    path: str
    generation: int
    config: str
    outcome: str
    reason: str = ""
    status: int | None = None
    listener: str = ""
    route_configuration: str = ""
    virtual_host: str = ""
    domains: tuple[str, ...] = ()
    routes: tuple[RouteCheck, ...] = ()
    route: int | None = None
    origin: str = ""
    clusters: tuple[ClusterFact, ...] = ()
    timeout: float | None = None
    retry: RetryFact | None = None
    sent_path: str = ""
    location: str = ""
    fault: FaultFact | None = None
    rate_limit: RateLimitFact | None = None
    response_headers: tuple[HeaderFact, ...] = ()
    ignored: tuple[str, ...] = ()
    mirrors: tuple[MirrorFact, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: dicts, lists, texts, numbers, None."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_text(self) -> list[str]:
        """Lines for people."""
        from proxyless.engine.explanation_text import lines

        return lines(self)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value

"""Routes: what a request to a target meets (Envoy's config.route.v3), as the engine needs it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxyless.model.matching import HeaderMatcher, Regex, RouteMatch
from proxyless.model.rate_limit import RateLimit


class HeaderAction(enum.Enum):
    """Envoy's HeaderValueOption.HeaderAppendAction."""

    APPEND = "append"  # add another line, or the first
    ADD_IF_ABSENT = "add_if_absent"
    OVERWRITE = "overwrite"  # set, whether or not it is there
    OVERWRITE_IF_EXISTS = "overwrite_if_exists"


@dataclass(frozen=True, slots=True)
class HeaderSet:
    name: str  # lower case
    value: str
    action: HeaderAction


@dataclass(frozen=True, slots=True)
class HeaderMutations:
    """Removals are applied first, then the sets in order."""

    sets: tuple[HeaderSet, ...] = ()
    removes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sets or self.removes)


NO_MUTATIONS = HeaderMutations()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Envoy's route.v3.RetryPolicy; the gRPC subset is gRFC A44.

    conditions: lower-case names of Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on, and our own ``reset-idempotent``
        (the connection ended before any byte of a response, and the method is idempotent: RFC 9110 section 9.2.2).
    num_retries: attempts after the first. per_try_timeout: seconds, None for the route's timeout.
    back_off_base, back_off_max: seconds; the n-th wait is uniform in [0, min(base * (2**n - 1), max)) as Envoy's.
    retry_other_host: avoid hosts already tried (previous_hosts predicate), asking the balancer at most
    ``host_selection_attempts``
        more times.
    """

    conditions: frozenset[str]
    num_retries: int = 1
    per_try_timeout: float | None = None
    retriable_status_codes: frozenset[int] = frozenset()
    retriable_headers: tuple[HeaderMatcher, ...] = ()
    back_off_base: float = 0.025
    back_off_max: float = 0.25
    retry_other_host: bool = False
    host_selection_attempts: int = 1


@dataclass(frozen=True, slots=True)
class FaultDelay:
    seconds: float
    parts_per_million: int


@dataclass(frozen=True, slots=True)
class FaultAbort:
    """``http_status`` or ``grpc_status`` is set, the other is None."""

    parts_per_million: int
    http_status: int | None = None
    grpc_status: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Envoy's fault filter (gRFC A33). It acts on requests that match all ``headers``."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: tuple[HeaderMatcher, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """One leg of a split. Shares are weight / sum of weights; a weight of 0 gets nothing."""

    cluster: str
    weight: int = 1
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    host_rewrite: str | None = None
    fault: Fault | None = None
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    regex: Regex
    substitution: str


@dataclass(frozen=True, slots=True)
class HashHeader:
    """Hash a request header's values. terminal: no further policy once there is a hash."""

    name: str  # lower case
    rewrite: RegexRewrite | None = None
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class HashCookie:
    """Hash a cookie. ttl: seconds; with one a missing cookie is made and set on the response, 0 for a session's."""

    name: str
    ttl: float | None = None
    path: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class HashQuery:
    """Hash the first value of a query parameter, as it was sent."""

    name: str
    terminal: bool = False


# Envoy's route.v3.RouteAction.HashPolicy.
HashPolicy = HashHeader | HashCookie | HashQuery


@dataclass(frozen=True, slots=True)
class Mirror:
    """Envoy's RouteAction.RequestMirrorPolicy: copies of a share of the requests go to ``cluster`` as well.

    shadow_host: ``-shadow`` is appended to the copy's host. traced: a copy is in its request's trace.
    """

    cluster: str
    parts_per_million: int = 1_000_000
    shadow_host: bool = True
    traced: bool = True


@dataclass(frozen=True, slots=True)
class Forward:
    """Send to one of ``clusters``.

    timeout: seconds for the whole call including retries, None for no limit (Istio's default).
    hedge: Envoy's HedgePolicy.hedge_on_per_try_timeout.
    prefix_rewrite replaces the matched prefix (or the whole exact path); at most one rewrite is set.
    """

    clusters: tuple[WeightedCluster, ...]
    timeout: float | None = None
    retry: RetryPolicy | None = None
    prefix_rewrite: str | None = None
    regex_rewrite: RegexRewrite | None = None
    host_rewrite: str | None = None
    auto_host_rewrite: bool = False  # to the endpoint's hostname
    # Envoy's cluster_not_found_response_code; Istio sets 500 for a Gateway API backend that does not exist.
    cluster_not_found_status: int = 503
    # In order; they count for clusters that balance by hash.
    hash_policies: tuple[HashPolicy, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    hedge: bool = False

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """All that requests and their copies may go to."""
        return (*(leg.cluster for leg in self.clusters), *(mirror.cluster for mirror in self.mirrors))


@dataclass(frozen=True, slots=True)
class Redirect:
    """Envoy's route.v3.RedirectAction. None keeps that part of the request's URL."""

    status: int = 301
    scheme: str | None = None
    https: bool = False
    host: str | None = None
    port: int | None = None
    path: str | None = None
    prefix_rewrite: str | None = None
    regex_rewrite: RegexRewrite | None = None
    strip_query: bool = False


@dataclass(frozen=True, slots=True)
class DirectResponse:
    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """A route whose action we cannot perform. It answers ``status`` and says why: never widened, never skipped."""

    reason: str
    status: int = 500


Action = Forward | Redirect | DirectResponse | Refused


@dataclass(frozen=True, slots=True)
class Route:
    """``origin`` is where the rule was written, e.g. ``VirtualService default/reviews http[0]``; it feeds
    explanations.
    """

    match: RouteMatch
    action: Action
    name: str = ""
    origin: str = ""
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    fault: Fault | None = None
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """``domains`` may be exact, ``*.suffix``, ``prefix.*`` or ``*`` (Envoy's search order: exact, suffix, prefix,
    any).
    """

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS


@dataclass(frozen=True, slots=True)
class Listener:
    """A target that a client may dial: an xDS API listener with its route configuration resolved (gRFC A27).

    name: the target, ``host:port`` as the client asked. virtual_host: the one its authority selects, None if no
    domain matched (every request is then 404 NR). ignored: fields the control plane sent that we do not act on, for
    the report.
    """

    name: str
    route_configuration: str
    virtual_host: VirtualHost | None
    fault: Fault | None = None
    rate_limit: RateLimit | None = None
    ignored: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

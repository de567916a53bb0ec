"""What is decided about a request before anything is done: listener, virtual host, route, leg of the split, cluster."""

import random
from dataclasses import dataclass, replace

from proxyless.engine.identity_cache import IdentityCache
from proxyless.engine.paths import is_acceptable
from proxyless.engine.request import Request
from proxyless.engine.routing import find_route
from proxyless.engine.split import Split
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint
from proxyless.model.domains import split_port
from proxyless.model.rate_limit import RateLimit
from proxyless.model.route import (
    Fault,
    Forward,
    HeaderMutations,
    Listener,
    Mirror,
    Route,
    VirtualHost,
    WeightedCluster,
)
from proxyless.model.snapshot import EMPTY, Snapshot

# Envoy's and Istio's name for it, so that telemetry groups such calls as a sidecar's does.
PASSTHROUGH = Cluster("PassthroughCluster", ClusterKind.PASSTHROUGH)

# Looking a member up in an enum's class costs Python 3.11 more than all else here.
_PASSTHROUGH = ClusterKind.PASSTHROUGH


@dataclass(frozen=True, slots=True)
class Decision:
    """passthrough: set for a host that the mesh does not know. problem: why there is no route or no cluster.
    no_route_status: what a request without a route is answered.

    faults, request_mutations, response_mutations: most specific first, as Envoy applies them; no levels
    of mutations when all are empty. mirrors: where copies go, and the decision about each.
    rate_limit: None for no limit.
    """

    route: Route | None = None
    virtual_host: VirtualHost | None = None
    leg: WeightedCluster | None = None
    cluster: Cluster | None = None
    passthrough: Cluster | None = None
    problem: str = ""
    faults: tuple[Fault | None, ...] = ()
    request_mutations: tuple[HeaderMutations, ...] = ()
    response_mutations: tuple[HeaderMutations, ...] = ()
    host_rewrite: str | None = None
    auto_host_rewrite: bool = False
    no_cluster_status: int = 503
    no_route_status: int = 404
    dialled: Endpoint | None = None
    mirrors: "tuple[tuple[Mirror, Decision], ...]" = ()
    rate_limit: RateLimit | None = None


def decide(
    snapshot: Snapshot, listener: Listener | None, request: Request, known: "Known", rng: random.Random
) -> Decision:
    """Match the route and draw the split. One draw serves all routes that take a fraction, another the split."""
    if listener is None:
        return Decision(passthrough=PASSTHROUGH, dialled=dialled(request))
    if not is_acceptable(request.path):
        return Decision(problem="the path has an escaped NUL", no_route_status=400)
    virtual_host = listener.virtual_host
    if virtual_host is None:
        problem, limit = no_route(listener, request), rate_limit(listener.rate_limit)
        return Decision(problem=problem, faults=(listener.fault,), rate_limit=limit)
    route = find_route(virtual_host, request, rng.random())
    if route is None:
        problem, limit = no_route(listener, request), rate_limit(listener.rate_limit)
        return Decision(virtual_host=virtual_host, problem=problem, faults=(listener.fault,), rate_limit=limit)
    action = route.action
    if not isinstance(action, Forward):
        return Decision(
            route=route,
            virtual_host=virtual_host,
            faults=(route.fault, listener.fault),
            response_mutations=_levels(route.response_headers, virtual_host.response_headers),
            rate_limit=rate_limit(route.rate_limit, listener.rate_limit),
        )
    forwards = known.forwards(snapshot)
    legs = action.clusters
    leg = legs[0] if len(legs) == 1 and legs[0].weight else known.splits.get(action).pick(rng.random())
    if leg is None:
        return forward(snapshot, request, listener, route, leg)
    place = id(listener), id(route), id(leg)
    decision = forwards.get(place)
    if decision is None:
        decision = forward(snapshot, request, listener, route, leg)
        if decision.dialled is None:
            forwards[place] = decision
    return decision


class Known:
    """What many requests meet alike, worked out by the first of them. No lock: two may do so at once."""

    __slots__ = ("_forwards", "splits")

    def __init__(self) -> None:
        self.splits: IdentityCache[Forward, Split] = IdentityCache(lambda action: Split(action.clusters))
        self._forwards: tuple[Snapshot, dict[tuple[int, int, int], Decision]] = EMPTY, {}

    def forwards(self, snapshot: Snapshot) -> dict[tuple[int, int, int], Decision]:
        """Decisions to forward, by the identities of listener, route and leg: as long as the snapshot has them."""
        made_for, found = self._forwards
        if made_for is not snapshot:
            found = {}
            self._forwards = snapshot, found
        return found


def forward(
    snapshot: Snapshot, request: Request, listener: Listener, route: Route, leg: WeightedCluster | None
) -> Decision:
    """The decision once the leg of a forwarding route is drawn; None when all its weights are 0."""
    virtual_host, action = listener.virtual_host, route.action
    assert virtual_host is not None
    assert isinstance(action, Forward)
    if leg is None:
        # Gateway API: a rule whose backends all have weight 0 answers 500.
        return Decision(
            route=route,
            virtual_host=virtual_host,
            faults=(route.fault, listener.fault),
            problem="every cluster of the route has weight 0",
            no_cluster_status=500,
            rate_limit=rate_limit(route.rate_limit, listener.rate_limit),
        )
    cluster = snapshot.clusters.get(leg.cluster)
    passes = cluster is not None and cluster.kind is _PASSTHROUGH
    return Decision(
        route=route,
        virtual_host=virtual_host,
        leg=leg,
        cluster=cluster,
        problem="" if cluster is not None else f"cluster {leg.cluster} is not known",
        faults=(leg.fault, route.fault, listener.fault),
        request_mutations=_levels(leg.request_headers, route.request_headers, virtual_host.request_headers),
        response_mutations=_levels(leg.response_headers, route.response_headers, virtual_host.response_headers),
        # Envoy applies the leg's first and then the route's, so the route's wins.
        host_rewrite=action.host_rewrite or leg.host_rewrite,
        auto_host_rewrite=action.auto_host_rewrite,
        no_cluster_status=action.cluster_not_found_status,
        dialled=dialled(request) if passes else None,
        mirrors=mirrored(snapshot, virtual_host, route, action) if action.mirrors else (),
        rate_limit=rate_limit(leg.rate_limit, route.rate_limit, listener.rate_limit),
    )


def rate_limit(*levels: RateLimit | None) -> RateLimit | None:
    """The most specific one, given most specific first; None if that is none."""
    for level in levels:
        if level is not None:
            return level if level.enabled else None
    return None


# Seconds that a copy may take where its route says nothing: Envoy's own default of a route's timeout.
_MIRROR_TIMEOUT = 15.0


def mirrored(
    snapshot: Snapshot, virtual_host: VirtualHost, route: Route, action: Forward
) -> tuple[tuple[Mirror, Decision], ...]:
    """A copy has its route's timeout, and neither retries nor faults, as in Envoy; unlike there, it has a timeout
    always. What has no cluster is left out.
    """
    found = []
    for mirror in action.mirrors:
        cluster = snapshot.clusters.get(mirror.cluster)
        if cluster is not None and cluster.kind is not _PASSTHROUGH:
            timeout = action.timeout or _MIRROR_TIMEOUT
            to = Forward((WeightedCluster(mirror.cluster),), timeout, hash_policies=action.hash_policies)
            decision = Decision(replace(route, action=to), virtual_host, to.clusters[0], cluster)
            found.append((mirror, decision))
    return tuple(found)


def _levels(*levels: HeaderMutations) -> tuple[HeaderMutations, ...]:
    return levels if any(levels) else ()


def no_route(listener: Listener, request: Request) -> str:
    """Why a request is answered 404."""
    if listener.virtual_host is None:
        return f"no virtual host of {listener.route_configuration} serves {listener.name}"
    return f"no route of virtual host {listener.virtual_host.name} matches {request.method} {request.path_only}"


def dialled(request: Request) -> Endpoint:
    """The address that the application asked for, as an endpoint."""
    host, port = split_port(request.target)
    return Endpoint(host.strip("[]"), port or (443 if request.scheme == "https" else 80))

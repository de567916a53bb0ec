"""What a request would meet, without sending it: the decisions of ``decision`` and ``matching``, told as data."""

from collections.abc import Callable, Set
from dataclasses import replace

from proxyless.engine import describe, hygiene, rewrite
from proxyless.engine.decision import Decision, dialled, forward, no_route, rate_limit
from proxyless.engine.explanation import (
    ClusterFact,
    EndpointFact,
    Explanation,
    FaultFact,
    HeaderFact,
    MirrorFact,
    RateLimitFact,
    RetryFact,
    RouteCheck,
)
from proxyless.engine.matching import Subject, headers_match
from proxyless.engine.request import Request
from proxyless.engine.split import Split
from proxyless.model.address import join_address
from proxyless.model.cluster import Cluster, Endpoint, Health, LocalityEndpoints
from proxyless.model.errors import NotReadyError
from proxyless.model.rate_limit import RateLimit
from proxyless.model.route import (
    NO_MUTATIONS,
    DirectResponse,
    Fault,
    Forward,
    HeaderMutations,
    Listener,
    Mirror,
    Redirect,
    Refused,
    Route,
)
from proxyless.model.snapshot import Snapshot

Ejected = Callable[[Cluster], Set[tuple[str, int]]]
_SOURCES = ("cluster", "route", "virtual host")


def _nobody(_: Cluster) -> frozenset[tuple[str, int]]:
    return frozenset()


def explain(snapshot: Snapshot, request: Request, ejected: Ejected = _nobody) -> Explanation:
    """The decision about one request. Raises NotReadyError for a target that is not in the snapshot.

    ejected: which endpoints of a cluster outlier detection leaves out now; without an engine that is nobody.
    """
    if request.target not in snapshot.listeners:
        raise NotReadyError(f"target {request.target} has not been resolved yet")
    listener = snapshot.listeners[request.target]
    told = Explanation(
        method=request.method,
        target=request.target,
        authority=request.authority,
        path=request.path,
        generation=snapshot.generation,
        config=snapshot.origin.value,
        outcome="no_route",
    )
    if listener is None:
        reason = f"the mesh knows no {request.target}: the request goes to {dialled(request)} as it is"
        return replace(told, outcome="passthrough", reason=reason, sent_path=request.path)
    told = replace(
        told,
        listener=listener.name,
        route_configuration=listener.route_configuration,
        ignored=listener.ignored,
        fault=_fault(request, (("listener", listener.fault),)),
        rate_limit=_rate_limit(rate_limit(listener.rate_limit)),
    )
    virtual_host = listener.virtual_host
    if virtual_host is not None:
        checks = tuple(_check(index, route, request) for index, route in enumerate(virtual_host.routes))
        told = replace(told, virtual_host=virtual_host.name, domains=virtual_host.domains, routes=checks)
        chosen = next((check.index for check in checks if check.matched and check.percent >= 100), None)
        if chosen is not None:
            route = virtual_host.routes[chosen]
            told = replace(told, route=chosen, origin=route.origin)
            return _with_ejections(_route(told, snapshot, listener, route, request), snapshot, ejected)
    return replace(told, status=404, reason=no_route(listener, request))


def _with_ejections(told: Explanation, snapshot: Snapshot, ejected: Ejected) -> Explanation:
    facts = []
    for fact in told.clusters:
        cluster = snapshot.clusters.get(fact.cluster)
        out = {join_address(*key) for key in ejected(cluster)} if cluster is not None else set()
        endpoints = tuple(
            replace(one, ejected=True, usable=False) if one.address in out else one for one in fact.endpoints
        )
        facts.append(replace(fact, endpoints=endpoints) if out else fact)
    return replace(told, clusters=tuple(facts))


def _check(index: int, route: Route, request: Request) -> RouteCheck:
    why = describe.why_not(route.match, Subject(request))
    fraction = route.match.fraction
    percent = 100.0 if fraction is None else min(100.0, fraction / 10_000)
    matched = not why and percent > 0
    if not why:
        why = describe.matcher(route.match)
    return RouteCheck(index, route.name, route.origin, matched, why, percent)


def _route(told: Explanation, snapshot: Snapshot, listener: Listener, route: Route, request: Request) -> Explanation:
    action, virtual_host = route.action, listener.virtual_host
    assert virtual_host is not None
    mutations = (NO_MUTATIONS, route.response_headers, virtual_host.response_headers)
    fault = _fault(request, (("route", route.fault), ("listener", listener.fault)))
    limit = _rate_limit(rate_limit(route.rate_limit, listener.rate_limit))
    told = replace(told, response_headers=_mutations(mutations), fault=fault, rate_limit=limit)
    match action:
        case Redirect():
            location = rewrite.redirect_location(request, route.match.path, action)
            return replace(told, outcome="redirect", status=action.status, location=location)
        case DirectResponse():
            return replace(told, outcome="direct_response", status=action.status)
        case Refused():
            reason = f"the route cannot be followed: {action.reason}"
            return replace(told, outcome="refused", status=action.status, reason=reason)
        case Forward():
            return _forward(told, snapshot, listener, route, request)


def _forward(told: Explanation, snapshot: Snapshot, listener: Listener, route: Route, request: Request) -> Explanation:
    action = route.action
    assert isinstance(action, Forward)
    split = Split(action.clusters)
    effort = hygiene.effort(request, action)
    policy = effort.retry
    told = replace(
        told,
        outcome="forward",
        # Each leg tells its own: a leg's or route's fault or limit replaces the listener's.
        fault=None,
        rate_limit=None,
        response_headers=(),
        timeout=effort.timeout,
        retry=None
        if policy is None
        else RetryFact(
            conditions=tuple(sorted(policy.conditions)),
            num_retries=policy.num_retries,
            per_try_timeout=effort.per_try,
            back_off_base=policy.back_off_base,
            back_off_max=policy.back_off_max,
            retriable_status_codes=tuple(sorted(policy.retriable_status_codes)),
            other_host=policy.retry_other_host,
            hedge=effort.hedge and effort.per_try is not None,
        ),
        sent_path=rewrite.forwarded_path(request, route.match.path, action),
        mirrors=tuple(_mirror(mirror, snapshot) for mirror in action.mirrors),
        clusters=tuple(
            _leg(forward(snapshot, request, listener, route, leg), split.share(leg), request) for leg in action.clusters
        ),
    )
    if not split.total:
        reason = forward(snapshot, request, listener, route, None).problem
        return replace(told, status=500, reason=reason)
    return told


def _mirror(mirror: Mirror, snapshot: Snapshot) -> MirrorFact:
    cluster = snapshot.clusters.get(mirror.cluster)
    problem = f"cluster {mirror.cluster} is not known" if cluster is None else cluster.problem
    return MirrorFact(mirror.cluster, mirror.parts_per_million / 10_000, problem)


def _leg(decision: Decision, share: float, request: Request) -> ClusterFact:
    leg, cluster = decision.leg, decision.cluster
    assert leg is not None
    levels = zip(("cluster", "route", "listener"), decision.faults, strict=True)
    fact = ClusterFact(
        cluster=leg.cluster,
        weight=leg.weight,
        share=round(share * 100, 4),
        fault=_fault(request, tuple(levels)),
        rate_limit=_rate_limit(decision.rate_limit),
        authority=decision.host_rewrite or request.authority,
        request_headers=_mutations(decision.request_mutations),
        response_headers=_mutations(decision.response_mutations),
    )
    if cluster is None or cluster.problem:
        problem = cluster.problem if cluster is not None else decision.problem
        return replace(fact, problem=problem, status=decision.no_cluster_status)
    told = _endpoints(cluster)
    if decision.dialled is not None:
        told = (_endpoint(decision.dialled, 0, ""),)
    empty = not any(endpoint.usable for endpoint in told)
    return replace(
        fact,
        load_balancer=cluster.load_balancer.value,
        protocol=cluster.protocol.value,
        service=cluster.service_host or cluster.service,
        endpoints=told,
        drop_percent=_drops(cluster),
        problem="no healthy upstream: no endpoint can be used" if empty else "",
        status=503 if empty else None,
        ignored=cluster.ignored,
    )


def _endpoints(cluster: Cluster) -> tuple[EndpointFact, ...]:
    groups = sorted(cluster.localities, key=lambda group: group.priority)
    return tuple(
        _endpoint(endpoint, group.priority, _locality(group)) for group in groups for endpoint in group.endpoints
    )


def _endpoint(endpoint: Endpoint, priority: int, locality: str) -> EndpointFact:
    tls = endpoint.tls
    return EndpointFact(
        address=str(endpoint),
        health=endpoint.health.value,
        usable=endpoint.health in (Health.HEALTHY, Health.DEGRADED),
        weight=endpoint.weight,
        priority=priority,
        locality=locality,
        tls=tls is not None,
        identity=tls is not None and tls.identity,
        san=tuple(describe.string(san) for san in tls.san) if tls is not None else (),
        labels=dict(endpoint.labels),
    )


def _locality(group: LocalityEndpoints) -> str:
    parts = (group.locality.region, group.locality.zone, group.locality.sub_zone)
    return "/".join(parts).rstrip("/")


def _drops(cluster: Cluster) -> float:
    kept = 1.0
    for drop in cluster.drops:
        kept *= 1 - min(drop.parts_per_million, 1_000_000) / 1_000_000
    return round((1 - kept) * 100, 4)


def _fault(request: Request, levels: tuple[tuple[str, Fault | None], ...]) -> FaultFact | None:
    for source, fault in levels:
        if fault is not None:
            delay, abort = fault.delay, fault.abort
            return FaultFact(
                source=source,
                applies=headers_match(fault.headers, request),
                headers=tuple(f"{one.name} {describe.header(one)}" for one in fault.headers),
                delay_seconds=delay.seconds if delay is not None else None,
                delay_percent=delay.parts_per_million / 10_000 if delay is not None else 0.0,
                abort_http_status=abort.http_status if abort is not None else None,
                abort_grpc_status=abort.grpc_status if abort is not None else None,
                abort_percent=abort.parts_per_million / 10_000 if abort is not None else 0.0,
            )
    return None


def _rate_limit(limit: RateLimit | None) -> RateLimitFact | None:
    if limit is None:
        return None
    return RateLimitFact(limit.name, str(limit), limit.enabled * limit.enforced / 1e10)


def _mutations(levels: tuple[HeaderMutations, ...]) -> tuple[HeaderFact, ...]:
    facts: list[HeaderFact] = []
    for source, level in zip(_SOURCES, levels, strict=False):
        facts += [HeaderFact(source, "remove", name) for name in level.removes]
        facts += [HeaderFact(source, change.action.value, change.name, change.value) for change in level.sets]
    return tuple(facts)

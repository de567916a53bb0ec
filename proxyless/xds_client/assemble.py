"""From single resources to a snapshot: a target is published only when all that its routes need is here (gRFC A74)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxyless.model.cluster import Cluster, ClusterKind
from proxyless.model.inbound import InboundListener
from proxyless.model.matching import PathKind, PathMatcher, RouteMatch
from proxyless.model.route import Forward, Listener, Refused, Route, VirtualHost
from proxyless.model.snapshot import Snapshot
from proxyless.xds_client.compile.cluster import ClusterSpec
from proxyless.xds_client.compile.endpoint import LoadAssignment
from proxyless.xds_client.compile.listener import ApiListener
from proxyless.xds_client.compile.route import RouteConfiguration
from proxyless.xds_client.entry import Entries, Entry
from proxyless.xds_client.kinds import Kind

_UNKNOWN = Entry()
NO_CLUSTER = "the control plane has no such cluster"


@dataclass(frozen=True, slots=True)
class Published:
    """What a target looked like when it was last complete. route_name: its RDS resource, if it has one."""

    listener: Listener | None
    clusters: frozenset[str] = frozenset()
    route_name: str | None = None


@dataclass(frozen=True, slots=True)
class Assembly:
    listeners: Mapping[str, Listener | None]
    clusters: Mapping[str, Cluster]
    inbound: Mapping[int, InboundListener]


class Assembler:
    """Remembers what it published, so that a target keeps its former closed set while a new one is incomplete."""

    def __init__(self, initial: Snapshot) -> None:
        self._published = {
            target: Published(listener, _clusters_of(listener)) for target, listener in initial.listeners.items()
        }
        self._clusters = dict(initial.clusters)
        self._inbound = dict(initial.inbound)
        # Targets that were reached with the mesh's TLS: they never become a host outside the mesh, see ``_complete``.
        self._secured = self._with_mesh_tls()
        self._joined: dict[str, tuple[object, object, Cluster]] = {}
        self._built: dict[str, tuple[object, object, Listener]] = {}

    def wanted(self, entries: Entries, targets: Iterable[str]) -> dict[Kind, set[str]]:
        """Every RDS, CDS and EDS resource that the targets need, in their new form and in the one still published."""
        routes: set[str] = set()
        clusters: set[str] = set()
        for target in targets:
            listener = entries[Kind.LISTENER].get(target, _UNKNOWN).value
            former = self._published.get(target)
            if isinstance(listener, ApiListener):
                if listener.route_name is not None:
                    routes.add(listener.route_name)
                configuration = _routes(listener, entries)
                if configuration is not None:
                    clusters |= _clusters_of(self._listener(target, listener, configuration))
            if former is not None:
                clusters |= former.clusters
                if former.route_name is not None:
                    routes.add(former.route_name)
        specs = (entries[Kind.CLUSTER].get(name, _UNKNOWN).value for name in clusters)
        endpoints = {spec.eds_name for spec in specs if isinstance(spec, ClusterSpec) and spec.eds_name is not None}
        return {Kind.ROUTE: routes, Kind.CLUSTER: clusters, Kind.ENDPOINT: endpoints}

    def build(self, entries: Entries, targets: Iterable[str], inbound: Mapping[str, int]) -> Assembly:
        """``inbound``: the ports of this workload by the names of their listeners."""
        targets = dict.fromkeys(targets)
        self._published = {target: one for target, one in self._published.items() if target in targets}
        current: set[str] = set()
        for target in targets:
            complete = self._complete(target, entries)
            if complete is not None:
                self._published[target] = complete
                current |= complete.clusters
        clusters: dict[str, Cluster] = {}
        for published in self._published.values():
            for name in published.clusters:
                if name not in clusters:
                    latest, former = self._cluster(name, entries), self._clusters.get(name)
                    # A cluster of routes that are being replaced may be taken away before the new ones are complete.
                    lost = latest is None or (name not in current and not _serves(latest))
                    clusters[name] = (former if lost else latest) or latest or _no_cluster(name, NO_CLUSTER)
        self._clusters = clusters
        self._secured = (self._secured & self._published.keys()) | self._with_mesh_tls()
        self._joined = {name: joined for name, joined in self._joined.items() if name in clusters}
        self._built = {target: built for target, built in self._built.items() if target in self._published}
        for name, port in inbound.items():
            found = entries[Kind.LISTENER].get(name, _UNKNOWN).value
            # One that goes away stays as it was: a port must not become more open than the control plane last said.
            if isinstance(found, InboundListener):
                self._inbound[port] = found if found.port == port else replace(found, port=port)
        return Assembly(
            {target: one.listener for target, one in self._published.items()}, clusters, dict(self._inbound)
        )

    def _complete(self, target: str, entries: Entries) -> Published | None:
        """The target's closed set, or None while a part of it has not been answered for."""
        entry = entries[Kind.LISTENER].get(target, _UNKNOWN)
        if entry.absent:
            if target not in self._secured:
                return Published(None)
            # Passed through, what was meant for a verified peer would go in the clear to whoever has the name in DNS.
            reason = "it was reached with mutual TLS and has left the mesh; it is not sent there in plaintext"
            return Published(_refused(target, "", reason, 503))
        if entry.value is None:
            return (
                Published(_refused(target, "", f"its listener was refused: {entry.refused}")) if entry.refused else None
            )
        if not isinstance(entry.value, ApiListener):
            return Published(_refused(target, "", "its listener is not an API listener"))
        listener = entry.value
        routes = _routes(listener, entries)
        if routes is None:
            assert listener.route_name is not None
            return _without_routes(target, listener.route_name, entries[Kind.ROUTE].get(listener.route_name, _UNKNOWN))
        built = self._listener(target, listener, routes)
        needed = _clusters_of(built)
        if any(self._cluster(name, entries) is None for name in needed):
            return None
        return Published(built, needed, listener.route_name)

    def _with_mesh_tls(self) -> set[str]:
        def secured(cluster: Cluster) -> bool:
            return any(one.tls is not None and one.tls.mesh_trust for one in cluster.endpoints)

        names = {name for name, cluster in self._clusters.items() if secured(cluster)}
        return {target for target, one in self._published.items() if not names.isdisjoint(one.clusters)}

    def _listener(self, target: str, listener: ApiListener, routes: RouteConfiguration) -> Listener:
        cached = self._built.get(target)
        if cached is not None and cached[0] is listener and cached[1] is routes:
            return cached[2]
        ignored = listener.ignored + routes.ignored
        used = routes.heeding(faults=listener.fault_filter, rate_limits=listener.rate_limit_filter)
        if used is not routes:
            ignored += ("faults or rate limits of routes: the listener has no such filter",)
        virtual_host, details = used.select(target), dict(listener.metadata)
        built = Listener(target, routes.name, virtual_host, listener.fault, listener.rate_limit, ignored, details)
        self._built[target] = listener, routes, built
        return built

    def _cluster(self, name: str, entries: Entries) -> Cluster | None:
        entry = entries[Kind.CLUSTER].get(name, _UNKNOWN)
        if entry.value is None:
            if entry.absent:
                return _no_cluster(name, NO_CLUSTER)
            return (
                _no_cluster(name, f"the control plane's cluster was refused: {entry.refused}")
                if entry.refused
                else None
            )
        spec = entry.value
        assert isinstance(spec, ClusterSpec)
        assignment: LoadAssignment | None = None
        if spec.eds_name is not None:
            endpoints = entries[Kind.ENDPOINT].get(spec.eds_name, _UNKNOWN)
            if not endpoints.known:
                return None
            if endpoints.value is None and endpoints.refused:
                return replace(spec.cluster, problem=f"the control plane's endpoints were refused: {endpoints.refused}")
            assert endpoints.value is None or isinstance(endpoints.value, LoadAssignment)
            assignment = endpoints.value
        cached = self._joined.get(name)
        if cached is not None and cached[0] is spec and cached[1] is assignment:
            return cached[2]
        joined = spec.join(assignment)
        self._joined[name] = spec, assignment, joined
        return joined


def _routes(listener: ApiListener, entries: Entries) -> RouteConfiguration | None:
    if listener.routes is not None:
        return listener.routes
    assert listener.route_name is not None
    found = entries[Kind.ROUTE].get(listener.route_name, _UNKNOWN).value
    return found if isinstance(found, RouteConfiguration) else None


def _without_routes(target: str, name: str, entry: Entry) -> Published | None:
    if entry.absent:
        # Envoy: a route configuration that does not arrive is an empty one; every request is 404 NR.
        problem = {"problem": f"the control plane has no route configuration {name}"}
        return Published(Listener(target, name, None, metadata=problem), route_name=name)
    if entry.refused:
        reason = f"its route configuration {name} was refused: {entry.refused}"
        return Published(_refused(target, name, reason), route_name=name)
    return None


def _refused(target: str, route_configuration: str, reason: str, status: int = 500) -> Listener:
    """A target whose first configuration cannot be used: it answers with the reason, it is not passed through."""
    refused = Refused(f"{target}: {reason}", status)
    route = Route(RouteMatch(PathMatcher(PathKind.PREFIX, "")), refused, name="refused")
    return Listener(target, route_configuration, VirtualHost("refused", ("*",), (route,)))


def _no_cluster(name: str, problem: str) -> Cluster:
    return Cluster(name, problem=problem)


def _serves(cluster: Cluster) -> bool:
    return not cluster.problem and (bool(cluster.endpoints) or cluster.kind is ClusterKind.PASSTHROUGH)


def _clusters_of(listener: Listener | None) -> frozenset[str]:
    if listener is None or listener.virtual_host is None:
        return frozenset()
    actions = (route.action for route in listener.virtual_host.routes)
    return frozenset(name for action in actions if isinstance(action, Forward) for name in action.cluster_names)

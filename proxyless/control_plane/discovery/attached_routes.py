"""Which HTTPRoutes and GRPCRoutes are attached to a service, for a client of a namespace (the Gateway API in the mesh).

Source: GEP-1426 (which routes act, for whom, on which ports) and GEP-1324 (producers and consumers).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.anyone import ANYONE, Varies
from proxyless.control_plane.discovery.egress import Egress
from proxyless.control_plane.discovery.read_rules import ReadRules, age
from proxyless.control_plane.discovery.route_rules import RouteRule, read_rules
from proxyless.control_plane.discovery.visibility import visibility
from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced
from proxyless.control_plane.resources.gateway_route import CommonRouteSpec
from proxyless.control_plane.resources.names import service_host
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import MeshSettings

KINDS = ("HTTPRoute", "GRPCRoute")


@dataclass(frozen=True, slots=True)
class Parent:
    """port, port_name: None and "" for any."""

    host: str
    namespace: str
    port: int | None
    port_name: str

    def takes(self, port: int, port_name: str) -> bool:
        return self.port in (None, port) and self.port_name in ("", port_name)


# Compared by identity: as long as a resource is the same object, so is this.
@dataclass(frozen=True, slots=True, eq=False)
class AttachedRoute:
    resource: Resource[Any]
    parents: tuple[Parent, ...]
    rules: tuple[RouteRule, ...]
    destinations: frozenset[str]
    names: frozenset[str] = frozenset()

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(parent.host for parent in self.parents))


def parents(resource: Resource[Any], cluster_domain: str) -> Iterator[Parent]:
    """The Services that a route is attached to."""
    spec: CommonRouteSpec = resource.spec
    for ref in spec.parent_refs:
        if ref.is_service:
            namespace = ref.namespace or resource.namespace
            yield Parent(service_host(ref.name, namespace, cluster_domain), namespace, ref.port, ref.section_name)


def _read(resource: Resource[Any], domain: str) -> AttachedRoute:
    rules = read_rules(resource, domain)
    sent = {one.destination.host for rule in rules for one in rule.http.route}
    sent |= {one.destination.host for rule in rules for one in rule.http.mirrors}
    return AttachedRoute(resource, tuple(parents(resource, domain)), rules, frozenset(sent))


class AttachedRoutes:
    """Indexed by the host of the Service that they are attached to."""

    def __init__(self, settings: MeshSettings) -> None:
        # Hosts that have other routes than in those that these were made from (``changed``).
        self.touched: frozenset[str] = frozenset()
        domain = settings.cluster_domain
        self._routes: ReadRules[AttachedRoute] = ReadRules(lambda resource, known: _read(resource, domain))
        self._by_host: Groups[AttachedRoute] = Groups(lambda route: [(host,) for host in route.hosts], order=age)
        # What the clients of a Sidecar see; None for everything.
        self._egress: Egress | None = None

    def changed(self, replaced: Replaced[Resource[Any]]) -> "AttachedRoutes":
        """The same after a change, at the cost of what changed; itself if no route is another."""
        routes = self._routes.changed(replaced, frozenset(), ())
        if routes is self._routes:
            return self
        result = copy.copy(self)
        result._routes = routes
        result._by_host = self._by_host.changed(routes.gone, routes.came)
        result.touched = frozenset(host for (host,) in result._by_host.touched)
        return result

    def within(self, egress: Egress) -> "AttachedRoutes":
        """Those that a Sidecar imports, as it imports VirtualServices."""
        found = copy.copy(self)
        found._egress = egress
        return found

    def of(self, host: str, namespace: str, port: int, port_name: str) -> tuple[AttachedRoute, ...]:
        """The routes that act on requests from ``namespace`` to a port of a service, the oldest first.

        Those of the client's own namespace (consumer routes, for another's service) come instead of those of the
        service's (producer routes). Of both kinds GRPCRoutes act, and no HTTPRoute.
        """
        attached = self._by_host.get((host,))
        if namespace is ANYONE and attached:
            namespace = _only_producer(attached, host)
        for wanted in (True, False):
            found = [
                route
                for route in attached
                if (route.resource.namespace == namespace) is wanted and self._acts(route, host, namespace)
                if any(parent.host == host and parent.takes(port, port_name) for parent in route.parents)
            ]
            if found:
                of_grpc = tuple(route for route in found if route.resource.kind == "GRPCRoute")
                return of_grpc or tuple(found)
        return ()

    def sent_to(self, namespace: str) -> frozenset[str]:
        """The hosts that routes which act for clients of ``namespace`` send to."""
        return frozenset(
            destination
            for route in self._routes
            if any(self._acts(route, host, namespace) for host in route.hosts)
            for destination in route.destinations
        )

    def _acts(self, route: AttachedRoute, host: str, namespace: str) -> bool:
        if route.resource.namespace not in (_owner(route, host), namespace):
            return False
        return self._egress is None or self._egress.rule(route.resource.namespace, (host,))


def _owner(route: AttachedRoute, host: str) -> str:
    """The namespace of a Service that a route is attached to."""
    return next(parent.namespace for parent in route.parents if parent.host == host)


def _only_producer(attached: tuple[AttachedRoute, ...], host: str) -> str:
    """The service's own namespace if all routes are of it: then they act for clients of every namespace alike."""
    owner = _owner(attached[0], host)
    if any(route.resource.namespace != owner for route in attached):
        raise Varies
    return owner


def comes_first(rule: Resource[Any], attached: tuple[AttachedRoute, ...], namespace: str) -> bool:
    """Whether a VirtualService for the very host, rather than routes attached to it, acts for clients of ``namespace``.

    Istio converts routes to virtual services that all namespaces see, and prefers those of the client's namespace; so
    what comes first is a VirtualService that not all see, then a consumer's routes, then what is older.
    """
    if not rule.spec.http:
        return False
    if not visibility(rule.spec.export_to, rule.namespace).everywhere:
        return True
    oldest = attached[0].resource
    return oldest.namespace != namespace and rule.age < oldest.age

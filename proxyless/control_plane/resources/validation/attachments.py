"""Services that several rules want: VirtualServices, HTTPRoutes and GRPCRoutes, of which some then do not act."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from proxyless.control_plane.resources.gateway_route import ParentReference
from proxyless.control_plane.resources.names import service_host
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.resource import Resource

CONFLICT = "ConflictingMeshGatewayVirtualServiceHosts"
# The Gateway API's reason of a route that is not accepted for another kind of route (GEP-1426).
CONFLICTED = "Conflicted"
CONFLICTS = frozenset({CONFLICT, CONFLICTED})


def attached_to(resource: Resource[Any], cluster_domain: str) -> Iterator[tuple[int, str, ParentReference]]:
    """The Services that a route is attached to: the place in ``parentRefs``, and the host."""
    for index, ref in enumerate(resource.spec.parent_refs):
        if ref.is_service:
            yield index, service_host(ref.name, ref.namespace or resource.namespace, cluster_domain), ref


def conflicts(
    host: str, cluster_domain: str, rules: Sequence[Resource[Any]], routes: Sequence[Resource[Any]]
) -> Iterator[Problem]:
    """rules: the VirtualServices that name this very host in the mesh. routes: what is attached to it. Oldest first."""
    groups: dict[str, list[Resource[Any]]] = defaultdict(list)
    for route in routes:
        groups[route.namespace].append(route)
    for group in groups.values():
        found = _Group(host, cluster_domain, group)
        yield from found.of_kinds()
        for rule in rules:
            # What only routes connections is no rival.
            if rule.spec.http:
                yield from found.with_rule(rule)


class _Group:
    """The routes of one namespace that are attached to one service. They are merged, and so no conflict themselves."""

    def __init__(self, host: str, cluster_domain: str, routes: Sequence[Resource[Any]]) -> None:
        self._host, self._domain, self._routes = host, cluster_domain, routes
        self._namespace = routes[0].namespace
        self._produces = service_host(host.partition(".")[0], self._namespace, cluster_domain) == host

    def of_kinds(self) -> Iterator[Problem]:
        of_grpc = [route for route in self._routes if route.kind == "GRPCRoute"]
        for route in self._routes:
            if route.kind == "HTTPRoute" and (winner := next((g for g in of_grpc if self._share_port(g, route)), None)):
                yield self._of_route(route, f"{winner.key} is used, of both kinds only GRPCRoutes act", CONFLICTED)

    def with_rule(self, rule: Resource[Any]) -> Iterator[Problem]:
        exported = {rule.namespace if name == "." else name for name in rule.spec.export_to or ("*",)}
        oldest = self._routes[0]
        if "*" not in exported:
            seen = exported - {"~"} if self._produces else exported & {self._namespace}
            if seen:
                yield from self._all(f"{rule.key} is used by clients of {', '.join(sorted(seen))}")
        elif not self._produces:
            yield self._of_rule(rule, f"{oldest.key} is used by clients of {self._namespace}")
        elif rule.age < oldest.age:
            yield from self._all(f"{rule.key} is older and used by clients outside of {self._namespace}")
            yield self._of_rule(rule, f"{oldest.key} is used by clients of {self._namespace}")
        else:
            yield self._of_rule(rule, f"{oldest.key} is used")

    def _share_port(self, one: Resource[Any], other: Resource[Any]) -> bool:
        pairs = product(self._ports(one), self._ports(other))
        return any(mine == theirs or None in (mine, theirs) for mine, theirs in pairs)

    def _ports(self, route: Resource[Any]) -> list[int | str | None]:
        refs = [ref for _, host, ref in attached_to(route, self._domain) if host == self._host]
        return [ref.port or ref.section_name or None for ref in refs]

    def _all(self, message: str) -> Iterator[Problem]:
        for route in self._routes:
            yield self._of_route(route, message, CONFLICT)

    def _of_route(self, route: Resource[Any], message: str, code: str) -> Problem:
        index = next(index for index, host, _ in attached_to(route, self._domain) if host == self._host)
        return warning(route, f"spec.parentRefs[{index}]", f"{self._host}: {message}; keep one of the two", code)

    def _of_rule(self, rule: Resource[Any], message: str) -> Problem:
        return warning(rule, "spec.hosts", f"{self._host}: {message}; keep one of the two", CONFLICT)


def warning(resource: Resource[Any], path: str, message: str, code: str) -> Problem:
    source = resource.source
    line = source.line_of(path)
    return Problem(code, Level.WARNING, f"{path}: {message}", *resource.key, file=source.file, line=line, field=path)

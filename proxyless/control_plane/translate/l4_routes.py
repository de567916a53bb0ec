"""VirtualService ``tls`` and ``tcp``: where a connection goes, as far as can be decided before there is one.

What only the connection can tell, its server name and the address it was made to, is left to filter chains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Service, selects
from proxyless.control_plane.resources.names import canonical, covers
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.virtual_service import (
    MESH_GATEWAY,
    L4MatchAttributes,
    RouteDestination,
    TLSMatchAttributes,
)
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.destination import destination_cluster
from proxyless.control_plane.translate.generated import Notes


@dataclass(frozen=True, slots=True)
class L4Route:
    """sni: server names, any if empty. subnets: of the address that was dialled, any if empty.

    targets: clusters and their weights, at least one. rule: None for what happens without one.
    """

    targets: tuple[tuple[ClusterName, int], ...]
    sni: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    rule: Resource[Any] | None = None
    origin: str = "default"

    @property
    def name(self) -> str:
        """What its statistics are called: the rule, or the cluster (Istio)."""
        return f"{self.rule.name}.{self.rule.namespace}" if self.rule else str(self.targets[0][0])


class L4Routes:
    """The routes of one service on one port for one client."""

    def __init__(self, catalog: Catalog, scope: Scope, service: Service, port: int, notes: Notes) -> None:
        self._catalog = catalog
        self._scope = scope
        self._service = service
        self._port = port
        self._notes = notes

    def tls(self) -> list[L4Route]:
        """By server name, first match first; without a rule for the whole host, its own name goes to it (Istio)."""
        found: list[L4Route] = []
        ruled = False
        for rule in self._catalog.virtual_services.about(self._service.host, self._scope.namespace):
            for index, tls in enumerate(rule.spec.tls):
                origin = f"VirtualService {rule.namespace}/{rule.name} tls[{index}]"
                for match in tls.match:
                    if not self._applies(match):
                        continue
                    names = tuple(canonical(name) for name in match.sni_hosts)
                    ruled = ruled or any(covers(name, self._service.host) for name in names)
                    if targets := self._targets(tls.route, rule, origin):
                        found.append(L4Route(targets, names, match.destination_subnets, rule, origin))
        if not ruled:
            found.append(L4Route(self._itself(), (self._service.host,)))
        return found

    def tcp(self) -> list[L4Route]:
        """Up to the first that any connection takes, which is the service itself if no rule is."""
        for route in (found := list(self._tcp_rules())):
            if not route.subnets:
                return found
        return [*found, L4Route(self._itself())]

    def _tcp_rules(self) -> Iterator[L4Route]:
        for rule in self._catalog.virtual_services.about(self._service.host, self._scope.namespace):
            for index, tcp in enumerate(rule.spec.tcp):
                origin = f"VirtualService {rule.namespace}/{rule.name} tcp[{index}]"
                applying = [match for match in tcp.match if self._applies(match)]
                if tcp.match and not applying:
                    continue
                targets = self._targets(tcp.route, rule, origin)
                if not targets:
                    continue
                subnets = [subnet for match in applying for subnet in match.destination_subnets]
                if not all(match.destination_subnets for match in applying):
                    subnets = []
                yield L4Route(targets, (), tuple(subnets), rule, origin)
                if not subnets:
                    return

    def _applies(self, match: TLSMatchAttributes | L4MatchAttributes) -> bool:
        return (
            match.port in (None, self._port)
            and (not match.gateways or MESH_GATEWAY in match.gateways)
            and selects(match.source_labels, self._scope.label_map)
            and match.source_namespace in ("", self._scope.namespace)
        )

    def _targets(
        self, destinations: Sequence[RouteDestination], rule: Resource[Any], origin: str
    ) -> tuple[tuple[ClusterName, int], ...]:
        # The weight of an only destination counts for nothing, 0 included.
        only = len(destinations) == 1
        found = [
            (
                destination_cluster(self._catalog, self._scope, one.destination, rule.namespace, self._port),
                1 if only else one.weight,
            )
            for one in destinations
            if only or one.weight > 0
        ]
        if not found:
            self._notes.add(f"{origin}: has no destination, left out")
        return tuple(found)

    def _itself(self) -> tuple[tuple[ClusterName, int], ...]:
        only = self._service.ports[0].number if len(self._service.ports) == 1 else self._port
        return ((ClusterName(only, "", self._service.host), 1),)

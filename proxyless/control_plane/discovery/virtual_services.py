"""Which VirtualService rules a host, for a client of a namespace."""

import copy
from collections.abc import Container, Iterator
from typing import Any

from proxyless.control_plane.discovery.egress import Egress
from proxyless.control_plane.discovery.visibility import Visibility, visibility
from proxyless.control_plane.resources.names import covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, VirtualServiceSpec
from proxyless.control_plane.world import World


class VirtualServices:
    """The VirtualServices that act on clients of the mesh, indexed by host.

    For one host the most specific pattern wins, then a rule of the client's own namespace that not all see, one that
    is exported to it by name, one that all see, then the older one. HTTP rules of several VirtualServices are not
    merged (Istio does so for gateways only).
    """

    def __init__(self, world: World, known: Container[str] = ()) -> None:
        domain = world.settings.cluster_domain
        self._by_host: dict[str, list[tuple[Visibility, Resource[Any]]]] = {}
        self._delegates: dict[tuple[str, str], tuple[Visibility, Resource[Any]]] = {}
        for resource in world.of("VirtualService"):
            spec: VirtualServiceSpec = resource.spec
            seen = visibility(spec.export_to, resource.namespace)
            if not spec.hosts:
                self._delegates[resource.namespace, resource.name] = (seen, resource)
                continue
            if spec.gateways and MESH_GATEWAY not in spec.gateways:
                continue
            for host in dict.fromkeys(qualify(host, resource.namespace, domain, known) for host in spec.hosts):
                self._by_host.setdefault(host, []).append((seen, resource))
        self._wildcards = [host for host in self._by_host if host.startswith("*")]
        # Of a client with a Sidecar: the rules that it imports; None for all.
        self._imported: frozenset[Key] | None = None

    def within(self, egress: Egress) -> "VirtualServices":
        """Those that a Sidecar imports; a delegate comes with the rule that delegates to it."""
        hosts: dict[Key, list[str]] = {}
        for host, rules in self._by_host.items():
            for _, resource in rules:
                hosts.setdefault(resource.key, []).append(host)
        found = copy.copy(self)
        found._imported = frozenset(key for key, named in hosts.items() if egress.rule(key.namespace, named))
        return found

    def all(self, namespace: str) -> list[Resource[Any]]:
        """Every rule that acts on some host for clients of ``namespace``, and the delegates of those."""
        rules = {rule.key: rule for host in self._by_host if (rule := self._visible(host, namespace)) is not None}
        for rule in list(rules.values()):
            for http in rule.spec.http:
                if http.delegate is not None:
                    place = http.delegate.namespace or rule.namespace
                    if (found := self.delegate(place, http.delegate.name, rule.namespace)) is not None:
                        rules[found.key] = found
        return list(rules.values())

    def hosts(self, namespace: str) -> list[str]:
        """Every host that a rule visible to ``namespace`` names, wildcards included."""
        return sorted(host for host in self._by_host if self._visible(host, namespace) is not None)

    def of(self, host: str, namespace: str) -> Resource[Any] | None:
        """The rule for requests to ``host`` (qualified) from ``namespace``, or None."""
        if (exact := self._visible(host, namespace)) is not None:
            return exact
        patterns = [
            pattern
            for pattern in self._wildcards
            if covers(pattern, host) and self._visible(pattern, namespace) is not None
        ]
        found = most_specific(patterns, host)
        return self._visible(found, namespace) if found else None

    def about(self, host: str, namespace: str) -> list[Resource[Any]]:
        """Every rule with a host that overlaps with ``host``, the oldest first: L4 routes of all count (Istio)."""
        keys: dict[Key, Resource[Any]] = {}
        for pattern, rules in self._by_host.items():
            if covers(pattern, host) or covers(host, pattern):
                keys.update(
                    (rule.key, rule) for seen, rule in rules if seen.allows(namespace) and self._is_imported(rule)
                )
        return sorted(keys.values(), key=lambda rule: (rule.created, rule.namespace, rule.name))

    def delegate(self, namespace: str, name: str, root_namespace: str) -> Resource[Any] | None:
        """A VirtualService without hosts, to which one in ``root_namespace`` hands a part of its routes."""
        found = self._delegates.get((namespace, name))
        return found[1] if found and found[0].allows(root_namespace) else None

    def _visible(self, host: str, namespace: str) -> Resource[Any] | None:
        rules = self._by_host.get(host, ())
        usable = [(seen, rule) for seen, rule in rules if seen.allows(namespace) and self._is_imported(rule)]
        # min is stable: within a rank the oldest stays first.
        best = min(usable, key=lambda one: one[0].rank(one[1].namespace, namespace), default=None)
        return best[1] if best else None

    def _is_imported(self, rule: Resource[Any]) -> bool:
        return self._imported is None or rule.key in self._imported


def destination_hosts(spec: VirtualServiceSpec) -> Iterator[str]:
    """Every host that a rule sends to, as written."""
    for http in spec.http:
        yield from (one.destination.host for one in http.route)
        yield from (one.destination.host for one in http.mirrors)
        if http.mirror is not None:
            yield http.mirror.host
    for destinations in (*(tls.route for tls in spec.tls), *(tcp.route for tcp in spec.tcp)):
        yield from (one.destination.host for one in destinations)

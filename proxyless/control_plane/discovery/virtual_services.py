"""Which VirtualService rules a host, for a client of a namespace."""

import copy
from collections.abc import Container, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.egress import Egress
from proxyless.control_plane.discovery.read_rules import ReadRules, age
from proxyless.control_plane.discovery.visibility import Visibility, visibility
from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced
from proxyless.control_plane.resources.names import Known, covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, VirtualServiceSpec
from proxyless.control_plane.world import MeshSettings


@dataclass(frozen=True, slots=True)
class _Rule:
    """hosts, destinations: qualified; no hosts for a delegate, and for what acts on gateways only. names: the hosts
    whose being known or not decided how it was read. labels: of clients, which conditions look at.
    """

    resource: Resource[Any]
    seen: Visibility
    hosts: tuple[str, ...]
    destinations: frozenset[str]
    names: frozenset[str]
    labels: frozenset[str]


def _read(resource: Resource[Any], domain: str, hosts: Container[str]) -> _Rule:
    spec: VirtualServiceSpec = resource.spec
    known = Known(hosts)

    def qualified(names: Iterable[str]) -> Iterator[str]:
        return (qualify(name, resource.namespace, domain, known) for name in names)

    in_mesh = not spec.gateways or MESH_GATEWAY in spec.gateways
    return _Rule(
        resource,
        visibility(spec.export_to, resource.namespace),
        tuple(dict.fromkeys(qualified(spec.hosts if in_mesh else ()))),
        frozenset(qualified(_destination_hosts(spec))),
        frozenset(known.asked),
        frozenset(_source_labels(spec)),
    )


class VirtualServices:
    """The VirtualServices that act on clients of the mesh, indexed by host.

    For one host the most specific pattern wins, then a rule of the client's own namespace that not all see, one that
    is exported to it by name, one that all see, then the older one. HTTP rules of several VirtualServices are not
    merged (Istio does so for gateways only).
    """

    def __init__(self, settings: MeshSettings) -> None:
        # Hosts, patterns among them, that have other rules than those that these were made from (``changed``).
        self.touched: frozenset[str] = frozenset()
        domain = settings.cluster_domain
        self._rules: ReadRules[_Rule] = ReadRules(lambda resource, known: _read(resource, domain, known))
        self._by_host: Groups[_Rule] = Groups(lambda rule: [(host,) for host in rule.hosts], order=age)
        self._delegates: Groups[_Rule] = Groups(_delegate_buckets, order=age)
        self._wildcards: tuple[str, ...] = ()
        # All hosts, if clients of every namespace see all rules; else None.
        self._common_hosts: list[str] | None = []
        # Labels of clients that conditions look at.
        self.label_keys: frozenset[str] = frozenset()
        # What the clients of a Sidecar see, and what they were found to see of these rules; None for everything.
        self._egress: Egress | None = None
        self._imported: dict[Key, bool] = {}
        self._sent_to: dict[str, frozenset[str]] = {}
        self._views: dict[Egress, VirtualServices] = {}

    def changed(
        self, replaced: Replaced[Resource[Any]], moved: AbstractSet[str], known: Container[str]
    ) -> "VirtualServices":
        """The same after a change, at the cost of what changed; itself if no rule is another.

        moved: the hosts that came or went; known: those there are.
        """
        rules = self._rules.changed(replaced, moved, known)
        if rules is self._rules:
            return self
        result = copy.copy(self)
        result._rules = rules
        result._by_host = self._by_host.changed(rules.gone, rules.came)
        result._delegates = self._delegates.changed(rules.gone, rules.came)
        result._wildcards = tuple(host for (host,) in result._by_host if host.startswith("*"))
        result.touched = frozenset(host for (host,) in result._by_host.touched)
        result.label_keys = frozenset().union(*(rule.labels for rule in rules))
        if not all(rule.seen.everywhere for rule in rules):
            result._common_hosts = None
        elif self._common_hosts is None or any(
            bool(self._by_host.get((host,))) != bool(result._by_host.get((host,))) for host in result.touched
        ):
            result._common_hosts = sorted(host for (host,) in result._by_host)
        result._imported, result._sent_to, result._views = {}, {}, {}
        return result

    def within(self, egress: Egress) -> "VirtualServices":
        """Those that a Sidecar imports; a delegate comes with the rule that delegates to it."""
        if (found := self._views.get(egress)) is None:
            found = self._views[egress] = copy.copy(self)
            found._egress, found._imported, found._sent_to = egress, {}, {}
        return found

    def sent_to(self, namespace: str) -> frozenset[str]:
        """The hosts that rules which act for clients of ``namespace`` send to, and their delegates."""
        if (found := self._sent_to.get(namespace)) is None:
            found = self._sent_to[namespace] = frozenset(
                host for rule in self._acting(namespace) for host in rule.destinations
            )
        return found

    def _acting(self, namespace: str) -> list[_Rule]:
        rules = {
            rule.resource.key: rule for (host,) in self._by_host if (rule := self._best(host, namespace)) is not None
        }
        for rule in list(rules.values()):
            for http in rule.resource.spec.http:
                if http.delegate is not None:
                    place = http.delegate.namespace or rule.resource.namespace
                    if (found := self.delegate(place, http.delegate.name, rule.resource.namespace)) is not None:
                        rules[found.key] = self._rules[found.key]
        return list(rules.values())

    def hosts(self, namespace: str) -> list[str]:
        """Every host that a rule visible to ``namespace`` names, wildcards included."""
        if self._egress is None and self._common_hosts is not None:
            return self._common_hosts
        return sorted(host for (host,) in self._by_host if self._best(host, namespace) is not None)

    def of(self, host: str, namespace: str) -> Resource[Any] | None:
        """The rule for requests to ``host`` (qualified) from ``namespace``, or None."""
        best = self._best(host, namespace)
        if best is None:
            patterns = [
                pattern
                for pattern in self._wildcards
                if covers(pattern, host) and self._best(pattern, namespace) is not None
            ]
            found = most_specific(patterns, host)
            best = self._best(found, namespace) if found else None
        return best.resource if best else None

    def named(self, host: str, namespace: str) -> Resource[Any] | None:
        """The same, of those that name this very host."""
        best = self._best(host, namespace)
        return best.resource if best else None

    def about(self, host: str, namespace: str) -> list[Resource[Any]]:
        """Every rule with a host that overlaps with ``host``, the oldest first: L4 routes of all count (Istio)."""
        patterns = [host, *(one for one in self._wildcards if covers(one, host))]
        if host.startswith("*"):
            patterns += [one for (one,) in self._by_host if covers(host, one)]
        keys = {
            rule.resource.key: rule.resource
            for pattern in patterns
            for rule in self._by_host.get((pattern,))
            if rule.seen.allows(namespace) and self._is_imported(rule)
        }
        return sorted(keys.values(), key=lambda resource: resource.age)

    def delegate(self, namespace: str, name: str, root_namespace: str) -> Resource[Any] | None:
        """A VirtualService without hosts, to which one in ``root_namespace`` hands a part of its routes."""
        found = self._delegates.get((namespace, name))
        return found[0].resource if found and found[0].seen.allows(root_namespace) else None

    def _best(self, host: str, namespace: str) -> _Rule | None:
        usable = [
            rule for rule in self._by_host.get((host,)) if rule.seen.allows(namespace) and self._is_imported(rule)
        ]
        # min is stable: within a rank the oldest stays first.
        return min(usable, key=lambda rule: rule.seen.rank(rule.resource.namespace, namespace), default=None)

    def _is_imported(self, rule: _Rule) -> bool:
        if self._egress is None:
            return True
        key = rule.resource.key
        if (known := self._imported.get(key)) is None:
            known = self._imported[key] = self._egress.rule(key.namespace, rule.hosts)
        return known


def _delegate_buckets(rule: _Rule) -> Iterator[tuple[str, str]]:
    if not rule.resource.spec.hosts:
        yield rule.resource.namespace, rule.resource.name


def _destination_hosts(spec: VirtualServiceSpec) -> Iterator[str]:
    """Every host that a rule sends to, as written."""
    for http in spec.http:
        yield from (one.destination.host for one in http.route)
        yield from (one.destination.host for one in http.mirrors)
        if http.mirror is not None:
            yield http.mirror.host
    for destinations in (*(tls.route for tls in spec.tls), *(tcp.route for tcp in spec.tcp)):
        yield from (one.destination.host for one in destinations)


def _source_labels(spec: VirtualServiceSpec) -> Iterator[str]:
    for routes in (spec.http, spec.tls, spec.tcp):
        yield from (key for route in routes for match in route.match for key in match.source_labels)

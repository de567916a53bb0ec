"""Which DestinationRule applies to a service, for a client of a namespace, and how rules for one host join."""

import copy
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.anyone import ANYONE, Varies
from proxyless.control_plane.discovery.read_rules import ReadRules, age
from proxyless.control_plane.discovery.service import Service, selects
from proxyless.control_plane.discovery.visibility import Visibility, visibility
from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced
from proxyless.control_plane.resources.destination_rule import (
    DestinationRuleSpec,
    LocalityLoadBalancerSetting,
    PortTrafficPolicy,
    Subset,
    TrafficPolicy,
    annotated,
)
from proxyless.control_plane.resources.names import Known, covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import MeshSettings


@dataclass(frozen=True, slots=True)
class DestinationPolicy:
    """DestinationRules of one host in one namespace, joined; ``resources`` contributed, the oldest first."""

    traffic_policy: TrafficPolicy | None
    subsets: Mapping[str, Subset]
    resources: tuple[Resource[Any], ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    """host: qualified. names: the hosts whose being known or not decided how it was read. selector_keys: the labels of
    clients that it selects by; priority_keys: those that failover compares. by_locality: whether it makes it matter
    where a client runs.
    """

    resource: Resource[Any]
    seen: Visibility
    host: str
    names: frozenset[str]
    selector_keys: frozenset[str]
    priority_keys: frozenset[str]
    by_locality: bool

    @property
    def spec(self) -> DestinationRuleSpec:
        spec: DestinationRuleSpec = self.resource.spec
        return spec

    def acts_on(self, labels: Mapping[str, str]) -> bool:
        selector = self.spec.workload_selector
        return selector is None or selects(selector.match_labels, labels)


def _read(resource: Resource[Any], domain: str, hosts: Container[str]) -> _Rule:
    spec: DestinationRuleSpec = resource.spec
    known = Known(hosts)
    host = qualify(spec.host, resource.namespace, domain, known)
    selector = spec.workload_selector.match_labels if spec.workload_selector else ()
    policies = list(_policies(spec))
    settings = [one.load_balancer.locality_lb_setting for one in policies if one.load_balancer is not None]
    return _Rule(
        resource,
        visibility(spec.export_to, resource.namespace),
        host,
        frozenset(known.asked),
        frozenset(selector),
        frozenset(key for setting in settings if setting is not None for key in priority_keys(setting)),
        any(one.outlier_detection is not None for one in policies) or any(one is not None for one in settings),
    )


def priority_keys(setting: LocalityLoadBalancerSetting) -> frozenset[str]:
    """The labels that failoverPriority compares, which it may give values."""
    return frozenset(one.partition("=")[0] for one in setting.failover_priority)


class DestinationRules:
    """Every DestinationRule, indexed by namespace and host.

    Lookup order (Istio): the client's namespace, the service's, the root namespace; in each the most specific
    host. A rule with a workloadSelector acts on clients of its own namespace that it selects, before one without.

    by_locality: whether some rule makes it matter where a client runs: by localityLbSetting, or by outlier detection,
    which switches failover between localities on.
    """

    def __init__(self, settings: MeshSettings) -> None:
        # Hosts, patterns among them, that have other rules than those that these were made from (``changed``).
        self.touched: frozenset[str] = frozenset()
        domain = settings.cluster_domain
        self._root = settings.root_namespace
        self._rules: ReadRules[_Rule] = ReadRules(lambda resource, known: _read(resource, domain, known))
        self._by_host: Groups[_Rule] = Groups(lambda rule: [(rule.resource.namespace, rule.host)], order=age)
        self._wildcards: dict[str, list[str]] = {}
        # The same wherever a rule is written.
        self._anywhere: Groups[_Rule] = Groups(lambda rule: [(rule.host,)], order=age)
        self._wildcards_anywhere: tuple[str, ...] = ()
        self.by_locality = False
        # Labels of clients that rules select by, and those that failover compares.
        self.label_keys: frozenset[str] = frozenset()
        self.priority_keys: frozenset[str] = frozenset()

    def changed(
        self, replaced: Replaced[Resource[Any]], moved: AbstractSet[str], known: Container[str]
    ) -> "DestinationRules":
        """The same after a change, at the cost of what changed; itself if no rule is another.

        moved: the hosts that came or went; known: those there are.
        """
        rules = self._rules.changed(replaced, moved, known)
        if rules is self._rules:
            return self
        result = copy.copy(self)
        result._rules = rules
        result._by_host = self._by_host.changed(rules.gone, rules.came)
        result._wildcards = {}
        for namespace, host in result._by_host:
            if host.startswith("*"):
                result._wildcards.setdefault(namespace, []).append(host)
        result._anywhere = self._anywhere.changed(rules.gone, rules.came)
        result._wildcards_anywhere = tuple(host for (host,) in result._anywhere if host.startswith("*"))
        result.touched = frozenset(host for _, host in result._by_host.touched)
        result.by_locality = any(rule.by_locality for rule in rules)
        result.label_keys = frozenset().union(*(rule.selector_keys for rule in rules))
        result.priority_keys = frozenset().union(*(rule.priority_keys for rule in rules))
        return result

    def of(
        self, host: str, service: Service | None, namespace: str, labels: Mapping[str, str]
    ) -> DestinationPolicy | None:
        """The joined rules for calls to ``host`` from a client of ``namespace`` with ``labels``, or None."""
        if namespace is ANYONE:
            return self._of_anyone(host, service)
        places = [namespace, *([service.namespace] if service else []), self._root]
        for place in dict.fromkeys(places):
            patterns = [host, *(one for one in self._wildcards.get(place, ()) if covers(one, host))]
            usable = {
                pattern: found
                for pattern in patterns
                if (found := _usable(self._by_host.get((place, pattern)), place, namespace, labels))
            }
            if (pattern := most_specific(usable, host)) is not None:
                return _join(usable[pattern])
        return None

    def _of_anyone(self, host: str, service: Service | None) -> DestinationPolicy | None:
        """What acts on clients of every namespace alike: rules of one that all look in, for all, and no others."""
        patterns = [host, *(one for one in self._wildcards_anywhere if covers(one, host))]
        found = [rule for pattern in patterns for rule in self._anywhere.get((pattern,))]
        if not found:
            return None
        place, *more = {rule.resource.namespace for rule in found}
        if more or place not in (self._root, service.namespace if service else self._root):
            raise Varies
        if not all(rule.seen.everywhere and rule.spec.workload_selector is None for rule in found):
            raise Varies
        return self.of(host, service, place, {})


def _policies(spec: DestinationRuleSpec) -> Iterator[TrafficPolicy | PortTrafficPolicy]:
    """Those of every level."""
    for policy in (spec.traffic_policy, *(subset.traffic_policy for subset in spec.subsets)):
        if policy is not None:
            yield policy
            yield from policy.port_level_settings


def _usable(rules: Iterable[_Rule], place: str, namespace: str, labels: Mapping[str, str]) -> list[_Rule]:
    visible = [rule for rule in rules if rule.seen.allows(namespace)]
    selecting = [rule for rule in visible if rule.spec.workload_selector is not None]
    chosen = [rule for rule in selecting if place == namespace and rule.acts_on(labels)]
    return chosen or [rule for rule in visible if rule.spec.workload_selector is None]


def _join(rules: list[_Rule]) -> DestinationPolicy:
    """The first rule that has one gives the traffic policy; of subsets with one name the first counts (Istio)."""
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policies = (annotated(rule.spec.traffic_policy, rule.resource.annotations) for rule in rules)
    policy = next((policy for policy in policies if policy is not None), None)
    return DestinationPolicy(policy, subsets, tuple(rule.resource for rule in rules))

"""Which DestinationRule applies to a service, for a client of a namespace, and how rules for one host join."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.service import Service, selects
from proxyless.control_plane.discovery.visibility import Visibility, visibility
from proxyless.control_plane.resources.destination_rule import (
    DestinationRuleSpec,
    PortTrafficPolicy,
    Subset,
    TrafficPolicy,
)
from proxyless.control_plane.resources.names import most_specific, qualify
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World


@dataclass(frozen=True, slots=True)
class DestinationPolicy:
    """DestinationRules of one host in one namespace, joined; ``resources`` contributed, the oldest first."""

    traffic_policy: TrafficPolicy | None
    subsets: Mapping[str, Subset]
    resources: tuple[Resource[Any], ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    resource: Resource[Any]
    seen: Visibility

    @property
    def spec(self) -> DestinationRuleSpec:
        spec: DestinationRuleSpec = self.resource.spec
        return spec

    def acts_on(self, labels: Mapping[str, str]) -> bool:
        selector = self.spec.workload_selector
        return selector is None or selects(selector.match_labels, labels)


class DestinationRules:
    """Every DestinationRule, indexed by namespace and host.

    Lookup order (Istio): the client's namespace, the service's, the root namespace; in each the most specific
    host. A rule with a workloadSelector acts on clients of its own namespace that it selects, before one without.
    """

    def __init__(self, world: World, known: Container[str] = ()) -> None:
        self._root = world.settings.root_namespace
        self._rules: dict[str, dict[str, list[_Rule]]] = {}
        for resource in world.of("DestinationRule"):
            spec: DestinationRuleSpec = resource.spec
            host = qualify(spec.host, resource.namespace, world.settings.cluster_domain, known)
            rule = _Rule(resource, visibility(spec.export_to, resource.namespace))
            self._rules.setdefault(resource.namespace, {}).setdefault(host, []).append(rule)

    @property
    def by_locality(self) -> bool:
        """Whether some rule makes it matter where a client runs: by localityLbSetting, or by outlier detection, which
        switches failover between localities on.
        """
        policies = [
            policy
            for rules in self._rules.values()
            for found in rules.values()
            for rule in found
            for policy in (rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets))
            if policy is not None
        ]
        return any(
            _about_localities(policy) or any(_about_localities(one) for one in policy.port_level_settings)
            for policy in policies
        )

    def of(
        self, host: str, service: Service | None, namespace: str, labels: Mapping[str, str]
    ) -> DestinationPolicy | None:
        """The joined rules for calls to ``host`` from a client of ``namespace`` with ``labels``, or None."""
        places = [namespace, *([service.namespace] if service else []), self._root]
        for place in dict.fromkeys(places):
            by_host = self._rules.get(place, {})
            usable = {
                pattern: found
                for pattern, rules in by_host.items()
                if (found := _usable(rules, place, namespace, labels))
            }
            if (pattern := most_specific(usable, host)) is not None:
                return _join(usable[pattern])
        return None


def _about_localities(policy: TrafficPolicy | PortTrafficPolicy) -> bool:
    balancer = policy.load_balancer
    return policy.outlier_detection is not None or (balancer is not None and balancer.locality_lb_setting is not None)


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
    policy = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy is not None), None)
    return DestinationPolicy(policy, subsets, tuple(rule.resource for rule in rules))

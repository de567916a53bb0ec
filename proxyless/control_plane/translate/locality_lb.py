"""Which localities' endpoints a client prefers: Istio's localityLbSetting, turned into weights and priorities.

Source: Istio's ApplyLocalityLoadBalancer. ``distribute`` always acts; failover only where outlier detection is on,
because without it no endpoint ever looks unhealthy enough to fail over from.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from proxyless.control_plane.discovery.localities import (
    REGION_LABEL,
    SUB_ZONE_LABEL,
    ZONE_LABEL,
    parse_locality,
    topology_labels,
)
from proxyless.control_plane.discovery.service import Service, ServiceEndpoint
from proxyless.control_plane.resources.destination_rule import (
    LocalityDistribute,
    LocalityFailover,
    LocalityLoadBalancerSetting,
)
from proxyless.control_plane.translate.traffic_policy import EffectivePolicy
from proxyless.control_plane.world import MeshSettings
from proxyless.model.cluster import Locality

_NEAREST = LocalityLoadBalancerSetting(failover_priority=(REGION_LABEL, ZONE_LABEL, SUB_ZONE_LABEL))
_DEFAULT = LocalityLoadBalancerSetting()
# Istio: five ranks by locality (0 to 4) within each rank by label.
_RANKS = 5


@dataclass(frozen=True, slots=True)
class LocalityGroup:
    locality: Locality
    endpoints: tuple[ServiceEndpoint, ...]
    weight: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LocalityPolicy:
    """What acts for one cluster. failover: endpoints that are further away are of a lower priority."""

    setting: LocalityLoadBalancerSetting
    failover: bool

    @property
    def weighted(self) -> bool:
        """Whether Envoy must heed the weights of localities; else they would get in the way of its balancer."""
        asked = self.setting
        return bool(asked.distribute or (self.failover and (asked.failover or asked.failover_priority)))


def locality_policy(settings: MeshSettings, service: Service, effective: EffectivePolicy) -> LocalityPolicy | None:
    """The rule's setting, else the Service's trafficDistribution, else the mesh's; None where it is switched off."""
    outliers = effective.outlier_detection is not None
    balancer = effective.load_balancer
    if balancer is not None and (asked := balancer.locality_lb_setting) is not None:
        return None if asked.enabled is False else LocalityPolicy(asked, outliers)
    if service.prefer_close:
        return LocalityPolicy(_NEAREST, failover=True)
    mesh = settings.locality_lb or _DEFAULT
    return None if mesh.enabled is False else LocalityPolicy(mesh, outliers)


def by_locality(endpoints: Iterable[ServiceEndpoint]) -> list[LocalityGroup]:
    """The endpoints of each locality, all of one priority."""
    groups: dict[Locality, list[ServiceEndpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.locality, []).append(endpoint)
    ordered = sorted(groups, key=lambda one: (one.region, one.zone, one.sub_zone))
    return [_group(locality, groups[locality]) for locality in ordered]


def arrange(
    groups: list[LocalityGroup], policy: LocalityPolicy, locality: Locality, labels: Mapping[str, str]
) -> list[LocalityGroup]:
    """The groups as a client at ``locality`` with ``labels`` should use them."""
    asked = policy.setting
    if asked.distribute:
        return _distribute(groups, asked.distribute, locality)
    if not policy.failover:
        return groups
    if asked.failover_priority:
        groups = _by_labels(groups, asked.failover_priority, topology_labels(labels, locality))
        if not asked.failover:
            return _close_ranks(groups)
    ranked = [
        replace(group, priority=group.priority * _RANKS + _rank(locality, group.locality, asked.failover))
        for group in groups
    ]
    return _close_ranks(ranked)


def _group(locality: Locality, endpoints: list[ServiceEndpoint], priority: int = 0) -> LocalityGroup:
    # gRPC ignores a locality without a weight.
    return LocalityGroup(locality, tuple(endpoints), sum(one.weight for one in endpoints), priority)


def _matches(locality: Locality, pattern: str) -> bool:
    wanted = parse_locality(pattern)
    return (
        wanted.region in ("*", locality.region)
        and wanted.zone in ("*", "", locality.zone)
        and wanted.sub_zone in ("*", "", locality.sub_zone)
    )


def _distribute(
    groups: list[LocalityGroup], rules: Iterable[LocalityDistribute], locality: Locality
) -> list[LocalityGroup]:
    """The first rule for the client's locality; localities that it does not name get nothing."""
    rule = next((rule for rule in rules if _matches(locality, rule.from_)), None)
    if rule is None:
        return groups
    weights: dict[Locality, int] = {}
    # Istio walks a map in any order; the more specific pattern first is what anybody would expect.
    for pattern, percent in sorted(rule.to.items(), key=lambda one: (one[0].count("*"), -len(one[0]), one[0])):
        chosen = [group for group in groups if group.locality not in weights and _matches(group.locality, pattern)]
        total = sum(group.weight for group in chosen)
        for group in chosen:
            weights[group.locality] = math.ceil(group.weight * percent / total)
    return [replace(group, weight=weight) for group in groups if (weight := weights.get(group.locality, 0))]


def _rank(client: Locality, server: Locality, rules: Iterable[LocalityFailover]) -> int:
    """0 for the client's sub-zone, 1 its zone, 2 its region, 3 elsewhere, 4 where a rule says to go elsewhere first."""
    # An EndpointSlice tells the zone only, whose name is unique without its region.
    if server.region == client.region or (not server.region and server.zone == client.zone != ""):
        if server.zone != client.zone:
            return 2
        return 0 if server.sub_zone == client.sub_zone else 1
    rule = next((rule for rule in rules if rule.from_ == client.region), None)
    return 3 if rule is None or rule.to == server.region else 4


def _by_labels(
    groups: list[LocalityGroup], priorities: tuple[str, ...], client: Mapping[str, str]
) -> list[LocalityGroup]:
    """Each locality split by how many of the labels, in order, its endpoints share with the client."""
    wanted = []
    for one in priorities:
        name, given, value = one.partition("=")
        wanted.append((name, value if given else client.get(name, "")))
    found = []
    for group in groups:
        ranks: dict[int, list[ServiceEndpoint]] = {}
        for endpoint in group.endpoints:
            labels = topology_labels(endpoint.labels, endpoint.locality)
            shared = next((n for n, (name, value) in enumerate(wanted) if labels.get(name, "") != value), len(wanted))
            ranks.setdefault(len(wanted) - shared, []).append(endpoint)
        found += [_group(group.locality, ranks[rank], rank) for rank in sorted(ranks)]
    return found


def _close_ranks(groups: list[LocalityGroup]) -> list[LocalityGroup]:
    """Priorities from 0 without a gap: what xDS asks for."""
    order = {rank: place for place, rank in enumerate(sorted({group.priority for group in groups}))}
    return [replace(group, priority=order[group.priority]) for group in groups]

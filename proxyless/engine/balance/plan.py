"""A cluster's endpoints prepared for picking: usable ones only, by priority, health and locality."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from proxyless.engine.balance.hosts import Active, Hosts, Stride
from proxyless.engine.balance.priority import OVERPROVISIONING_PERCENT, Availability, share_load
from proxyless.model.cluster import Cluster, Endpoint, Health, Locality, LocalityEndpoints

# A rotation's place, by what it rotates over, so that a new plan goes on where the old one was.
TickKey = tuple[int, Health, Locality | None]
Ticks = Callable[[TickKey], Iterator[int]]


class Group:
    """The endpoints of one priority that share a health: one set, or one set a locality when localities have weights.

    Source: Envoy's "Locality weighted load balancing": a locality's weight counts as far as its endpoints are
    available, and a locality without weight gets nothing beside one with.
    """

    __slots__ = ("_sets", "_stride", "_ticks")

    def __init__(self, priority: int, health: Health, groups: list[LocalityEndpoints], ticks: Ticks) -> None:
        weighted: list[tuple[float, Hosts]] = []
        for group in groups:
            usable = tuple(endpoint for endpoint in group.endpoints if endpoint.health is health)
            if group.weight > 0 and usable:
                share = min(1.0, OVERPROVISIONING_PERCENT / 100 * len(usable) / len(group.endpoints))
                weighted.append((group.weight * share, Hosts(usable, ticks((priority, health, group.locality)))))
        if weighted:
            self._sets = tuple(hosts for _, hosts in weighted)
        else:
            every = tuple(e for group in groups for e in group.endpoints if e.health is health)
            self._sets = (Hosts(every, ticks((priority, health, None))),)
        self._stride = Stride([weight for weight, _ in weighted]) if len(weighted) > 1 else None
        self._ticks = ticks((priority, health, _BETWEEN))

    def pick(self, cluster: Cluster, rng: random.Random, active: Active) -> Endpoint:
        hosts = self._sets[0] if self._stride is None else self._sets[self._stride.pick(self._ticks)]
        return hosts.pick(cluster.load_balancer, rng, active)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for hosts in self._sets for endpoint in hosts.endpoints)


_BETWEEN = Locality(region="\0between localities")


class Plan:
    """Immutable; built when a cluster is first used and when a snapshot brings another one of its name."""

    __slots__ = ("_bounds", "_groups", "cluster", "usable")

    def __init__(self, cluster: Cluster, ticks: Ticks) -> None:
        self.cluster = cluster
        priorities: dict[int, list[LocalityEndpoints]] = {}
        for group in cluster.localities:
            priorities.setdefault(group.priority, []).append(group)
        levels = sorted(priorities)
        load = share_load([_availability(priorities[level]) for level in levels])
        groups: list[tuple[int, Group]] = []
        if load is not None:
            for health, percents in ((Health.HEALTHY, load.healthy), (Health.DEGRADED, load.degraded)):
                for level, percent in zip(levels, percents, strict=True):
                    if percent:
                        groups.append((percent, Group(level, health, priorities[level], ticks)))
        self._groups = tuple(group for _, group in groups)
        self._bounds = tuple(accumulate(percent for percent, _ in groups))
        # What a retry may fall back to: every endpoint that is not excluded, those with load first.
        loaded = [endpoint for group in self._groups for endpoint in group.endpoints]
        chosen = {endpoint.key for endpoint in loaded}
        spare = [e for e in cluster.endpoints if e.key not in chosen and e.health in _USABLE]
        self.usable = (*loaded, *spare)

    def pick(self, rng: random.Random, active: Active) -> Endpoint | None:
        groups = self._groups
        if not groups:
            return None
        group = groups[0] if len(groups) == 1 else groups[bisect_right(self._bounds, int(rng.random() * 100))]
        return group.pick(self.cluster, rng, active)


_USABLE = (Health.HEALTHY, Health.DEGRADED)


def _availability(groups: list[LocalityEndpoints]) -> Availability:
    healths = [endpoint.health for group in groups for endpoint in group.endpoints]
    return Availability(healths.count(Health.HEALTHY), healths.count(Health.DEGRADED), len(healths))

"""A cluster's endpoints prepared for picking: usable ones only, by priority, health and locality."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate

from proxyless.engine.balance.hash_table import HashTable, TableKey, table_key
from proxyless.engine.balance.hosts import Active, Hosts, Stride
from proxyless.engine.balance.outliers import Key
from proxyless.engine.balance.priority import (
    OVERPROVISIONING_PERCENT,
    Availability,
    panicking,
    share_load,
    share_panic,
)
from proxyless.model.cluster import Cluster, Endpoint, Hashing, Health, LoadBalancer, Locality, LocalityEndpoints

# A rotation's place, by what it rotates over, so that a new plan goes on where the old one was.
TickKey = tuple[int, Health, Locality | None]
Ticks = Callable[[TickKey], Iterator[int]]
# Builds a table, or has it from before.
Tables = Callable[[TableKey], HashTable]


class Group:
    """The endpoints of one priority that share a health: one set, or one set a locality when localities have weights.

    Source: Envoy's "Locality weighted load balancing": a locality's weight counts as far as its endpoints are
    available, and a locality without weight gets nothing beside one with.
    """

    __slots__ = ("_sets", "_stride", "_ticks")

    def __init__(
        self,
        priority: int,
        health: Health,
        groups: list[LocalityEndpoints],
        ticks: Ticks,
        by_load: Mapping[Key, float] | None,
    ) -> None:
        weighted: list[tuple[float, Hosts]] = []
        for group in groups:
            usable = tuple(endpoint for endpoint in group.endpoints if endpoint.health is health)
            if group.weight > 0 and usable:
                share = min(1.0, OVERPROVISIONING_PERCENT / 100 * len(usable) / len(group.endpoints))
                hosts = Hosts(usable, ticks((priority, health, group.locality)), by_load)
                weighted.append((group.weight * share, hosts))
        if weighted:
            self._sets = tuple(hosts for _, hosts in weighted)
        else:
            every = tuple(e for group in groups for e in group.endpoints if e.health is health)
            self._sets = (Hosts(every, ticks((priority, health, None)), by_load),)
        self._stride = Stride([weight for weight, _ in weighted]) if len(weighted) > 1 else None
        self._ticks = ticks((priority, health, _BETWEEN))

    def pick(self, cluster: Cluster, rng: random.Random, active: Active) -> Endpoint:
        hosts = self._sets[0] if self._stride is None else self._sets[self._stride.pick(self._ticks)]
        return hosts.pick(cluster.load_balancer, rng, active)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for hosts in self._sets for endpoint in hosts.endpoints)


class HashGroup:
    """The endpoints of one priority that share a health, picked by hash."""

    __slots__ = ("_table", "endpoints")

    def __init__(self, cluster: Cluster, health: Health, groups: list[LocalityEndpoints], tables: Tables) -> None:
        # Weights of localities that only sum up their endpoints' change nothing, and could only round.
        flat = all(group.weight in (0, sum(max(1, e.weight) for e in group.endpoints)) for group in groups)
        usable = [
            replace(group, endpoints=tuple(endpoint for endpoint in group.endpoints if endpoint.health is health))
            for group in groups
        ]
        usable = [group for group in usable if group.endpoints]
        key, self.endpoints = table_key(cluster.load_balancer, cluster.hashing or Hashing(), usable, flat=flat)
        self._table = tables(key)

    def pick(self, value: int, attempt: int) -> Endpoint:
        return self.endpoints[self._table.pick(value, attempt)]


_BETWEEN = Locality(region="\0between localities")


class Plan:
    """Immutable; built when a cluster is first used and when a snapshot brings another one of its name."""

    __slots__ = ("_bounds", "_groups", "_hashed", "by_load", "cluster", "ejected", "size", "usable")

    def __init__(
        self,
        cluster: Cluster,
        ticks: Ticks,
        tables: Tables,
        ejected: frozenset[Key] = frozenset(),
        by_load: Mapping[Key, float] | None = None,
    ) -> None:
        """ejected: endpoints that outlier detection leaves out for now; they are as unhealthy ones.

        by_load: the weights of endpoints by what they report, for clusters that balance by it.
        """
        self.cluster = cluster
        self.ejected = ejected
        self.by_load = by_load
        self.size = sum(len(group.endpoints) for group in cluster.localities)
        priorities: dict[int, list[LocalityEndpoints]] = {}
        for group in cluster.localities:
            priorities.setdefault(group.priority, []).append(_without(group, ejected) if ejected else group)
        levels = sorted(priorities)
        available = [_availability(priorities[level]) for level in levels]
        panic = panicking(available, cluster.panic_threshold)
        load = share_panic([one.total for one in available]) if panic and all(panic) else share_load(available)
        for level, panics in zip(levels, panic, strict=True):
            if panics:
                priorities[level] = [_all_usable(group) for group in priorities[level]]
        by_hash = cluster.load_balancer in (LoadBalancer.RING_HASH, LoadBalancer.MAGLEV)
        plain: list[Group] = []
        hashed: list[HashGroup] = []
        shares: list[int] = []
        if load is not None:
            for health, percents in ((Health.HEALTHY, load.healthy), (Health.DEGRADED, load.degraded)):
                for level, percent in zip(levels, percents, strict=True):
                    if not percent:
                        continue
                    shares.append(percent)
                    if by_hash:
                        hashed.append(HashGroup(cluster, health, priorities[level], tables))
                    else:
                        plain.append(Group(level, health, priorities[level], ticks, by_load))
        self._groups = tuple(plain)
        self._hashed = tuple(hashed)
        self._bounds = tuple(accumulate(shares))
        # What a retry may fall back to: every endpoint that is not excluded, those with load first.
        loaded = [endpoint for group in plain for endpoint in group.endpoints]
        loaded += [endpoint for group in hashed for endpoint in group.endpoints]
        chosen = {endpoint.key for endpoint in loaded}
        every = (endpoint for level in levels for group in priorities[level] for endpoint in group.endpoints)
        spare = [e for e in every if e.key not in chosen and e.health in _USABLE]
        self.usable = (*loaded, *spare)

    def pick(self, rng: random.Random, active: Active, value: int | None = None, attempt: int = 0) -> Endpoint | None:
        """value, attempt: the request's hash and how often it was asked before, for clusters that balance by hash."""
        groups = self._groups
        if not groups:
            return self._by_hash(rng.getrandbits(64) if value is None else value, attempt) if self._hashed else None
        group = groups[0] if len(groups) == 1 else groups[bisect_right(self._bounds, int(rng.random() * 100))]
        return group.pick(self.cluster, rng, active)

    def _by_hash(self, value: int, attempt: int) -> Endpoint:
        # Envoy: the hash chooses the priority too, so that it stays with its endpoint while loads are shared.
        return self._hashed[bisect_right(self._bounds, value % 100)].pick(value, attempt)


_USABLE = (Health.HEALTHY, Health.DEGRADED)


def _without(group: LocalityEndpoints, ejected: frozenset[Key]) -> LocalityEndpoints:
    endpoints = tuple(replace(e, health=Health.UNHEALTHY) if e.key in ejected else e for e in group.endpoints)
    return replace(group, endpoints=endpoints)


def _all_usable(group: LocalityEndpoints) -> LocalityEndpoints:
    return replace(group, endpoints=tuple(replace(endpoint, health=Health.HEALTHY) for endpoint in group.endpoints))


def _availability(groups: list[LocalityEndpoints]) -> Availability:
    healths = [endpoint.health for group in groups for endpoint in group.endpoints]
    return Availability(healths.count(Health.HEALTHY), healths.count(Health.DEGRADED), len(healths))

"""How much load each priority gets. Source: Envoy's "Priority levels" and "Degraded endpoints", LoadBalancerBase.

A priority counts as wholly available while 1/1.4 of its endpoints are; below that, its missing part goes to the next
one. Degraded endpoints take what no priority's healthy ones can. Panic is off unless a threshold
is given: Istio turns it off, gRPC has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

OVERPROVISIONING_PERCENT = 140


@dataclass(frozen=True, slots=True)
class Availability:
    """How many endpoints of one priority are healthy and degraded, of all it has."""

    healthy: int
    degraded: int
    total: int


@dataclass(frozen=True, slots=True)
class Load:
    """Percent of requests for each priority's healthy and degraded endpoints, in the order of the priorities."""

    healthy: tuple[int, ...]
    degraded: tuple[int, ...]


def share_load(priorities: Sequence[Availability]) -> Load | None:
    """Integer percents that add up to 100, or None when no endpoint is usable."""
    healthy = [_percent(priority.healthy, priority.total) for priority in priorities]
    degraded = [_percent(priority.degraded, priority.total) for priority in priorities]
    available = min(100, sum(healthy) + sum(degraded))
    if available == 0:
        return None
    healthy_load, rest = _distribute(healthy, available, 100)
    degraded_load, rest = _distribute(degraded, available, rest)
    # Integer division loses a few percent; Envoy gives them to the first priority that has any load.
    for load in (healthy_load, degraded_load):
        for index, percent in enumerate(load):
            if percent and rest:
                load[index] += rest
                rest = 0
    return Load(tuple(healthy_load), tuple(degraded_load))


def panicking(priorities: Sequence[Availability], threshold: float) -> list[bool]:
    """Which priorities have so few usable endpoints that all of theirs are used (Envoy's panic threshold, percent).

    None while all priorities together can take the whole load.
    """
    total = sum(_percent(one.healthy, one.total) + _percent(one.degraded, one.total) for one in priorities)
    if not threshold or total >= 100:
        return [False] * len(priorities)
    return [100 * (one.healthy + one.degraded) < threshold * one.total or not one.total for one in priorities]


def share_panic(sizes: Sequence[int]) -> Load | None:
    """Load when every priority panics: by the number of their endpoints; the first takes what division loses."""
    whole = sum(sizes)
    if not whole:
        return None
    shares = [100 * size // whole for size in sizes]
    shares[next(index for index, share in enumerate(sizes) if share)] += 100 - sum(shares)
    return Load(tuple(shares), (0,) * len(sizes))


def _percent(usable: int, total: int) -> int:
    if not usable:
        return 0
    # At least 1: a large priority with a single usable endpoint must stay reachable.
    return max(1, min(100, OVERPROVISIONING_PERCENT * usable // total))


def _distribute(availability: list[int], available: int, load: int) -> tuple[list[int], int]:
    shares = []
    for percent in availability:
        share = min(load, percent * 100 // available)
        shares.append(share)
        load -= share
    return shares, load

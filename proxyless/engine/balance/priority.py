"""How much load each priority gets. Source: Envoy's "Priority levels" and "Degraded endpoints", LoadBalancerBase.

A priority counts as wholly available while 1/1.4 of its endpoints are; below that, its missing part goes to the next
one. Degraded endpoints take what no priority's healthy ones can. There is no panic mode: Istio turns it off, gRPC has
none.
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

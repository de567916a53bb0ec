"""Choosing one endpoint among those of equal rank: round robin, least request, random. Source: Envoy's load balancers.

Called from several threads at once without a lock. ``next`` on an itertools.count and ``random.random`` are single C
calls, and everything else here is immutable, so no two callers can disturb one another.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from proxyless.model.cluster import Endpoint, LoadBalancer

# How many requests an endpoint has in flight, by its key.
Active = Callable[[tuple[str, int]], int]

_MOST = 65535
# Looking a member up in an enum's class costs Python 3.11 more than comparing with it.
_ROUND_ROBIN, _LEAST_REQUEST = LoadBalancer.ROUND_ROBIN, LoadBalancer.LEAST_REQUEST
_BY_LOAD = LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN


class Stride:
    """A weighted rotation that needs no lock: each tick says by itself whether it is its host's turn (gRPC's static
    stride).

    Over a period a host's turns are proportional to its weight, as with Envoy's earliest-deadline-first schedule, and
    they are spread out the same way. The heaviest host has a turn in every round, so a pick takes at most n ticks.
    """

    __slots__ = ("_equal", "_weights")

    def __init__(self, weights: Sequence[float]) -> None:
        most = max(weights)
        self._equal = min(weights) == most
        self._weights = tuple(max(1, round(weight * _MOST / most)) for weight in weights)

    def pick(self, ticks: Iterator[int]) -> int:
        weights = self._weights
        size = len(weights)
        if self._equal:
            return next(ticks) % size
        while True:
            generation, index = divmod(next(ticks), size)
            weight = weights[index]
            # The offset keeps hosts of equal weight from having their turns in the same rounds.
            if (weight * generation + index * (_MOST // 2)) % _MOST >= _MOST - weight:
                return index


class Hosts:
    """Endpoints of one priority, health and locality, with what the balancers need worked out once."""

    __slots__ = ("_bounds", "_equal", "_stride", "_ticks", "endpoints")

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        ticks: Iterator[int],
        by_load: Mapping[tuple[str, int], float] | None = None,
    ) -> None:
        """``ticks`` outlives this object, so that a change of endpoints does not start the rotation again.

        by_load: weights that count instead of the endpoints' own.
        """
        weights: Sequence[float]
        if by_load is None:
            weights = [max(1, endpoint.weight) for endpoint in endpoints]
        else:
            weights = _weights_by_load(endpoints, by_load)
        self.endpoints = endpoints
        self._equal = min(weights) == max(weights)
        self._bounds = tuple(accumulate(weights))
        self._stride = Stride(weights)
        self._ticks = ticks

    def pick(self, balancer: LoadBalancer, rng: random.Random, active: Active) -> Endpoint:
        endpoints = self.endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        if balancer is _ROUND_ROBIN or balancer is _BY_LOAD:
            return endpoints[self._stride.pick(self._ticks)]
        if balancer is _LEAST_REQUEST:
            return self._least_request(rng, active)
        # Envoy's RANDOM takes no account of endpoint weights.
        return endpoints[int(rng.random() * len(endpoints))]

    def _least_request(self, rng: random.Random, active: Active) -> Endpoint:
        """The better of two, by requests in flight per weight. Envoy draws the two with replacement; two different
        ones are never worse. Drawing by weight and keeping the first of equals makes an idle cluster's shares follow
        the weights.
        """
        endpoints = self.endpoints
        size = len(endpoints)
        if self._equal:
            first = int(rng.random() * size)
            second = int(rng.random() * (size - 1))
            one, other = endpoints[first], endpoints[second + (second >= first)]
            return one if active(one.key) <= active(other.key) else other
        one, other = self._weighted(rng), self._weighted(rng)
        # Requests in flight per weight, compared without a division.
        return one if active(one.key) * max(1, other.weight) <= active(other.key) * max(1, one.weight) else other

    def _weighted(self, rng: random.Random) -> Endpoint:
        return self.endpoints[bisect_right(self._bounds, int(rng.random() * self._bounds[-1]))]


def _weights_by_load(endpoints: tuple[Endpoint, ...], by_load: Mapping[tuple[str, int], float]) -> list[float]:
    """Who has none gets the mean of the others; one alone says nothing about the rest (gRFC A58)."""
    known = [by_load[endpoint.key] for endpoint in endpoints if endpoint.key in by_load]
    if len(known) < 2:
        return [1.0] * len(endpoints)
    mean = sum(known) / len(known)
    return [by_load.get(endpoint.key, mean) for endpoint in endpoints]

"""Consistent hashing: from a 64-bit hash to an endpoint, so that a change of endpoints moves few hashes.

The tables are Envoy's bit for bit (RingHashLoadBalancer, MaglevTable; gRFC A42), so that a library client and a sidecar
send the same hash to the same endpoint. Built for a set of endpoints, not for a request.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from xxhash import xxh64_intdigest

from proxyless.model.cluster import Endpoint, Hashing, LoadBalancer, LocalityEndpoints

_MASK = 2**64 - 1


class HashTable(Protocol):
    def pick(self, value: int, attempt: int = 0) -> int:
        """The index of the endpoint for a hash; ``attempt`` counts from 0 and goes on to others."""
        ...


@dataclass(frozen=True, slots=True)
class TableKey:
    """All that a table depends on. hosts: what is hashed for each endpoint, and its share of the whole (0 to 1)."""

    kind: LoadBalancer
    hashing: Hashing
    hosts: tuple[tuple[str, float], ...]

    def build(self) -> HashTable:
        if self.kind is LoadBalancer.MAGLEV:
            return Maglev(self.hosts, self.hashing.table_size)
        return Ring(self.hosts, self.hashing.minimum_ring_size, self.hashing.maximum_ring_size)


def table_key(
    kind: LoadBalancer, hashing: Hashing, groups: Sequence[LocalityEndpoints], *, flat: bool
) -> tuple[TableKey, tuple[Endpoint, ...]]:
    """The key of the table over ``groups``, and the endpoints that its indexes mean. flat: localities do not count."""
    if flat or not any(group.weight for group in groups):
        endpoints = tuple(endpoint for group in groups for endpoint in group.endpoints)
        groups = [LocalityEndpoints(endpoints, weight=1)]
    whole = sum(group.weight for group in groups)
    hosts: list[tuple[str, float]] = []
    chosen: list[Endpoint] = []
    for group in groups:
        if not group.weight:
            continue
        share, total = group.weight / whole, sum(max(1, endpoint.weight) for endpoint in group.endpoints)
        for endpoint in group.endpoints:
            name = endpoint.hostname if hashing.use_hostname and endpoint.hostname else str(endpoint)
            hosts.append((name, max(1, endpoint.weight) * share / total))
            chosen.append(endpoint)
    return TableKey(kind, hashing, tuple(hosts)), tuple(chosen)


class Ring:
    """Each endpoint at several places of a ring, in proportion to its share; a hash belongs to the next place."""

    __slots__ = ("_owners", "_places")

    def __init__(self, hosts: Sequence[tuple[str, float]], minimum: int, maximum: int) -> None:
        least = min(share for _, share in hosts)
        # So many places that the lightest endpoint has a whole number of them.
        scale = min(math.ceil(least * minimum) / least, float(maximum))
        places: list[tuple[int, int]] = []
        target = 0.0
        for index, (name, share) in enumerate(hosts):
            target += scale * share
            number, text = 0, name.encode()
            while len(places) < target:
                places.append((xxh64_intdigest(b"%s_%d" % (text, number)), index))
                number += 1
        places.sort()
        self._places = array("Q", (place for place, _ in places))
        self._owners = array("I", (owner for _, owner in places))

    def __len__(self) -> int:
        return len(self._places)

    def pick(self, value: int, attempt: int = 0) -> int:
        index = bisect_left(self._places, value)
        size = len(self._owners)
        if index == size:
            index = 0
        return self._owners[(index + attempt) % size if attempt else index]


class Maglev:
    """A table of prime size that the endpoints fill in turns, each in an order of its own (Google's Maglev paper)."""

    __slots__ = ("_table",)

    def __init__(self, hosts: Sequence[tuple[str, float]], size: int) -> None:
        # In a fixed order, whatever order the endpoints came in. -1: not taken yet.
        order = sorted(range(len(hosts)), key=lambda index: hosts[index][0].encode())
        place = [xxh64_intdigest(hosts[index][0].encode()) % size for index in order]
        skip = [xxh64_intdigest(hosts[index][0].encode(), 1) % (size - 1) + 1 for index in order]
        weights = [hosts[index][1] for index in order]
        most = max(weights)
        targets = [0.0] * len(order)
        table = [-1] * size
        left, turn = size, 0
        while left:
            turn += 1
            for number, index in enumerate(order):
                # An endpoint of half the greatest weight takes every second turn.
                if turn * weights[number] < targets[number]:
                    continue
                targets[number] += most
                at, step = place[number], skip[number]
                while table[at] >= 0:
                    at += step
                    if at >= size:
                        at -= size
                table[at] = index
                at += step
                place[number] = at - size if at >= size else at
                left -= 1
                if not left:
                    break
        self._table = array("I", table)

    def __len__(self) -> int:
        return len(self._table)

    def pick(self, value: int, attempt: int = 0) -> int:
        if attempt:
            value ^= _MASK - attempt + 1
        return self._table[value % len(self._table)]

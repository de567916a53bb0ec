"""Draws one leg of a weighted split. Source: Envoy's weighted clusters.

Weights are used as they are, never rounded to a table: a weight of 0 gets nothing, any other exactly weight / sum.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from proxyless.model.route import WeightedCluster


class Split:
    """The legs of one route with their weights summed up once."""

    __slots__ = ("_bounds", "_legs", "total")

    def __init__(self, legs: Sequence[WeightedCluster]) -> None:
        # Dropping zero legs here means that no rounding of a draw can ever reach one.
        self._legs = tuple(leg for leg in legs if leg.weight > 0)
        self._bounds = tuple(accumulate(leg.weight for leg in self._legs))
        self.total = self._bounds[-1] if self._bounds else 0

    def pick(self, draw: float) -> WeightedCluster | None:
        """``draw`` is uniform in [0, 1). None when every weight is zero."""
        legs = self._legs
        if len(legs) == 1:
            return legs[0]
        if not legs:
            return None
        return legs[min(bisect_right(self._bounds, int(draw * self.total)), len(legs) - 1)]

    def share(self, leg: WeightedCluster) -> float:
        """The part of requests that a leg gets, 0 to 1."""
        return leg.weight / self.total if self.total else 0.0

"""Endpoints' weights by the load they report. Source: gRFC A58, Envoy's client_side_weighted_round_robin.

Called from several threads without a lock: an endpoint's entry is replaced whole. Weights are worked out anew once in
``update_period``, and are the same object until they change.
"""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from proxyless.model.cluster import LoadWeighting
from proxyless.model.load_report import LoadReport

Key = tuple[str, int]
# Nobody has one: all are picked alike.
NO_WEIGHTS: Mapping[Key, float] = {}
# Envoy's largest; a peer says any number.
_HEAVIEST = float(2**32 - 1)


class _Reported(NamedTuple):
    """since: of the first report of those that came without a gap. updated: of the last."""

    weight: float
    since: float
    updated: float


class LoadWeights:
    """What the endpoints of one cluster report."""

    __slots__ = ("_next", "_reported", "_weights")

    def __init__(self) -> None:
        self._reported: dict[Key, _Reported] = {}
        self._weights = NO_WEIGHTS
        self._next = -math.inf

    def report(self, asked: LoadWeighting, key: Key, report: LoadReport, now: float) -> None:
        """An endpoint's report; one that tells no load, or no requests, changes nothing."""
        weight = weight_of(asked, report)
        if weight <= 0:
            return
        before = self._reported.get(key)
        fresh = before is None or now - before.updated >= asked.expiration_period
        self._reported[key] = _Reported(weight, now if fresh or before is None else before.since, now)

    def weights(self, asked: LoadWeighting, now: float) -> Mapping[Key, float]:
        """Of endpoints that have reported for long enough, and lately."""
        if now < self._next:
            return self._weights
        self._next = now + asked.update_period
        found = {
            key: one.weight
            for key, one in list(self._reported.items())
            if now - one.updated < asked.expiration_period and now - one.since >= asked.blackout_period
        }
        if found != self._weights:
            self._weights = found
        return self._weights

    def forget(self, known: AbstractSet[Key]) -> None:
        """All endpoints but those known."""
        for key in list(self._reported):
            if key not in known:
                self._reported.pop(key, None)


def weight_of(asked: LoadWeighting, report: LoadReport) -> float:
    """Requests a second, by the share of the server that they and its errors take; 0 for none."""
    if report.qps <= 0:
        return 0.0
    utilization = report.application_utilization
    if utilization <= 0:
        utilization = max((_metric(report, name) for name in asked.metric_names), default=0.0)
    if utilization <= 0:
        utilization = report.cpu_utilization
    if utilization <= 0:
        return 0.0
    utilization += max(0.0, report.eps) / report.qps * asked.error_utilization_penalty
    weight = report.qps / utilization if math.isfinite(utilization) else 0.0
    return min(weight, _HEAVIEST)


def _metric(report: LoadReport, name: str) -> float:
    """By its name in metric_names_for_computing_utilization; ``named_metrics.foo`` is one of a map."""
    group, _, key = name.partition(".")
    match group:
        case "named_metrics":
            return report.named_metrics.get(key, 0.0)
        case "utilization":
            return report.utilization.get(key, 0.0)
        case "request_cost":
            return report.request_cost.get(key, 0.0)
        case "cpu_utilization":
            return report.cpu_utilization
        case "mem_utilization":
            return report.memory_utilization
        case "application_utilization":
            return report.application_utilization
    return 0.0

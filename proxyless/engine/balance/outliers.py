"""Passive outlier detection: an endpoint that fails again and again is left out for a while.

Source: Envoy's DetectorImpl and router, gRFC A50. Kept by endpoint key beyond a snapshot. Envoy sweeps by a timer; here
the sweeps that were due are made up for when the cluster is next used, with the same result. Reporting an outcome takes
no lock; ejecting and sweeping, which are rare, do.
"""

import math
import random
import threading
from collections.abc import Collection

from proxyless.engine.steps import Answered, Failed, FailureKind, Outcome
from proxyless.model.cluster import OutlierDetection

Key = tuple[str, int]

NOBODY: frozenset[Key] = frozenset()
_GATEWAY_ERRORS = (502, 503, 504)
# grpc-status -> the HTTP status that it counts as (Envoy's grpcToHttpStatus).
_GRPC = {
    "0": 200, "1": 499, "2": 500, "3": 400, "4": 504, "5": 404, "6": 409, "7": 403, "8": 429,
    "9": 400, "10": 409, "11": 400, "12": 501, "13": 500, "14": 503, "15": 500, "16": 401,
}  # fmt: skip


class _Monitor:
    """One endpoint. multiplier: grows with every ejection, and shrinks with every interval without one."""

    __slots__ = ("ejected_at", "five_xx", "gateway", "local", "multiplier", "uneject_seen")

    def __init__(self) -> None:
        self.multiplier = 0
        self.ejected_at: float | None = None
        self.uneject_seen = False
        self.reset()

    def reset(self) -> None:
        self.five_xx = self.gateway = self.local = 0


class Outliers:
    """The endpoints of one cluster. ``ejected`` is replaced, never changed: it is compared by identity."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self.ejected = NOBODY
        self._monitors: dict[Key, _Monitor] = {}
        self._lock = threading.Lock()
        self._swept = now

    def report(
        self,
        asked: OutlierDetection,
        key: Key,
        outcome: Outcome,
        *,
        hosts: int,
        now: float,
        grpc: bool = False,
    ) -> None:
        """What became of an attempt. hosts: how many endpoints the cluster has. grpc: of a gRPC request."""
        monitor = self._monitors.get(key)
        if monitor is None:
            monitor = self._monitors.setdefault(key, _Monitor())
        if isinstance(outcome, Answered):
            if asked.split_local_origin:
                monitor.local = 0
            status = _status(outcome) if grpc else outcome.status
        else:
            local = _local_status(outcome)
            if local is None:
                return
            if asked.split_local_origin:
                monitor.local += 1
                if monitor.local >= asked.consecutive_local_origin_failure > 0:
                    self._detected(asked, key, monitor, asked.enforcing_local_origin, hosts=hosts, now=now)
                    monitor.local = 0
                return
            status = local
        if status < 500:
            monitor.five_xx = monitor.gateway = 0
            return
        if status in _GATEWAY_ERRORS:
            monitor.gateway += 1
            if monitor.gateway >= asked.consecutive_gateway_failure > 0:
                self._detected(asked, key, monitor, asked.enforcing_gateway_failure, hosts=hosts, now=now)
                monitor.gateway = 0
        else:
            monitor.gateway = 0
        monitor.five_xx += 1
        if monitor.five_xx >= asked.consecutive_5xx > 0:
            self._detected(asked, key, monitor, asked.enforcing_5xx, hosts=hosts, now=now)
            monitor.five_xx = 0

    def sweep(self, asked: OutlierDetection, now: float) -> None:
        """Let endpoints back in whose time was over at one of the intervals that have passed."""
        if now - self._swept < asked.interval:
            return
        with self._lock:
            start, ticks = self._swept, int((now - self._swept) // asked.interval)
            if not ticks:
                return
            self._swept = start + ticks * asked.interval
            for monitor in list(self._monitors.values()):
                quiet = ticks
                if monitor.ejected_at is not None:
                    lasts = min(asked.base_ejection_time * monitor.multiplier, asked.max_ejection_time)
                    # The first sweep, counted from 1, that is late enough.
                    over = max(1, math.ceil((monitor.ejected_at + lasts - start) / asked.interval))
                    if over > ticks:
                        continue
                    monitor.ejected_at = None
                    monitor.uneject_seen = True
                    monitor.reset()
                    quiet = ticks - over
                if monitor.uneject_seen:
                    monitor.multiplier = max(0, monitor.multiplier - quiet)
            self._publish()

    def forget(self, known: Collection[Key]) -> None:
        """Drop what is known of endpoints that are no longer the cluster's."""
        with self._lock:
            self._monitors = {key: monitor for key, monitor in list(self._monitors.items()) if key in known}
            self._publish()

    def _detected(
        self,
        asked: OutlierDetection,
        key: Key,
        monitor: _Monitor,
        enforcing: int,
        *,
        hosts: int,
        now: float,
    ) -> None:
        with self._lock:
            if monitor.ejected_at is not None or self._monitors.get(key) is not monitor:
                return
            percent = 100 * (len(self.ejected) + 1) / max(1, hosts)
            allowed = percent <= asked.max_ejection_percent or (asked.always_eject_one and not self.ejected)
            if not allowed or self._rng.random() * 100 >= enforcing:
                return
            monitor.ejected_at = now
            if monitor.multiplier * asked.base_ejection_time < asked.max_ejection_time + asked.base_ejection_time:
                monitor.multiplier += 1
            self._publish()

    def _publish(self) -> None:
        out = frozenset(key for key, monitor in list(self._monitors.items()) if monitor.ejected_at is not None)
        ejected = out or NOBODY
        if ejected != self.ejected:
            self.ejected = ejected


def _status(answer: Answered) -> int:
    """A trailers-only gRPC response counts as its grpc-status, any other as it is."""
    for name, value in answer.headers:
        if name == "grpc-status":
            return _GRPC.get(value.strip(), 500)
    return answer.status


def _local_status(failed: Failed) -> int | None:
    """What an attempt without a response counts as; None for a limit of our own, which is not the endpoint's fault."""
    match failed.kind:
        case FailureKind.OVERFLOW:
            return None
        case FailureKind.TIMEOUT:
            return 504
        case _:
            return 503

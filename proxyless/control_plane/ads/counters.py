"""What the ADS server counts since its start, for /metrics."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Istio's buckets of pilot_proxy_convergence_time, and two below them: here it is a matter of milliseconds.
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0)


@dataclass(slots=True)
class Histogram:
    """counts: of observations up to each of BUCKETS, and above them all; not cumulative."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value


@dataclass(slots=True)
class AdsCounters:
    """pushes, acks, nacks: responses by type URL, of the types that we serve.

    convergence: seconds from a change of the world to a client's having accepted all that it brings.
    """

    pushes: Counter[str] = field(default_factory=Counter)
    acks: Counter[str] = field(default_factory=Counter)
    nacks: Counter[str] = field(default_factory=Counter)
    convergence: Histogram = field(default_factory=Histogram)

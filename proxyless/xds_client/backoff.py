"""When to connect again: at once for the first time, then ever more rarely, never in step with other clients."""

import random

from tenacity import RetryCallState
from tenacity.wait import wait_base

# The first retry, so that a restarted control plane is found while it comes up.
FIRST = 0.2
BASE = 1.0
# Slower than gRPC's 1.6: a control plane that was away for 10 s is found within 2 s, and 30 s are reached after 6
# minutes.
FACTOR = 1.15
LONGEST = 30.0


class Backoff(wait_base):
    """Uniform in the upper half of the growing wait (equal jitter): never at once, never all together."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return self.after(retry_state.attempt_number)

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 after the first)."""
        longest = FIRST if failures <= 1 else min(BASE * FACTOR ** min(failures - 2, 100), LONGEST)
        return self._rng.uniform(longest / 2, longest)

"""How long a call and each of its attempts may take. Source: Envoy's router filter, FilterUtility::finalTimeout.

The route's timeout covers the whole call: every attempt, every back-off, and the response's body. A per-try timeout
ends one attempt that has brought no response head. The caller's own deadline bounds both.
"""

from typing import NamedTuple


class Limits(NamedTuple):
    """Monotonic ``deadline`` of the call and ``per_try`` seconds, each None for no limit."""

    deadline: float | None
    per_try: float | None

    @classmethod
    def start(cls, now: float, timeout: float | None, per_try: float | None, deadline: float | None) -> "Limits":
        """``timeout`` of the route in seconds (None or 0: no limit), ``deadline`` of the request being served."""
        if timeout and (deadline is None or now + timeout < deadline):
            deadline = now + timeout
        # As in Envoy, a per-try timeout that is not shorter than the whole is no limit of its own.
        if per_try is not None and (per_try <= 0 or (timeout and per_try >= timeout)):
            per_try = None
        return cls(deadline, per_try)

    def expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def allows(self, now: float, wait: float) -> bool:
        """Whether something could still happen after waiting."""
        return self.deadline is None or now + wait < self.deadline

    def attempt(self, now: float) -> tuple[float | None, bool]:
        """Seconds for an attempt that starts now, and whether it is the call's deadline that ends it."""
        if self.deadline is None:
            return self.per_try, False
        remaining = self.deadline - now
        if self.per_try is not None and self.per_try < remaining:
            return self.per_try, False
        return remaining, True


NO_LIMITS = Limits(None, None)


def expected_ms(timeout: float) -> str:
    """The value of ``x-envoy-expected-rq-timeout-ms``; never 0, which would mean no limit."""
    return str(int(timeout * 1000) or 1) if timeout > 0 else "1"

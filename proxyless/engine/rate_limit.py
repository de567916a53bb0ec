"""Local rate limits: who gets a token, and what the others are told.

Source: Envoy's local rate limit filter and its AtomicTokenBucket, which fills continuously, not at each interval's end.
"""

import random
import threading
import time
from collections.abc import Callable

from proxyless.engine import fault
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.rate_limit import RateLimit

# Envoy's body, and its response code details.
BODY = b"local_rate_limited"
_RESOURCE_EXHAUSTED = 8
# Tokens that rounding may lose between two requests.
_EPSILON = 1e-9
# Limits of former snapshots are kept as well, up to a point.
_MAX_BUCKETS = 4096


class _Bucket:
    __slots__ = ("_at", "_limit", "_lock", "_tokens")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._limit = limit
        self._tokens = float(limit.most)
        self._at = now
        self._lock = threading.Lock()

    def take(self, now: float) -> bool:
        limit = self._limit
        with self._lock:
            if now > self._at:
                back = (now - self._at) * limit.tokens / limit.interval
                self._tokens = min(self._tokens + back, float(limit.most))
                self._at = now
            if self._tokens < 1 - _EPSILON:
                return False
            self._tokens = max(self._tokens - 1, 0.0)
            return True


class RateLimiter:
    """The buckets of one process, by their limits: a snapshot that brings the same limit again finds its bucket.

    clock: monotonic seconds. May be called by any number of threads; only requests that a limit is for take its lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()  # noqa: S311  nothing secret is drawn
        self._buckets: dict[RateLimit, _Bucket] = {}

    def admits(self, limit: RateLimit) -> bool:
        """Whether one more request may pass; if so, it has taken a token."""
        if not fault.happens(limit.enabled, self._rng):
            return True
        now = self._clock()
        bucket = self._buckets.get(limit)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._buckets = {}
            # setdefault: of two threads that come first, both take from one bucket.
            bucket = self._buckets.setdefault(limit, _Bucket(limit, now))
        return bucket.take(now) or not fault.happens(limit.enforced, self._rng)

    def clear(self) -> None:
        """In a forked child, where another thread of the parent may have held a lock."""
        self._buckets = {}


def refusal(limit: RateLimit, request: Request) -> Respond:
    """What a request without a token is answered."""
    return respond(
        request,
        limit.status,
        BODY,
        reason(limit),
        (Flag.RATE_LIMITED,),
        headers=limit.headers,
        grpc_status=grpc_status(limit),
    )


def grpc_status(limit: RateLimit) -> int | None:
    """None: what the HTTP status stands for."""
    return _RESOURCE_EXHAUSTED if limit.exhausted else None


def reason(limit: RateLimit) -> str:
    """Begins with Envoy's response code details."""
    return f"{BODY.decode()}: {limit}" + (f" ({limit.name})" if limit.name else "")

"""How many requests may pass a place: Envoy's local rate limit filter (extensions.filters.http.local_ratelimit.v3)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket of this process: a request takes a token, ``tokens`` come back in each ``interval`` seconds.

    place: where it stands; limits that are equal and stand in one place share a bucket. name: for people.
    most: tokens that the full bucket has, which is how many requests may come at once. enabled, enforced: parts per
    million of the requests that need a token, and of those without one that are refused. An ``enabled`` of 0 is no
    limit, also where a less specific place has one.
    status, headers: of a refusal. exhausted: to gRPC it is RESOURCE_EXHAUSTED, else what the status stands for.
    """

    place: str
    name: str = ""
    most: int = 0
    tokens: int = 0
    interval: float = 1.0
    enabled: int = 1_000_000
    enforced: int = 1_000_000
    status: int = 429
    headers: tuple[tuple[str, str], ...] = ()
    exhausted: bool = False

    def __str__(self) -> str:
        unit = {1.0: "s", 60.0: "m", 3600.0: "h"}.get(self.interval, f"{self.interval:g} s")
        burst = f"; burst={self.most}" if self.most != self.tokens else ""
        return f"{self.tokens}/{unit}{burst}"


# What a more specific place says to switch off the limit of a less specific one.
NO_LIMIT = RateLimit("", enabled=0)

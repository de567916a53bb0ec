"""Fault injection: Envoy's fault filter (extensions.filters.http.fault.v3.HTTPFault), gRFC A33.

A delay and an abort are drawn independently; a request that gets both waits first and is then aborted.
"""

import random

from proxyless.engine.matching import headers_match
from proxyless.engine.request import Request
from proxyless.model.route import Fault, FaultAbort


def applicable(request: Request, *levels: Fault | None) -> Fault | None:
    """The most specific fault, given most specific first, if the request meets its header condition.

    A more specific fault replaces a less specific one even where its own condition does not hold, as in Envoy.
    """
    for fault in levels:
        if fault is not None:
            return fault if headers_match(fault.headers, request) else None
    return None


def happens(parts_per_million: int, rng: random.Random) -> bool:
    """One draw. 0 never and 1,000,000 always, without a draw."""
    if parts_per_million <= 0:
        return False
    return parts_per_million >= 1_000_000 or rng.random() * 1_000_000 < parts_per_million


def draw_delay(fault: Fault, rng: random.Random) -> float | None:
    """Seconds to wait, or None."""
    delay = fault.delay
    if delay is None or delay.seconds <= 0 or not happens(delay.parts_per_million, rng):
        return None
    return delay.seconds


def draw_abort(fault: Fault, rng: random.Random) -> FaultAbort | None:
    abort = fault.abort
    return abort if abort is not None and happens(abort.parts_per_million, rng) else None

"""The annotation by which requests are limited: Istio's API has no word for it.

``100/s``, ``100/m; burst=200``, and on a Service for some of its ports ``8080=100/s, grpc=50/s; burst=80``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

RATE_LIMIT = "proxyless.io/rate-limit"
HELP = 'write requests per second, minute or hour, such as "100/s" or "100/m; burst=200"'

_PART = re.compile(
    r"(?:(?P<port>[A-Za-z0-9-]+)\s*=\s*)?(?P<number>[0-9]{1,10})\s*/\s*(?P<unit>[smh])"
    r"(?:\s*;\s*burst\s*=\s*(?P<burst>[0-9]{1,10}))?"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """So many ``requests`` in each ``seconds``. burst: how many may come at once. port: of a Service, by its name or
    number; "" for all.
    """

    requests: int
    seconds: int
    burst: int
    port: str = ""


def rates(annotations: Mapping[str, str]) -> tuple[Rate, ...]:
    """What an annotation asks for that ``parse_rates`` has accepted; nothing without one."""
    text = annotations.get(RATE_LIMIT)
    return parse_rates(text) if text is not None else ()


def parse_rates(text: str) -> tuple[Rate, ...]:
    """Raises ValueError with what is wrong and the remedy."""
    found: list[Rate] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()[:80]!r} is not a rate; {HELP}")
        requests = int(match["number"])
        burst = int(match["burst"]) if match["burst"] is not None else requests
        if not (1 <= requests <= _MOST and 1 <= burst <= _MOST):
            raise ValueError(f"{part.strip()!r}: a rate and a burst are from 1 to {_MOST}")
        found.append(Rate(requests, _SECONDS[match["unit"]], burst, match["port"] or ""))
    ports = [one.port for one in found]
    if len(set(ports)) < len(ports):
        raise ValueError("names a port twice, or has two rates for all; keep one of them")
    if "" in ports and len(ports) > 1:
        raise ValueError("has a rate for all ports beside those of some; name the port of each")
    return tuple(found)

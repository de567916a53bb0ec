"""How long a caller waits: ``x-envoy-expected-rq-timeout-ms`` (set by Envoy's router) and gRPC's ``grpc-timeout``."""

import re
from collections.abc import Iterable
from functools import lru_cache

_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MILLISECONDS = re.compile(r"[0-9]{1,12}\Z")
_LONGEST = 13
TIMEOUT_HEADERS = frozenset({"x-envoy-expected-rq-timeout-ms", "grpc-timeout"})


def patience(headers: Iterable[tuple[str, str]]) -> float | None:
    """Seconds that the caller waits, by its header lines; names that are not in TIMEOUT_HEADERS are passed over.

    None when it did not say, or said something malformed, or said it twice, or 0 ms (no limit).
    """
    # One character more than is well-formed: peers choose the values, and these are remembered.
    lines = [(name, value[:_LONGEST]) for name, value in headers if name in TIMEOUT_HEADERS]
    return _said(tuple(lines)) if lines else None


# Callers say what their routes do, again and again.
@lru_cache(maxsize=256)
def _said(lines: tuple[tuple[str, str], ...]) -> float | None:
    said: dict[str, str] = {}
    for name, value in lines:
        said[name] = "" if name in said else value
    found: list[float] = []
    expected = said.get("x-envoy-expected-rq-timeout-ms", "")
    if _MILLISECONDS.match(expected) and int(expected) > 0:
        found.append(int(expected) / 1000)
    if match := _GRPC.match(said.get("grpc-timeout", "")):
        found.append(int(match[1]) * _UNITS[match[2]])
    return min(found, default=None)

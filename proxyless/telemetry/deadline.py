"""How long a caller waits: ``x-envoy-expected-rq-timeout-ms`` (set by Envoy's router) and gRPC's ``grpc-timeout``."""

import re

from proxyless.engine.request import Request

_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MILLISECONDS = re.compile(r"[0-9]{1,12}\Z")


def patience(head: Request) -> float | None:
    """Seconds that the caller waits; None when it did not say, or said something malformed, or 0 ms (no limit)."""
    found: list[float] = []
    expected = head.header("x-envoy-expected-rq-timeout-ms")
    if expected and _MILLISECONDS.match(expected) and int(expected) > 0:
        found.append(int(expected) / 1000)
    grpc = head.header("grpc-timeout")
    if grpc and (match := _GRPC.match(grpc)):
        found.append(int(match[1]) * _UNITS[match[2]])
    return min(found, default=None)

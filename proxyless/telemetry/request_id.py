"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import re

from proxyless.telemetry.identifiers import Supply, digits

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")


# RFC 9562 section 4.1: the digit whose first two bits are 10, by a random one.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


# What is kept of 32 hex digits; the version's is not, the variant's is made of one.
_PARTS = re.compile("(.{8})(.{4}).(.{3})(.)(.{3})(.{12})")


def _uuids(count: int) -> list[str]:
    """Random, version 4, as Envoy makes them."""
    found = _PARTS.findall(digits(32 * count))
    return [f"{a}-{b}-4{c}-{_VARIANT[variant]}{d}-{e}" for a, b, c, variant, d, e in found]


new_request_id = Supply(_uuids).take


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

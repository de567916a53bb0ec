"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import re

from proxyless.telemetry.identifiers import Supply, digits

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")


# RFC 9562 section 4.1: the digit whose first two bits are 10, by a random one.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _uuid() -> str:
    """Random, version 4, as Envoy makes them."""
    text = digits(32)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


new_request_id = Supply(_uuid).take


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

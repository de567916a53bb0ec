"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import re

from proxyless.telemetry.identifiers import Supply, digits

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")


# RFC 9562 section 4.1: the digit whose first two bits are 10, by a random one.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _uuids(count: int) -> list[str]:
    """Random, version 4, as Envoy makes them."""
    text = digits(32 * count)
    return [
        f"{text[at : at + 8]}-{text[at + 8 : at + 12]}-4{text[at + 13 : at + 16]}-"
        f"{_VARIANT[text[at + 16]]}{text[at + 17 : at + 20]}-{text[at + 20 : at + 32]}"
        for at in range(0, len(text), 32)
    ]


new_request_id = Supply(_uuids).take


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

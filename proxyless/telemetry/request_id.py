"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import re

from proxyless.telemetry.identifiers import bits

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")
# RFC 9562 section 5.4: which bits say "version 4", and which are random.
_VERSION_4 = 4 << 76 | 2 << 62
_RANDOM = (1 << 128) - 1 ^ (0xF << 76 | 3 << 62)


def new_request_id() -> str:
    """A random UUID (version 4), as Envoy makes them."""
    text = f"{bits(128) & _RANDOM | _VERSION_4:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

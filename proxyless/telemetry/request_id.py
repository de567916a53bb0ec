"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import re

from proxyless.telemetry.identifiers import bits

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")


def new_request_id() -> str:
    """A random UUID (version 4), as Envoy makes them."""
    text = f"{bits(122):031x}"
    # RFC 9562 section 5.4: the version, and a digit whose first two bits are 10.
    return f"{text[:8]}-{text[8:12]}-4{text[12:15]}-{'89ab'[int(text[30], 16) & 3]}{text[15:18]}-{text[18:30]}"


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

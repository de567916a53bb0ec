"""``x-request-id``: one per request that enters the mesh, the same on every hop (Envoy's uuid request id extension)."""

import os
import re

# What a peer may choose; anything else is replaced, so that no log line or header is built from it.
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,256}\Z")


def new_request_id() -> str:
    """A random UUID (version 4), as Envoy makes them."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def acceptable(value: str) -> bool:
    return _ACCEPTABLE.match(value) is not None

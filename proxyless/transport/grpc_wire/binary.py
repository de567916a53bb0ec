"""Values of metadata whose key ends in ``-bin``: base64 on the wire (PROTOCOL-HTTP2.md, "Custom-Metadata")."""

import binascii

SUFFIX = "-bin"


def encoded(value: bytes) -> bytes:
    """Without padding, as all of gRPC sends it."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def decoded(line: bytes) -> list[bytes | None]:
    """Of one line, in which commas join several. None for what is not base64."""
    return [_decoded(part) for part in line.split(b",")]


def _decoded(part: bytes) -> bytes | None:
    raw = part.strip().rstrip(b"=")
    try:
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    except binascii.Error:
        return None

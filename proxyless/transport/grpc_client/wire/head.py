"""The head of a request, as grpcio sends it (PROTOCOL-HTTP2.md, "Requests")."""

import math
import re
from collections.abc import Iterable
from functools import lru_cache

from proxyless.model.errors import ProxylessError
from proxyless.transport.grpc_client.metadata import TRANSPORTS
from proxyless.transport.grpc_wire.header_blocks import encode, literal

_KEY = re.compile(r"[0-9a-z_.-]+")
_TIMEOUT = b"grpc-timeout"
_UNITS = ((1e6, "u"), (1e3, "m"), (1.0, "S"))
_MOST_DIGITS = 99_999_999


class InvalidMetadata(ProxylessError):
    """Keys or values that gRPC does not have; the text is grpcio's."""

    def __init__(self) -> None:
        super().__init__("Invalid metadata")


@lru_cache(maxsize=256)
def opening(path: str, authority: str, scheme: str, encoding: str, user_agent: str) -> bytes:
    """What calls have in common. Raises InvalidMetadata."""
    if not (path.isprintable() and authority.isprintable()):
        raise InvalidMetadata
    lines = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", user_agent),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
    ]
    if encoding != "identity":
        lines.append(("grpc-encoding", encoding))
    return encode([(name.encode(), value.encode()) for name, value in lines])


def custom(headers: Iterable[tuple[str, str]]) -> bytes:
    """What of the header lines is the application's or the mesh's. Raises InvalidMetadata, TypeError."""
    found = b""
    for name, value in headers:
        key = _key(name)
        if key is None:
            continue
        if not isinstance(value, str):
            raise TypeError(f"Expected str, not {type(value)}")
        if not (value.isascii() and value.isprintable()):
            raise InvalidMetadata
        found += literal(key, value.encode())
    return found


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes | None:
    """None for what the transport says."""
    if name in TRANSPORTS:
        return None
    if not _KEY.fullmatch(name):
        raise InvalidMetadata
    return name.encode()


def timeout(seconds: float) -> bytes:
    """The line for what is left; rounded up, at least a microsecond."""
    for factor, unit in _UNITS:
        count = max(1, math.ceil(seconds * factor))
        if count <= _MOST_DIGITS:
            return literal(_TIMEOUT, b"%d%s" % (count, unit.encode()))
    return literal(_TIMEOUT, b"%dS" % _MOST_DIGITS)

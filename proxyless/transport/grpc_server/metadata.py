"""gRPC's metadata as lines of a header block (PROTOCOL-HTTP2.md, "Custom-Metadata" and "Status-Message")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

from proxyless.transport.grpc_wire import binary
from proxyless.transport.grpc_wire.header_blocks import Line

_KEY = re.compile(r"[0-9a-z_.-]+\Z")
_TEXT = re.compile(r"[\x20-\x7e]*\Z")
# What a server says itself, and what a peer must refuse.
_OURS = frozenset(
    {"content-type", "te", "host", "grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding"}
    | {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length"}
)


class Metadatum(NamedTuple):
    """A line of metadata, as grpcio gives it."""

    key: str
    value: str | bytes


def encoded(metadata: Iterable[Any]) -> list[Line]:
    """metadata: of pairs, as grpcio takes it. Raises ValueError for what cannot be sent."""
    found: list[Line] = []
    for key, value in metadata:
        if not _KEY.match(key) or key in _OURS:
            raise ValueError(f"metadata was invalid: {key!r} is no key that a servicer may send")
        if key.endswith(binary.SUFFIX):
            raw = value if isinstance(value, bytes) else value.encode()
            found.append((key.encode(), binary.encoded(raw)))
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not _TEXT.match(text):
            raise ValueError(f"metadata was invalid: the value of {key!r} is not printable ASCII")
        found.append((key.encode(), text.encode()))
    return found


def message_line(details: str) -> Line:
    """``grpc-message``: UTF-8, percent-encoded where it is not printable ASCII."""
    safe = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"
    return b"grpc-message", quote(details, safe=safe, errors="replace").encode()

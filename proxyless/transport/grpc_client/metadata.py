"""Between gRPC's metadata and the engine's header lines. Values of ``-bin`` keys are base64 there, as on the wire."""

import base64
import binascii
from collections.abc import Iterable
from typing import Any

Lines = list[tuple[str, str]]
Metadata = tuple[tuple[str, str | bytes], ...]

# grpcio writes these itself, by what it knows better.
TRANSPORTS = frozenset(
    {"te", "content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding"}
    | {"grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message"}
)
OWN = (("content-type", "application/grpc"), ("te", "trailers"))


def lines(metadata: Any) -> Lines:
    """metadata: what grpcio takes and gives: pairs, a ``grpc.aio.Metadata``, or None."""
    found: Lines = []
    for key, value in metadata or ():
        if isinstance(value, bytes):
            text = base64.b64encode(value).decode().rstrip("=") if key.endswith("-bin") else value.decode("latin-1")
        else:
            text = value
        found.append((key.lower(), text))
    return found


def metadata(headers: Iterable[tuple[str, str]]) -> Metadata:
    """What of the header lines is the application's or the mesh's, not the transport's."""
    found: list[tuple[str, str | bytes]] = []
    for line in headers:
        name = line[0]
        if name in TRANSPORTS or name.startswith(":"):
            continue
        if name.endswith("-bin"):
            found += [(name, value) for value in _binary(line[1])]
        else:
            found.append(line)
    return tuple(found)


def _binary(text: str) -> Iterable[bytes]:
    # A comma joins several values (gRPC over HTTP/2, "Custom-Metadata"); what is not base64 cannot be sent.
    for part in text.split(","):
        raw = part.strip().rstrip("=")
        try:
            yield base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue

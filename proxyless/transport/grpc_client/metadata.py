"""Between gRPC's metadata and the engine's header lines. Values of ``-bin`` keys are base64 there, as on the wire."""

from collections.abc import Iterable
from typing import Any

from proxyless.transport.grpc_wire import binary

Lines = list[tuple[str, str]]
Metadata = tuple[tuple[str, str | bytes], ...]

# grpcio writes these itself, by what it knows better.
TRANSPORTS = frozenset(
    {"te", "content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding"}
    | {"grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message"}
)
OWN = (("content-type", "application/grpc"), ("te", "trailers"))


def lines(metadata: Any) -> Lines:
    """metadata: what grpcio takes and gives: pairs, a ``grpc.aio.Metadata``, or None.

    Raises TypeError for a ``-bin`` value that is not bytes, as grpcio does: text would pass for base64.
    """
    found: Lines = []
    for key, value in metadata or ():
        if key.endswith(binary.SUFFIX):
            if not isinstance(value, bytes):
                raise TypeError(f"the value of the metadata {key!r} must be bytes, not {type(value).__name__}")
            text = binary.encoded(value).decode()
        else:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
        found.append((key.lower(), text))
    return found


def metadata(headers: Iterable[tuple[str, str]]) -> Metadata:
    """What of the header lines is the application's or the mesh's, not the transport's."""
    found: list[tuple[str, str | bytes]] = []
    for line in headers:
        name = line[0]
        if name in TRANSPORTS or name.startswith(":"):
            continue
        if name.endswith(binary.SUFFIX):
            # What is not base64 cannot be shown.
            found += [(name, value) for value in binary.decoded(line[1].encode()) if value is not None]
        else:
            found.append(line)
    return tuple(found)

"""Which of gRPC's channel arguments our server acts on. The others are named in a warning.

Source of names, units and defaults: grpc/impl/channel_arg_names.h and the keepalive guide (grpc.io/docs/guides).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxyless.transport.grpc_wire.connection import MAX_HEAD
from proxyless.transport.grpc_wire.messages import ENCODINGS, MAX_MESSAGE

log = logging.getLogger("proxyless.inbound")

_FOREVER = 2**31 - 1
# grpc_compression_algorithm; also grpc.Compression.
_ALGORITHMS = ("identity", "deflate", "gzip")


@dataclass(slots=True)
class Options:
    """Seconds, bytes; None for no limit. streams: that a connection may have open at once.

    keepalive: seconds without a byte from the peer before a ping, and keepalive_timeout: for anything to come after it.
    age, idle: of a connection, before it is drained; grace: then until it ends.
    """

    keepalive: float | None = 7200.0
    keepalive_timeout: float = 20.0
    keepalive_without_calls: bool = False
    age: float | None = None
    grace: float | None = None
    idle: float | None = None
    streams: int = 1000
    most_received: int | None = MAX_MESSAGE
    most_sent: int | None = None
    most_head: int = MAX_HEAD
    reuse_port: bool = False
    encoding: str = "identity"


def read(options: Iterable[tuple[str, Any]], compression: Any) -> Options:
    """options, compression: of ``grpc.aio.server``."""
    found = Options()
    for name, value in options:
        match name:
            case "grpc.keepalive_time_ms":
                found.keepalive = _seconds(value)
            case "grpc.keepalive_timeout_ms" | "grpc.http2.ping_timeout_ms":
                found.keepalive_timeout = max(1, value) / 1000
            case "grpc.keepalive_permit_without_calls":
                found.keepalive_without_calls = bool(value)
            case "grpc.max_connection_age_ms":
                found.age = _seconds(value)
            case "grpc.max_connection_age_grace_ms":
                found.grace = _seconds(value)
            case "grpc.max_connection_idle_ms":
                found.idle = _seconds(value)
            case "grpc.max_concurrent_streams":
                found.streams = max(0, min(value, _FOREVER))
            case "grpc.max_receive_message_length":
                found.most_received = None if value < 0 else value
            case "grpc.max_send_message_length":
                found.most_sent = None if value < 0 else value
            case "grpc.max_metadata_size" | "grpc.absolute_max_metadata_size":
                found.most_head = max(1, min(value, MAX_HEAD))
            case "grpc.so_reuseport":
                found.reuse_port = bool(value)
            case "grpc.default_compression_algorithm":
                found.encoding = encoding_of(value)
            case _:
                log.warning("the option %s of a gRPC server is not acted on", name)
    if compression is not None:
        found.encoding = encoding_of(compression)
    return found


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds >= _FOREVER or milliseconds < 0 else max(1, milliseconds) / 1000


def encoding_of(compression: Any) -> str:
    """Of a ``grpc.Compression`` or its number; what we do not know compresses nothing."""
    number = getattr(compression, "value", compression)
    found = _ALGORITHMS[number] if isinstance(number, int) and 0 <= number < len(_ALGORITHMS) else "identity"
    return found if found in ENCODINGS else "identity"

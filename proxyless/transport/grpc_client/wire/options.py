"""What of grpcio's channel options our own connections follow, and what is left to grpcio."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from proxyless.engine.steps import Attempt
from proxyless.model.cluster import ClusterKind
from proxyless.transport.grpc_client.credentials import OURS, Options
from proxyless.transport.grpc_client.rpc import Asked
from proxyless.transport.grpc_wire.messages import MAX_MESSAGE

# By the numbers of grpc.Compression.
_ENCODINGS = ("identity", "deflate", "gzip")
# Those of grpcio that say where an HTTP proxy is.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NEVER = 2**31 - 1
_NUMBERS = {
    "grpc.keepalive_time_ms": _NEVER,
    # grpcio 1.85 gives a ping a minute.
    "grpc.keepalive_timeout_ms": 60_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.http2.max_pings_without_data": 2,
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": MAX_MESSAGE,
    "grpc.client_idle_timeout_ms": -1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 10_000,
    "grpc.min_reconnect_backoff_ms": -1,
    "grpc.default_compression_algorithm": 0,
}
_TEXTS = ("grpc.primary_user_agent", "grpc.secondary_user_agent")


@dataclass(frozen=True, slots=True)
class WireOptions:
    """Times in seconds, sizes in bytes; None: no limit, or what the cluster says.

    keepalive: after so much silence a PING, None for never; keepalive_timeout: for its answer; keepalive_idle: also
    without calls; quiet_pings: so many without a message of ours in between, then one a minute, 0 for any number.
    back_off, most_back_off: between two attempts to connect, which may take ``connect_timeout``.
    """

    keepalive: float | None = None
    keepalive_timeout: float = 60.0
    keepalive_idle: bool = False
    quiet_pings: int = 2
    most_sent: int | None = None
    most_received: int | None = MAX_MESSAGE
    idle_timeout: float | None = None
    back_off: float = 0.1
    most_back_off: float = 10.0
    connect_timeout: float | None = None
    encoding: str = "identity"
    user_agent: str = f"grpc-python-asyncio/{grpc.__version__} proxyless"


def read(asked: Options, compression: grpc.Compression | None = None) -> WireOptions | None:
    """None if there is one that only grpcio knows: it has all connections then. Which of two counts: the last."""
    numbers, texts = dict(_NUMBERS), dict.fromkeys(_TEXTS, "")
    if compression:
        numbers["grpc.default_compression_algorithm"] = int(compression)
    for key, value in asked:
        if key in OURS:
            continue
        if key in numbers and isinstance(value, int):
            numbers[key] = int(value)
        elif key in texts and isinstance(value, str) and value.isascii() and value.isprintable():
            texts[key] = value
        else:
            return None
    (keepalive, timeout, idle_pings, quiet, sent, received, idle, first, most, connect, algorithm) = numbers.values()
    if not 0 <= algorithm < len(_ENCODINGS):
        return None
    agent = (texts["grpc.primary_user_agent"], WireOptions().user_agent, texts["grpc.secondary_user_agent"])
    return WireOptions(
        keepalive=max(1, keepalive) / 1000 if keepalive < _NEVER else None,
        keepalive_timeout=max(1, timeout) / 1000,
        keepalive_idle=bool(idle_pings),
        quiet_pings=max(0, quiet),
        most_sent=sent if sent >= 0 else None,
        most_received=received if received >= 0 else None,
        idle_timeout=idle / 1000 if idle >= 0 else None,
        back_off=max(1, first) / 1000,
        most_back_off=max(1, most) / 1000,
        connect_timeout=connect / 1000 if connect > 0 else None,
        encoding=_ENCODINGS[algorithm],
        user_agent=" ".join(part for part in agent if part),
    )


def encoding_of(asked: Asked, options: WireOptions) -> str:
    """Of a call's messages; as in grpcio, NoCompression asks for nothing."""
    return _ENCODINGS[int(asked.compression)] if asked.compression else options.encoding


def only_grpcio(step: Attempt, asked: Asked, proxies: Sequence[str] = _PROXIES, environ: Any = os.environ) -> bool:
    """What grpcio's calls can do and ours cannot: call credentials, and HTTP proxies to hosts outside the mesh."""
    if asked.credentials is not None:
        return True
    return step.cluster.kind is ClusterKind.PASSTHROUGH and any(environ.get(name) for name in proxies)

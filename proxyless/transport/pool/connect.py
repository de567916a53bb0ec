"""What a new connection reports about how it was made."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What getaddrinfo gives: family, type, protocol, canonical name, address.
AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


@dataclass(slots=True)
class Timings:
    """Seconds. resolve: None for an address. tls: None over plaintext.

    on_tcp: told, by a trace, of the socket and of the TLS context and server name that come next; awaited by async
    pools.
    """

    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    on_tcp: Callable[[socket.socket, ssl.SSLContext | None, str | None], Any] | None = None


def numeric(address: str, port: int) -> list[AddressInfo]:
    """The one place an IP address stands for, without asking a resolver; empty for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        where = (address, port) if family == socket.AF_INET else (address, port, 0, 0)
        return [(family, socket.SOCK_STREAM, 0, "", where)]
    return []

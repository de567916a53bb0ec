"""What who asks for a connection says, and what a new one reports about how it was made."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxyless.model.cluster import Cluster, Endpoint
from proxyless.transport.http1.errors import ConnectFailed, DeadlineExceeded, PoolTimedOut, WireError

# What getaddrinfo gives: family, type, protocol, canonical name, address.
AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


@dataclass(slots=True)
class Timings:
    """Seconds. resolve: None for an address. tls: None over plaintext. All None for a connection that was there, or
    that somebody else made: reused.

    on_tcp: told, by a trace, of the socket and of the TLS context and server name that come next; awaited by async
    pools.
    """

    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    reused: bool = False
    on_tcp: Callable[[socket.socket, ssl.SSLContext | None, str | None], Any] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """connect: seconds for name, TCP, TLS and HTTP/2's settings. deadline: monotonic, of the attempt.
    pool: seconds that the application waits for a connection to be free.
    """

    connect: float
    deadline: float | None
    pool: float | None

    def until(self, now: float, *, connecting: bool) -> tuple[float | None, WireError]:
        """Until when to wait in a queue, and what it is then. connecting: somebody makes the connection waited for."""
        patience: list[tuple[float | None, WireError]] = [
            (self.pool, PoolTimedOut(f"no connection was free for {self.pool} s"))
        ]
        if connecting:
            why = f"no connection within the connect timeout of {self.connect:g} s"
            patience.append((self.connect, ConnectFailed(why)))
        late = DeadlineExceeded("no connection within the time for this request")
        end: tuple[float | None, WireError] = (self.deadline, late)
        for seconds, error in patience:
            if seconds is not None and (end[0] is None or now + seconds < end[0]):
                end = (now + seconds, error)
        return end


def max_streams(cluster: Cluster) -> int | None:
    """At once on one HTTP/2 connection of the cluster."""
    return cluster.connection_options.max_streams if cluster.connection_options is not None else None


def keep_alive(sock: socket.socket, cluster: Cluster) -> None:
    """Have the kernel probe a silent connection, where its cluster asks for that (Envoy's tcp_keepalive)."""
    if cluster.connection_options is None or (asked := cluster.connection_options.keepalive) is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPCNT, asked.probes),
        (socket.TCP_KEEPIDLE, asked.time),
        (socket.TCP_KEEPINTVL, asked.interval),
    ):
        if value:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


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


async def open_tcp(
    loop: asyncio.AbstractEventLoop, endpoint: Endpoint, cluster: Cluster, timings: Timings
) -> socket.socket:
    """A socket that is connected to the first of the endpoint's addresses that answers. Raises OSError."""
    places: Sequence[AddressInfo] = numeric(endpoint.address, endpoint.port)
    if not places:
        started = time.monotonic()
        places = await loop.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)
        timings.resolve = time.monotonic() - started
    problem: OSError | None = None
    for family, kind, protocol, _, where in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            keep_alive(sock, cluster)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem or OSError(f"{endpoint.address} has no address")

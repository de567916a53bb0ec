"""One connection to a mesh port of a gRPC server: examined as every inbound one, then relayed to the inner server."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from dataclasses import dataclass, field

from proxyless.model.address import join_address
from proxyless.model.errors import IdentityError
from proxyless.relay.relay import Inner, Outer
from proxyless.transport.grpc_server.callers import Callers, Served
from proxyless.transport.inbound.connection import examine
from proxyless.transport.inbound.runtime import InboundRuntime

log = logging.getLogger("proxyless.inbound")

# Beyond it a new connection is closed at once: each costs two descriptors.
MAX_CONNECTIONS = 10_000
# Seconds that RPCs have to end once the identity of their connection's peer has.
EXPIRY_GRACE = 10.0
# Seconds between looks at a full backlog, and how often.
_BACKLOG_PAUSE = 0.02
_BACKLOG_TRIES = 250


@dataclass(slots=True)
class Inside:
    """What all connections of a server share. path: the inner server's socket. open: the connections there are."""

    runtime: InboundRuntime
    callers: Callers
    path: str
    open: set[MeshConnection] = field(default_factory=set)


class MeshConnection(Outer):
    """The caller's side of one connection to ``port``."""

    def __init__(self, inside: Inside, port: int) -> None:
        super().__init__()
        self._inside = inside
        self._port = port
        self._name = ""
        self._served: Served | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        inside = self._inside
        local, remote = (_text(transport.get_extra_info(name)) for name in ("sockname", "peername"))
        if len(inside.open) >= MAX_CONNECTIONS:
            log.warning("port %d: closing a new connection: there are %d already", self._port, MAX_CONNECTIONS)
            self.transport.abort()
            return
        inside.open.add(self)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        try:
            facts = examine(
                tls,
                inside.runtime.identity,
                inside.runtime.snapshot().inbound.get(self._port),
                local=local,
                remote=remote,
            )
        except IdentityError as error:
            log.warning("port %d: connection from %s refused: %s", self._port, remote, error)
            self.transport.abort()
            return
        self._name, self._served = inside.callers.new_name(), Served(facts, self._port)
        inside.callers.register(self._name, self._served)
        if facts.not_after is not None:
            ends_in = max(0.0, facts.not_after - time.time())
            self._expiry = asyncio.get_running_loop().call_later(ends_in, self._expire)
        self.relay(self._connect_inside)

    async def _connect_inside(self) -> Inner:
        loop = asyncio.get_running_loop()
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setblocking(False)
            ours.bind(b"\0" + self._name.encode("ascii"))
            for _ in range(_BACKLOG_TRIES):
                try:
                    # At once or not at all: not even asyncio can wait for a Unix socket's backlog.
                    ours.connect(self._inside.path)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_BACKLOG_PAUSE)
            _, inner = await loop.create_unix_connection(lambda: Inner(self.transport), sock=ours)
        except BaseException:
            ours.close()
            raise
        return inner

    def unreachable(self, error: OSError) -> None:
        log.error("port %d: cannot reach the gRPC server: %s", self._port, error)

    def _expire(self) -> None:
        """An identity ends with its certificate: what is under way may be finished, nothing more comes on it."""
        if self._served is None or not self._served.active:
            self.transport.close()
        else:
            self._expiry = asyncio.get_running_loop().call_later(EXPIRY_GRACE, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._inside.open.discard(self)
        self._inside.callers.unregister(self._name)
        super().connection_lost(exc)


def _text(address: tuple[str, int] | None) -> str:
    return join_address(address[0], address[1]) if address else ""

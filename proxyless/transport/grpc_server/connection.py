"""One connection to a mesh port of a gRPC server: examined as every inbound one, then HTTP/2, of which each stream is
a ``Call``. What is to be written leaves once in a turn of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, cast

from proxyless.engine.caller import Caller
from proxyless.model.address import join_address
from proxyless.model.errors import IdentityError
from proxyless.transport.grpc_server.call import Call
from proxyless.transport.grpc_server.methods import Methods
from proxyless.transport.grpc_server.options import Options
from proxyless.transport.grpc_wire import connection as wire
from proxyless.transport.inbound.connection import Connection, examine
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.stall import Stall

log = logging.getLogger("proxyless.inbound")

# Beyond it a new connection is closed at once.
MAX_CONNECTIONS = 10_000
# Seconds until a client must have said that it speaks HTTP/2.
PREFACE_TIMEOUT = 60.0
# Seconds that RPCs have to end once the identity of their connection's peer has.
EXPIRY_GRACE = 10.0
# Seconds that a client has to answer the PING of ``drain``, as in gRPC core's chttp2.
DRAIN_TIMEOUT = 20.0
# Bytes that wait for the socket before handlers do.
_CROWDED = 64 * 1024
_PING = b"proxyles"
# What max_connection_age is spread by, so that not all come back at once (gRFC A9).
_SPREAD = 0.1


@dataclass(slots=True, eq=False)
class Core:
    """What all connections of a server share. active: RPCs that count for ``most``. stopping: no new connection."""

    runtime: InboundRuntime
    loop: asyncio.AbstractEventLoop
    options: Options
    methods: Methods
    pool: Executor | None = None
    most: int | None = None
    active: int = 0
    stopping: bool = False
    calls: set[Call] = field(default_factory=set)
    connections: set[MeshConnection] = field(default_factory=set)
    # Whoever waits for the last call or connection to be gone.
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self, call: Call) -> bool:
        if self.most is not None and self.active >= self.most:
            return False
        self.active += 1
        call.counted = True
        return True


class _Wire(wire.Connection):
    def __init__(self, owner: MeshConnection, options: Options) -> None:
        super().__init__(owner.loop.time, client=False, most_streams=options.streams, most_head=options.most_head)
        self._owner = owner

    @property
    def size(self) -> int:
        return len(self._out)

    def on_request(self) -> Call:
        return self._owner.begin()

    def on_narrow(self) -> None:
        for call in self.streams.values():
            cast(Call, call).give_back()

    def on_pong(self, payload: bytes) -> None:
        if payload == _PING:
            self._owner.answered()

    def on_change(self) -> None:
        if self.draining or not self.streams:
            self._owner.changed()


class MeshConnection(asyncio.Protocol):
    """facts: what is known of the peer. paused: the socket takes no more for now."""

    def __init__(self, core: Core, port: int) -> None:
        self.core = core
        self.port = port
        self.loop = core.loop
        self.facts = Connection(Caller())
        self.paused = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.wire = _Wire(self, core.options)
        self._flushing = self._refused = False
        self._heard = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ---- life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._stall = Stall(self.loop, self.transport, self._stalled)
        core = self.core
        local, remote = (_text(transport.get_extra_info(name)) for name in ("sockname", "peername"))
        if len(core.connections) >= MAX_CONNECTIONS:
            log.warning("port %d: closing a new connection: there are %d already", self.port, MAX_CONNECTIONS)
            self._refuse()
            return
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        listener = core.runtime.snapshot().inbound.get(self.port)
        try:
            self.facts = facts = examine(tls, core.runtime.identity, listener, local=local, remote=remote)
        except IdentityError as error:
            log.warning("port %d: connection from %s refused: %s", self.port, remote, error)
            self._refuse()
            return
        if core.stopping:
            self._refuse()
            return
        core.connections.add(self)
        self._heard = self.loop.time()
        if facts.not_after is not None:
            self._after("expiry", max(0.0, facts.not_after - time.time()), self._expire)
        self._after("preface", PREFACE_TIMEOUT, self._silent)
        options = core.options
        if options.keepalive is not None:
            self._after("keepalive", options.keepalive, self._keep_alive)
        if options.age is not None:
            spread = 1 + random.uniform(-_SPREAD, _SPREAD)  # noqa: S311
            self._after("age", options.age * spread, self._too_old)
        self.flush_soon()

    def _refuse(self) -> None:
        self._refused = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._stall.stop()
        self.core.connections.discard(self)
        self.wire.lost("the connection is lost")
        self.resume_writing()
        self.core.changed.set()

    def drain(self) -> None:
        """No new calls; those on their way and under way are served, then it ends."""
        self.wire.drain()
        if "drain" not in self._timers:
            self._after("drain", DRAIN_TIMEOUT, self.wire.drained)
        self.flush_soon()

    def close(self) -> None:
        """At once, but for what is written already."""
        self.wire.close()
        self.flush()

    @property
    def active(self) -> bool:
        return bool(self.wire.streams)

    def _after(self, name: str, seconds: float, function: Any) -> None:
        if (old := self._timers.pop(name, None)) is not None:
            old.cancel()
        self._timers[name] = self.loop.call_later(seconds, function)

    def _silent(self) -> None:
        if not self.wire.settled:
            log.info("port %d: closing a connection from %s: it said nothing", self.port, self.facts.remote)
            self.close()

    def _expire(self) -> None:
        """An identity ends with its certificate: what is under way may be finished, nothing more comes on it."""
        if self.active:
            self.drain()
            self._after("expiry", EXPIRY_GRACE, self.close)
        else:
            self.close()

    def _too_old(self) -> None:
        self.drain()
        if (grace := self.core.options.grace) is not None:
            self._after("age", grace, self.close)

    def _keep_alive(self) -> None:
        options = self.core.options
        assert options.keepalive is not None
        left = self._heard + options.keepalive - self.loop.time()
        if left > 0 or not (self.active or options.keepalive_without_calls):
            self._after("keepalive", left if left > 0 else options.keepalive, self._keep_alive)
            return
        self.wire.ping(_PING)
        self.flush_soon()
        self._after("keepalive", options.keepalive_timeout, self._unanswered)

    def answered(self) -> None:
        """Our ping."""
        if (time := self.core.options.keepalive) is not None:
            self._after("keepalive", time, self._keep_alive)

    def _unanswered(self) -> None:
        """Any byte is an answer."""
        options = self.core.options
        assert options.keepalive is not None
        if self.loop.time() - self._heard >= options.keepalive_timeout:
            log.info("port %d: closing a connection from %s: no answer to a ping", self.port, self.facts.remote)
            self.wire.close(why="keepalive watchdog timeout")
            self.transport.abort()
        else:
            self._after("keepalive", options.keepalive, self._keep_alive)

    # ---- bytes

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._heard = self.loop.time()
        self.wire.feed(data)
        # After the tasks that this has begun, in the same turn: an answer that needs no wait leaves with the rest.
        self.flush_soon()

    def eof_received(self) -> None:
        self._close()

    def _close(self) -> None:
        self.transport.close()
        # The last bytes too are only kept for who reads.
        self._stall.watch()

    def flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        wire = self.wire
        if self.transport.is_closing():
            return
        if wire.size:
            self.transport.write(wire.take())
        if wire.over or (wire.draining and not wire.streams):
            self._close()

    @property
    def crowded(self) -> bool:
        return self.wire.size >= _CROWDED

    def pause_writing(self) -> None:
        """Whoever does not read is not read either: what we keep for him is bounded by his open streams."""
        self.paused = True
        self.transport.pause_reading()
        self._stall.watch()

    def resume_writing(self) -> None:
        if not self.paused:
            return
        self.paused = False
        if not self.transport.is_closing():
            self._stall.stop()
            self.transport.resume_reading()
        for call in list(self.wire.streams.values()):
            if not call.waiting:
                call.on_room()

    def _stalled(self) -> None:
        log.info("port %d: closing a connection from %s: it does not read", self.port, self.facts.remote)
        self.wire.close(why="the peer does not read")

    # ---- calls

    def begin(self) -> Call:
        if (timer := self._timers.pop("idle", None)) is not None:
            timer.cancel()
        return Call(self)

    def settled(self) -> None:
        """A call is over."""
        if self.wire.size:
            # The only one: nothing more will come in this turn.
            self.flush_soon()
        if not self.core.calls:
            self.core.changed.set()

    def changed(self) -> None:
        if self.wire.draining:
            self.flush_soon()
        elif self.core.options.idle is not None and self.wire.settled:
            self._after("idle", self.core.options.idle, self.drain)


def _text(address: tuple[str, int] | None) -> str:
    return join_address(address[0], address[1]) if address else ""

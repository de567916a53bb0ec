"""A connection to a gRPC server on an asyncio (or uvloop) event loop. ``channel`` makes it and gives it streams."""

import asyncio
from collections.abc import Callable
from typing import cast

from proxyless.transport.grpc_client.wire.options import WireOptions
from proxyless.transport.grpc_wire.connection import Connection
from proxyless.transport.stall import Stall
from proxyless.transport.tls import explain

# Seconds between pings once ``WireOptions.quiet_pings`` are used up.
_QUIET_INTERVAL = 60.0
_PING = b"proxless"


class WireConnection(Connection, asyncio.Protocol):
    """Says nothing before ``begin``: its owner verifies the peer first.

    changed: told when there may be room again, when it takes no more, and when it is over. peer: the SPIFFE ID it
    proved. idle_since: loop time at which the last stream ended. paused: the socket takes no more for now; who sends
    much waits, and is in ``writers`` to be told. What we answer meanwhile is bounded by how much a peer may ask.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: WireOptions, changed: "Callable[[WireConnection], None]"
    ) -> None:
        super().__init__(loop.time, client=True)
        self._loop = loop
        self._options = options
        self._changed = changed
        self._transport: asyncio.Transport | None = None
        self._begun = self._flushing = False
        self._ready: asyncio.Future[None] | None = None
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._idle_timeout = 0.0
        self._heard = 0.0
        self._pinged: float | None = None
        self._quiet = 0
        self.paused = False
        self.writers: dict[Callable[[], None], None] = {}
        self.peer = ""
        self.idle_since = loop.time()

    def begin(self) -> None:
        self._begun = True
        self.flush()
        if (time := self._options.keepalive) is not None:
            self._heard = self._loop.time()
            self._later(time, self._keep_alive)

    def live(self, idle_timeout: float, max_duration: float | None) -> None:
        """Until it has had no stream for so long, or is so old; seconds."""
        self._idle_timeout = idle_timeout
        self._later(idle_timeout, self._look_whether_idle)
        if max_duration is not None:
            self._later(max_duration, self.leave)

    async def ready(self) -> None:
        """Until the server's SETTINGS have shown that it speaks HTTP/2. Raises ConnectionError."""
        while not self.settled:
            if self.over:
                raise ConnectionError(self.over)
            self._ready = self._loop.create_future()
            await self._ready

    def leave(self) -> None:
        """It takes no further streams; with the last it is finished."""
        if not self.draining:
            self.draining = True
            self._changed(self)

    def finish(self) -> None:
        """It is needed no more."""
        self.close()
        self.flush_soon()

    def abort(self) -> None:
        """As ``finish``, without waiting for anything."""
        self.close()
        self.flush()
        if self._transport is not None:
            self._transport.abort()

    def spoken(self) -> None:
        """A head or a message of ours is in the output."""
        self._quiet = 0

    def flush_soon(self) -> None:
        """Calls that begin in the same turn of the loop go out in one write."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_turn)

    def flush(self) -> None:
        transport = self._transport
        if transport is None or not self._begun:
            return
        data = self.take()
        if data and not transport.is_closing():
            transport.write(data)
        if self.over and not transport.is_closing():
            transport.close()
            # The last bytes are only kept for who reads.
            self._stall.watch()

    def _flush_turn(self) -> None:
        self._flushing = False
        self.flush()

    def on_change(self) -> None:
        if not self.streams:
            self.idle_since = self._loop.time()
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        if self.over:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
        self._changed(self)

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self._stall = Stall(self._loop, transport, lambda: None)

    def data_received(self, data: bytes) -> None:
        if self._options.keepalive is not None:
            self._heard = self._loop.time()
        self.feed(data)
        self.flush()

    def eof_received(self) -> None:
        self.lost("Socket closed")
        self._stall.watch()  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.stop()
        self.lost("Socket closed" if exc is None else explain(exc))
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        writers, self.writers = self.writers, {}
        for wake in writers:
            wake()

    # ---- timers

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._timers[what] = self._loop.call_later(seconds, what)

    def _look_whether_idle(self) -> None:
        left = self._idle_timeout - (0.0 if self.streams else self._loop.time() - self.idle_since)
        if left > 0:
            self._later(left, self._look_whether_idle)
        else:
            self.leave()

    # Keepalive: gRFC A8.

    def _keep_alive(self) -> None:
        options, now = self._options, self._loop.time()
        assert options.keepalive is not None
        if self.over:
            return
        if self._pinged is not None and self._heard < self._pinged:
            left = self._pinged + options.keepalive_timeout - now
            if left <= 0:
                self.lost("keepalive watchdog timeout")
                if self._transport is not None:
                    self._transport.abort()
                return
        else:
            self._pinged = None
            interval = options.keepalive
            if 0 < options.quiet_pings <= self._quiet:
                interval = max(interval, _QUIET_INTERVAL)
            left = self._heard + interval - now
            if left <= 0 and not self.streams and not options.keepalive_idle:
                left = options.keepalive
            elif left <= 0:
                self._quiet += 1
                self._pinged = now
                self.ping(_PING)
                self.flush()
                left = options.keepalive_timeout
        self._later(left, self._keep_alive)

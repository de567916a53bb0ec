"""Let go of a peer that does not read: what was written to it is kept, and whoever writes more waits."""

import asyncio
from collections.abc import Callable

# Seconds in which a peer must read something (Envoy's stream_idle_timeout).
STALL_TIMEOUT = 300.0


class Stall:
    """``watch`` a transport while it takes no more, and while it closes. It is aborted if nothing of what waits for its
    peer leaves for STALL_TIMEOUT, or for twice that at most: that is how often this looks.

    on_stall: told before.
    """

    __slots__ = ("_left", "_loop", "_on_stall", "_timer", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport, on_stall: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._on_stall = on_stall
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        self.stop()
        self._left = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(STALL_TIMEOUT, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # More than before: it may have read meanwhile. Whoever writes is told to pause, and this begins anew.
        if self._transport.get_write_buffer_size() != self._left:
            self.watch()
            return
        self.stop()
        self._on_stall()
        self._transport.abort()

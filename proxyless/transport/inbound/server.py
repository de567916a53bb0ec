"""uvicorn's server with our accept loops under it and a shutdown that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from uvicorn.config import Config
from uvicorn.server import HANDLED_SIGNALS, Server

from proxyless.model.errors import ProxylessError
from proxyless.transport.inbound.accept import AcceptLoop
from proxyless.transport.inbound.protocol import MeshProtocol
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.server_state import MeshServerState

log = logging.getLogger("proxyless.inbound")

# Seconds from the signal to the end, all in all.
SHUTDOWN_BUDGET = 10.0
# Of these: what telling the control plane may take, how long clients have to hear of it, and what the end needs.
ANNOUNCE_TIMEOUT = 1.5
DRAIN_DELAY = 1.0
# A connection that was just made has its first request on the way; one that idles has none, most likely.
FIRST_REQUEST_DELAY = 0.5
_LIFESPAN_TIMEOUT = 1.0
# When descriptors run out: how many idle connections end at least, and seconds in which a request may be on its way.
_LEAST_RELIEF = 16
_SPARED = 1.0
_MARGIN = 0.5

Callback = Callable[[], Awaitable[None]]


class ApplicationFailed(ProxylessError):
    """The application could not start."""


class MeshServer(Server):
    """Serves ``config.app`` on already bound sockets."""

    server_state: MeshServerState

    def __init__(
        self,
        config: Config,
        runtime: InboundRuntime,
        *,
        on_draining: Callback | None = None,
        on_signal: Callable[[], object] = lambda: None,
        drain_delay: float = DRAIN_DELAY,
    ) -> None:
        super().__init__(config)
        self.server_state = MeshServerState()
        self._runtime = runtime
        self.on_listening: Callback | None = None
        self._on_draining = on_draining
        self._on_signal = on_signal
        self._drain_delay = drain_delay
        self._loops: list[AcceptLoop] = []

    def handle_exit(self, sig: int, frame: object) -> None:
        """The first signal drains, a second one ends at once."""
        self._on_signal()
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again: a drained server has ended well and exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until a signal or ``should_exit``. However it ends, nothing goes on accepting."""
        try:
            await super().serve(sockets)
        finally:
            for loop in self._loops:
                loop.close()

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Start the application, then accept; ``on_listening`` runs in between, while clients wait in the backlog."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise ApplicationFailed("the application's startup failed; its own log says why")
        try:
            ready = self.on_listening is None or await self._unless_asked_to_exit(self.on_listening)
        except BaseException:
            await self._end_lifespan()
            raise
        if not ready:
            await self._end_lifespan()
            return
        factory = functools.partial(MeshProtocol, self._runtime, self.config, self.server_state, self.lifespan.state)
        self._loops = [AcceptLoop(listening, factory, self._runtime, self._relieve) for listening in sockets or ()]
        self.started = True

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Announce, keep serving while clients learn of it, stop accepting, finish what is under way, end."""
        ends = time.monotonic() + SHUTDOWN_BUDGET - _MARGIN
        state = self.server_state
        state.draining = True
        for connection in list(state.connections):
            if isinstance(connection, MeshProtocol):
                connection.begin_drain()
        if self._on_draining is not None:
            try:
                await asyncio.wait_for(self._on_draining(), ANNOUNCE_TIMEOUT)
            except Exception as error:  # a control plane that is away must not keep a process alive
                log.warning("could not announce the drain: %s", error or type(error).__name__)
        await self._until(time.monotonic() + self._drain_delay, lambda: self.force_exit)
        await self._stop_accepting()
        for connection in list(state.connections):
            connection.shutdown()
        await self._until(
            ends - _LIFESPAN_TIMEOUT,
            lambda: self.force_exit or (not state.connections and not state.tasks),
        )
        if state.tasks:
            log.warning("ending with %d requests unfinished", len(state.tasks))
        for task in list(state.tasks):
            task.cancel("the server's time to drain is over")
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._end_lifespan()

    def _relieve(self) -> None:
        """There are no more descriptors: connections that idle longest make room, nobody waits for an answer there."""
        young = asyncio.get_running_loop().time() - _SPARED
        idle = [
            (since, number, connection)
            for number, connection in enumerate(self.server_state.connections)
            if isinstance(connection, MeshProtocol) and (since := connection.idle_since) is not None and since <= young
        ]
        for _, _, connection in heapq.nsmallest(max(_LEAST_RELIEF, len(idle) // 10), idle):
            connection.close()

    async def _stop_accepting(self) -> None:
        """Let the youngest connections have their first request answered: it may be one that nobody can repeat."""
        for loop in self._loops:
            loop.stop_accepting()
        until = time.monotonic() + FIRST_REQUEST_DELAY
        connections = self.server_state.connections
        await self._until(until, lambda: self.force_exit or not any(loop.establishing for loop in self._loops))
        await self._until(until, lambda: self.force_exit or not any(map(_is_new, connections)))
        for loop in self._loops:
            loop.close()
            await loop.wait_closed()

    async def _unless_asked_to_exit(self, callback: Callback) -> bool:
        """Run it to its end, or give it up at the first signal: it may wait for a control plane that is away."""
        running = asyncio.ensure_future(callback())
        try:
            while not running.done() and not self.should_exit:
                await asyncio.wait({running}, timeout=0.1)
            if running.done():
                running.result()
            return running.done()
        finally:
            running.cancel()

    async def _end_lifespan(self) -> None:
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), _LIFESPAN_TIMEOUT)
        except TimeoutError:
            log.warning("the application's shutdown takes too long and is given up")

    @staticmethod
    async def _until(when: float, done: Callable[[], bool]) -> None:
        """Wait for ``done``, at most until ``when``; uvicorn's sets of connections and tasks have no event."""
        while not done() and (left := when - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(0.02, left))


def _is_new(connection: object) -> bool:
    return isinstance(connection, MeshProtocol) and connection.new

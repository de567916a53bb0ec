"""A ``grpc.aio.Server`` whose ports are the mesh's: TLS or plaintext as the port's mode says, identity, policy.

All of it is ours, down to the frames: grpcio's server could only demand client certificates or not ask for them, cannot
speak plaintext beside TLS, and tells nobody which authority was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from proxyless.model.address import split_address
from proxyless.model.errors import ConfigurationError, NotReadyError
from proxyless.transport.grpc_server.connection import Core, MeshConnection
from proxyless.transport.grpc_server.methods import Methods
from proxyless.transport.grpc_server.options import read
from proxyless.transport.grpc_server.rpc import UNAVAILABLE
from proxyless.transport.inbound.accept import AcceptLoop
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.serve import bind
from proxyless.transport.inbound.server import ANNOUNCE_TIMEOUT, DRAIN_DELAY, FIRST_REQUEST_DELAY

log = logging.getLogger("proxyless.inbound")

# Seconds between looks at why we are not in the mesh yet.
JOIN_TIMEOUT = 5.0
# Seconds for the last bytes of a stopped server to leave, and for handlers that were cancelled to end.
_FLUSH_TIMEOUT = 1.0
_CANCEL_TIMEOUT = 5.0
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104


class GrpcRuntime(InboundRuntime, Protocol):
    """What a gRPC server needs of a mesh beside that: to be found by clients, and to be left alone at the end."""

    def join(
        self, ports: Mapping[str, int], address: str | None, timeout: float, *, mutual_tls: bool = True
    ) -> None: ...

    def drain(self, timeout: float, ports: Collection[int] | None = None) -> None: ...

    def leave(self, ports: Collection[int]) -> None: ...


class MeshGrpcServer(grpc.aio.Server):
    """See ``Mesh.grpc_server``. Belongs to the event loop in which it is made, as grpcio's does."""

    def __init__(  # noqa: PLR0917  grpc.aio.server's arguments, in its order
        self,
        runtime: GrpcRuntime,
        migration_thread_pool: Any = None,
        handlers: Sequence[Any] | None = None,
        interceptors: Sequence[Any] | None = None,
        options: Sequence[tuple[str, Any]] | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: Any = None,
    ) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._loops: list[AcceptLoop] = []
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs <= 0:
            raise ValueError("maximum_concurrent_rpcs should be a positive integer")
        self._runtime = runtime
        # Told that the server is about to stop: who has streams without an end would be waited for.
        self.on_stop: list[Callable[[], object]] = []
        self._methods = Methods(interceptors or ())
        self._methods.add(handlers or ())
        self._core = Core(
            runtime,
            asyncio.get_event_loop(),
            read(options or (), compression),
            self._methods,
            migration_thread_pool,
            maximum_concurrent_rpcs,
        )
        self._address: str | None = None
        self._started = self._stopping = self._registered = False
        self._ends = 0.0
        self._hurry, self._stopped = asyncio.Event(), asyncio.Event()

    # ---- what is served

    @property
    def services(self) -> list[str]:
        """Names of the services that were added, as far as handlers tell them."""
        return self._methods.services

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._methods.add(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        self._methods.register(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """A port of the mesh at ``HOST:PORT``, 0 for any free one; returns the number. Before ``start``.

        Raises ConfigurationError for an address that cannot be listened on.
        """
        host, number = split_address(address, "the address of a gRPC port", any_port=True)
        return self.add_mesh_port(host, number, "grpc" if not self._sockets else f"grpc-{len(self._sockets) + 1}")

    def add_mesh_port(self, host: str, number: int, name: str) -> int:
        """``add_insecure_port`` with the name that the port is registered by."""
        if self._started:
            raise ConfigurationError("a port cannot be added to a server that was started")
        listening = bind(host, number, remedy="choose another port", reuse_port=self._core.options.reuse_port)
        self._sockets[name] = listening
        if not self._address and host not in _WILDCARDS:
            self._address = str(listening.getsockname()[0])
        found: int = listening.getsockname()[1]
        return found

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """As ``add_insecure_port``: the mesh's certificate is presented, not that of ``server_credentials``."""
        log.warning("%s is a port of the mesh: it presents the mesh's certificate, not the one it was given", address)
        return self.add_insecure_port(address)

    @property
    def ports(self) -> dict[str, int]:
        """Name to number."""
        return {name: listening.getsockname()[1] for name, listening in self._sockets.items()}

    # ---- life

    async def start(self) -> None:
        """Wait until the mesh has a certificate and says what the ports require, register them, and serve.

        As a pod waits for its sidecar: while the control plane is away it waits, and logs why.
        """
        if not self._sockets:
            raise ConfigurationError("the server has no port: call add_insecure_port first")
        if self._started:
            return
        self._started = True
        self._core.loop = asyncio.get_running_loop()
        try:
            await self._join()
        except BaseException:
            await self.stop(None)
            raise
        if not self._stopping:
            self._loops = [
                AcceptLoop(
                    listening,
                    functools.partial(MeshConnection, self._core, listening.getsockname()[1]),
                    self._runtime,
                    alpn="h2",
                )
                for listening in self._sockets.values()
            ]

    async def _join(self) -> None:
        told = ""
        while not self._stopping:
            self._registered = True
            try:
                await asyncio.to_thread(self._runtime.join, self.ports, self._address, JOIN_TIMEOUT)
                return
            except NotReadyError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("waiting: %s", told)

    async def stop(self, grace: float | None) -> None:
        """Leave the mesh: clients are told, what they have sent is served, then the connections end.

        grace: seconds for all of it, None to end at once. A second call with less shortens the first.
        """
        ends = time.monotonic() + (grace or 0)
        if self._stopping:
            if ends < self._ends:
                self._ends = ends
                self._hurry.set()
            await self._stopped.wait()
            return
        self._stopping, self._ends = True, ends
        for end in self.on_stop:
            end()
        try:
            await self._stop(bool(grace))
        finally:
            self._stopped.set()

    async def _stop(self, gracefully: bool) -> None:
        ports = tuple(self.ports.values())
        if gracefully and self._loops:
            await self._announce(ports)
        self._core.stopping = True
        for loop in self._loops:
            loop.close()
            await loop.wait_closed()
        for listening in self._sockets.values():
            listening.close()
        core = self._core
        for connection in list(core.connections):
            connection.drain()
        await self._until(lambda: not core.connections)
        if core.calls:
            for call in list(core.calls):
                call.cancel(UNAVAILABLE, "Cancelling all calls")
            self._ends = time.monotonic() + _CANCEL_TIMEOUT
            await self._until(lambda: not core.calls)
            if core.calls:
                log.warning("%d handlers of the stopped server go on though they were cancelled", len(core.calls))
        if self._registered:
            self._runtime.leave(ports)
        for connection in list(core.connections):
            connection.close()
        self._ends = time.monotonic() + _FLUSH_TIMEOUT
        await self._until(lambda: not core.connections)
        for connection in list(core.connections):
            connection.transport.abort()

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait for ``done``, which ``Core.changed`` tells of, until the end that may come nearer meanwhile."""
        changed = self._core.changed
        while not done() and (left := self._ends - time.monotonic()) > 0:
            changed.clear()
            self._hurry.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (changed, self._hurry)]
            try:
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()

    async def _announce(self, ports: Collection[int]) -> None:
        """Tell the mesh, keep serving while clients hear of it, then accept nothing more."""
        left = self._ends - time.monotonic()
        try:
            timeout = min(ANNOUNCE_TIMEOUT, left / 3)
            await asyncio.wait_for(asyncio.to_thread(self._runtime.drain, timeout, ports), timeout + 0.1)
        except Exception as error:  # a control plane that is away must not keep a process alive
            log.warning("could not announce the drain: %s", error or type(error).__name__)
        await self._pause(min(DRAIN_DELAY, (self._ends - time.monotonic()) / 2))
        for loop in self._loops:
            loop.stop_accepting()
        until = time.monotonic() + min(FIRST_REQUEST_DELAY, max(0.0, (self._ends - time.monotonic()) / 2))
        while any(loop.establishing for loop in self._loops) and time.monotonic() < min(until, self._ends):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _pause(self, seconds: float) -> None:
        """Unless the end is wanted sooner."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), max(0.0, seconds))

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # grpcio's name
        """Until it has stopped; True if ``timeout`` seconds came first."""
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def __del__(self) -> None:
        """Who drops a server that runs ends it, as grpcio does."""
        core: Core | None = getattr(self, "_core", None)
        if core is None or core.loop.is_closed() or self._stopped.is_set():
            return
        loops, sockets = self._loops, list(self._sockets.values())
        with contextlib.suppress(RuntimeError):
            core.loop.call_soon_threadsafe(_drop, core, loops, sockets)


def _drop(core: Core, loops: list[AcceptLoop], sockets: list[socket.socket]) -> None:
    core.stopping = True
    for loop in loops:
        loop.close()
    for listening in sockets:
        listening.close()
    for call in list(core.calls):
        call.cancel(UNAVAILABLE, "Cancelling all calls")
    for connection in list(core.connections):
        connection.close()

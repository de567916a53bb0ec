"""A ``grpc.aio.Server`` whose ports are the mesh's: TLS or plaintext as the port's mode says, identity, policy.

The accepting is ours (grpcio can only demand client certificates or not ask for them, and cannot speak plaintext beside
TLS); an inner server of grpcio's, on a Unix socket in a directory that only this user may enter, gets the bytes. It
refuses every RPC that did not come through a port of the mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc

from proxyless.model.address import split_address
from proxyless.model.errors import ConfigurationError, NotReadyError
from proxyless.transport.grpc_server.callers import Callers
from proxyless.transport.grpc_server.connection import Inside, MeshConnection
from proxyless.transport.grpc_server.interceptor import MeshInterceptor
from proxyless.transport.inbound.accept import AcceptLoop
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.serve import bind
from proxyless.transport.inbound.server import ANNOUNCE_TIMEOUT, DRAIN_DELAY, FIRST_REQUEST_DELAY

log = logging.getLogger("proxyless.inbound")

# Seconds between looks at why we are not in the mesh yet.
JOIN_TIMEOUT = 5.0
# Seconds for the last bytes of a stopped server to leave.
_FLUSH_TIMEOUT = 1.0
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104
# sockaddr_un holds 108 bytes with the last zero.
_LONGEST_PATH = 100


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
        self._runtime = runtime
        self._callers = Callers()
        # Told that the server is about to stop: who has streams without an end would be waited for.
        self.on_stop: list[Callable[[], object]] = []
        # Names of the services that were added, as far as handlers tell them.
        self.services: list[str] = []
        by_name = not interceptors and all(map(_is_by_name, handlers or ()))
        self._interceptor = MeshInterceptor(runtime, self._callers, by_name=by_name)
        self._reuse_port = bool(dict(options or ()).get("grpc.so_reuseport", 0))
        self._inner = grpc.aio.server(
            migration_thread_pool,
            handlers,
            [self._interceptor, *(interceptors or ())],
            options,
            maximum_concurrent_rpcs,
            compression,
        )
        self._sockets: dict[str, socket.socket] = {}
        self._address: str | None = None
        self._inside: Inside | None = None
        self._loops: list[AcceptLoop] = []
        self._stopping = False
        self._registered = False

    # ---- what is served

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        generic_rpc_handlers = tuple(generic_rpc_handlers)
        for handler in generic_rpc_handlers:
            self._interceptor.by_name = self._interceptor.by_name and _is_by_name(handler)
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.services.append(handler.service_name())
        self._inner.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        self._inner.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """A port of the mesh at ``HOST:PORT``, 0 for any free one; returns the number. Before ``start``.

        Raises ConfigurationError for an address that cannot be listened on.
        """
        host, number = split_address(address, "the address of a gRPC port", any_port=True)
        return self.add_mesh_port(host, number, "grpc" if not self._sockets else f"grpc-{len(self._sockets) + 1}")

    def add_mesh_port(self, host: str, number: int, name: str) -> int:
        """``add_insecure_port`` with the name that the port is registered by."""
        if self._inside is not None:
            raise ConfigurationError("a port cannot be added to a server that was started")
        listening = bind(host, number, remedy="choose another port", reuse_port=self._reuse_port)
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
        if self._inside is not None:
            raise ConfigurationError("the server was started already")
        folder = _private_folder()
        weakref.finalize(self, _remove, folder, os.getpid())
        self._inside = inside = Inside(self._runtime, self._callers, str(folder / "grpc"))
        self._folder = folder
        self._inner.add_insecure_port(f"unix:{inside.path}")
        await self._inner.start()
        try:
            await self._join()
        except BaseException:
            await self.stop(None)
            raise
        if not self._stopping:
            self._loops = [
                AcceptLoop(
                    listening,
                    functools.partial(MeshConnection, inside, listening.getsockname()[1]),
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
        if self._stopping:
            await self._inner.stop(grace)
            return
        self._stopping = True
        for end in self.on_stop:
            end()
        ends = time.monotonic() + (grace or 0)
        ports = tuple(self.ports.values())
        if grace and self._loops:
            await self._announce(ports, ends)
        for loop in self._loops:
            loop.close()
            await loop.wait_closed()
        for listening in self._sockets.values():
            listening.close()
        left = ends - time.monotonic()
        await self._inner.stop(left if left > 0 else None)
        if self._registered:
            self._runtime.leave(ports)
        if self._inside is not None:
            await self._end_connections(self._inside)
            _remove(self._folder, os.getpid())

    async def _announce(self, ports: Collection[int], ends: float) -> None:
        """Tell the mesh, keep serving while clients hear of it, then accept nothing more."""
        left = ends - time.monotonic()
        try:
            timeout = min(ANNOUNCE_TIMEOUT, left / 3)
            await asyncio.wait_for(asyncio.to_thread(self._runtime.drain, timeout, ports), timeout + 0.1)
        except Exception as error:  # a control plane that is away must not keep a process alive
            log.warning("could not announce the drain: %s", error or type(error).__name__)
        await asyncio.sleep(max(0.0, min(DRAIN_DELAY, (ends - time.monotonic()) / 2)))
        for loop in self._loops:
            loop.stop_accepting()
        until = time.monotonic() + min(FIRST_REQUEST_DELAY, max(0.0, (ends - time.monotonic()) / 2))
        while any(loop.establishing for loop in self._loops) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _end_connections(self, inside: Inside) -> None:
        """The inner server has closed them; what it wrote last may still be on its way."""
        connections = list(inside.open)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                await asyncio.gather(*(connection.closed.wait() for connection in connections))
        for connection in connections:
            connection.end()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # grpcio's name
        stopped: bool = await self._inner.wait_for_termination(timeout)
        return stopped


def _is_by_name(handler: Any) -> bool:
    """Whether it is what generated code adds: the handlers of a service's methods in a dictionary."""
    return type(handler) is type(grpc.method_handlers_generic_handler("", {}))


def _private_folder() -> Path:
    """0700, which mkdtemp promises. A long TMPDIR does not fit into a Unix address."""
    folder = Path(tempfile.mkdtemp(prefix="proxyless-grpc-"))
    if len(os.fsencode(folder)) > _LONGEST_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="proxyless-grpc-", dir="/tmp"))  # private all the same
    return folder


def _remove(folder: Path, pid: int) -> None:
    """Not in a forked child, whose parent still serves."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)

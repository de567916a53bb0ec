"""Connections of one event loop, and the pools of all loops that a transport meets."""

import asyncio
import socket
import time
import weakref
from collections.abc import Iterable, Sequence

from proxyless.model.cluster import Endpoint, UpstreamTls
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.transport import tls as tls_layer
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.errors import ConnectFailed, DeadlineExceeded
from proxyless.transport.pool import fork
from proxyless.transport.pool.connect import AddressInfo, Timings, numeric
from proxyless.transport.pool.store import Bucket, Store
from proxyless.transport.runtime import Runtime


class AsyncPool:
    """The connections of one loop. Only its thread uses them: no lock, and nothing to await for reusing one."""

    def __init__(self, runtime: Runtime, loop: asyncio.AbstractEventLoop) -> None:
        self._runtime = runtime
        self._loop = loop
        self.store: Store[AsyncConnection] = Store(runtime.snapshot)
        self.all: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()

    def take(self, bucket: Bucket[AsyncConnection]) -> AsyncConnection | None:
        generation = tls_layer.generation_of(self._runtime.identity, bucket.tls)
        return self.store.take(bucket, generation, time.monotonic())

    def release(self, bucket: Bucket[AsyncConnection], connection: AsyncConnection) -> None:
        """The exchange is over, or nobody wants the rest: keep the connection if that is safe, else close it."""
        if connection.finish():
            generation = tls_layer.generation_of(self._runtime.identity, bucket.tls)
            self.store.give(bucket, connection, generation, time.monotonic())
        else:
            connection.close()

    async def connect(
        self, endpoint: Endpoint, tls: UpstreamTls | None, timings: Timings, within: float, deadline: float | None
    ) -> AsyncConnection:
        """A new connection, its peer verified. within: seconds for name, TCP and TLS. deadline: monotonic.

        Raises ConnectFailed, or DeadlineExceeded when the deadline came first.
        """
        now = time.monotonic()
        bound = deadline is not None and deadline < now + within
        try:
            async with asyncio.timeout(deadline - now if bound and deadline is not None else within):
                return await self._connect(endpoint, tls, timings)
        except TimeoutError as error:
            # A TimeoutError with an errno is the kernel's: the peer never answered.
            if bound and error.errno is None:
                raise DeadlineExceeded(f"no connection to {endpoint} within the time for this request") from None
            raise ConnectFailed(f"no connection within the connect timeout of {within:g} s") from None
        except (OSError, IdentityError, NotReadyError, UnicodeError, EOFError) as error:
            raise ConnectFailed(tls_layer.explain(error)) from None

    async def _connect(self, endpoint: Endpoint, tls: UpstreamTls | None, timings: Timings) -> AsyncConnection:
        loop, identity = self._loop, self._runtime.identity
        started = time.monotonic()
        # Before the context is made: a swap in between makes the connection old, never an old one new.
        generation = tls_layer.generation_of(identity, tls)
        context = identity.client_context(tls) if tls is not None else None
        sock = await self._tcp(endpoint, timings)
        connected = time.monotonic()
        timings.connect = connected - started - (timings.resolve or 0.0)
        connection = AsyncConnection(loop)
        self.all.add(connection)
        try:
            name = tls_layer.server_name(endpoint, tls) if tls is not None else None
            if timings.on_tcp is not None:
                await timings.on_tcp(sock, context, name)
            transport, _ = await loop.create_connection(
                lambda: connection, sock=sock, ssl=context, server_hostname=(name or "") if context else None
            )
        except BaseException:
            connection.close()
            sock.close()
            raise
        connection.generation = generation
        if tls is not None:
            try:
                connection.peer = tls_layer.verify(transport.get_extra_info("ssl_object"), tls, identity)
            except BaseException:
                connection.close()
                raise
            timings.tls = time.monotonic() - connected
        return connection

    async def _tcp(self, endpoint: Endpoint, timings: Timings) -> socket.socket:
        loop = self._loop
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


class AsyncPools:
    """One pool for each event loop; an application may have several, and they may end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pools: dict[asyncio.AbstractEventLoop, AsyncPool] = {}
        fork.watch(self)

    def here(self, loop: asyncio.AbstractEventLoop) -> AsyncPool:
        """The pool of ``loop``, which must be the running one."""
        pool = self._pools.get(loop)
        if pool is None:
            # Not weak references: a pool's connections refer to their loop, and would keep it for ever.
            for other in list(self._pools):
                if other.is_closed():
                    self._pools.pop(other, None)
            pool = self._pools[loop] = AsyncPool(self._runtime, loop)
        return pool

    def close(self) -> None:
        """Close what is idle, in each pool on its own loop."""
        try:
            current: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            current = None
        for loop, pool in list(self._pools.items()):
            if loop is current:
                pool.store.close()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(pool.store.close)
            else:
                self._pools.pop(loop, None)

    def forget(self) -> Iterable[AsyncConnection]:
        """See ``fork``."""
        gone = [connection for pool in self._pools.values() for connection in pool.all]
        self._pools = {}
        return gone

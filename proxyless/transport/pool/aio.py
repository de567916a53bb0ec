"""Connections of one event loop, and the pools of all loops that a transport meets."""

import asyncio
import contextlib
import ssl
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial

from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.transport import tls as tls_layer
from proxyless.transport.arrival import Waiters
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.errors import ConnectFailed, DeadlineExceeded, WireError
from proxyless.transport.http2.aio import AsyncHttp2, AsyncStream
from proxyless.transport.pool import fork
from proxyless.transport.pool.connect import Timings, Wait, max_streams, open_tcp
from proxyless.transport.pool.limits import Gates, Grant, Place, Waiter, gates_of
from proxyless.transport.pool.store import SWEEP_EVERY, Bucket, Store, worn
from proxyless.transport.runtime import Runtime
from proxyless.transport.tls_handshake import secure

AsyncBucket = Bucket["PooledConnection", AsyncHttp2]
# What one request has of a connection.
AsyncUse = AsyncConnection | AsyncStream


class PooledConnection(AsyncConnection):
    """Its end is noticed, whoever ends it: it counts in its cluster's limit."""

    __slots__ = ("place",)

    place: Place

    def close(self) -> None:
        super().close()
        self.place.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.place.leave()


class _Choice(asyncio.Protocol):
    """Until TLS is there, and ALPN has said which HTTP it carries."""

    def __init__(self, choose: Callable[[ssl.SSLObject | None], PooledConnection | AsyncHttp2]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            chosen = self._choose(transport.get_extra_info("ssl_object"))
        except IdentityError:
            return  # said again by who waits for the connection
        transport.set_protocol(chosen)
        chosen.connection_made(transport)


class AsyncPool:
    """The connections of one loop. Only its thread uses them: no lock, and nothing to await for reusing one."""

    def __init__(self, runtime: Runtime, loop: asyncio.AbstractEventLoop) -> None:
        self._runtime = runtime
        self._loop = loop
        self._gates: Gates = gates_of(runtime)
        self._sweeping = False
        self._waiters = Waiters()
        self._ahead: set[asyncio.Task[None]] = set()
        self._identity = runtime.identity
        generation = partial(tls_layer.generation_of, runtime.identity)
        self.store: Store[PooledConnection, AsyncHttp2] = Store(
            runtime.snapshot, generation, runtime.identity.still_good
        )
        self.all: weakref.WeakSet[PooledConnection | AsyncHttp2] = weakref.WeakSet()

    def take(self, bucket: AsyncBucket) -> AsyncUse | None:
        """What can be used at once."""
        generation = tls_layer.generation_of(self._identity, bucket.tls)
        found: PooledConnection | AsyncHttp2 | None
        if bucket.shared:
            found = self.store.share(bucket, generation, time.monotonic())
            if found is not None:
                if found.generation != generation and not bucket.warming:
                    self._connect_ahead(bucket)
                return found.claim()
        found = self.store.take(bucket, generation, time.monotonic())
        if found is not None and found.generation != generation:
            self._connect_ahead(bucket)
        return found

    def release(self, bucket: AsyncBucket, use: AsyncUse) -> None:
        """The exchange is over, or nobody wants the rest: keep the connection if that is safe, else close it."""
        if isinstance(use, PooledConnection) and use.finish():
            self._give(bucket, use)
        else:
            use.close()

    async def acquire(self, bucket: AsyncBucket, timings: Timings, wait: Wait) -> AsyncUse:
        """When ``take`` found nothing: a new connection with its peer verified, or a place on one, as limits allow.

        Raises ConnectFailed; PoolOverflow, PoolTimedOut; DeadlineExceeded when the deadline came first.
        """
        gate = self._gates.of(bucket.cluster.name)
        gate.enter(bucket.cluster)
        try:
            while True:
                waiter = Waiter(gate, bucket)
                if bucket.connecting:
                    gate.wait(waiter)
                elif gate.wait_or_connect(waiter):
                    return await self._make(bucket, timings, wait)
                granted = await self._granted(bucket, waiter, wait)
                if granted is Grant.CONNECT:
                    return await self._make(bucket, timings, wait)
                found = self.take(bucket) if granted is Grant.AGAIN else granted
                if found is not None:
                    timings.reused = True
                    return found
        finally:
            gate.leave()

    async def _granted(self, bucket: AsyncBucket, waiter: Waiter, wait: Wait) -> AsyncUse | Grant:
        """What the waiter was given. Raises what it was told, or what its patience says."""
        future = self._loop.create_future()
        gate = waiter.gate
        if not gate.subscribe(waiter, partial(_tell, self._loop, future)):
            until, late = wait.until(time.monotonic(), connecting=bucket.connecting)
            try:
                async with asyncio.timeout_at(until):
                    await future
            except TimeoutError:
                if gate.withdraw(waiter) is None:
                    raise late from None
            except BaseException:
                self._give_back(bucket, waiter)
                raise
        granted = waiter.granted
        if isinstance(granted, WireError):
            raise granted
        return granted  # type: ignore[no-any-return]

    def _give_back(self, bucket: AsyncBucket, waiter: Waiter) -> None:
        granted = waiter.gate.withdraw(waiter)
        if granted is Grant.CONNECT:
            waiter.gate.closed(bucket)
        elif granted is Grant.AGAIN:
            waiter.gate.hand(bucket, Grant.AGAIN)
        elif isinstance(granted, PooledConnection):
            self._give(bucket, granted)
        elif isinstance(granted, AsyncStream):
            granted.close()

    async def _make(self, bucket: AsyncBucket, timings: Timings, wait: Wait) -> AsyncUse:
        """A connection for this request, and for those that wait if it can be shared. It is counted already."""
        gate = self._gates.of(bucket.cluster.name)
        place = Place(gate, bucket)
        alone = not bucket.may_share
        bucket.connecting = bucket.connecting or not alone
        try:
            made = await self._within(bucket, place, timings, wait)
        except BaseException as error:
            place.leave()
            if not alone:
                bucket.connecting = False
                # Everybody's failure, unless it was only this request's own patience that ended.
                if isinstance(error, ConnectFailed) and wait.connect >= bucket.cluster.connect_timeout:
                    gate.hand_all(bucket, partial(ConnectFailed, str(error)))
                else:
                    gate.hand(bucket, Grant.AGAIN)
            raise
        if not alone:
            bucket.connecting = False
        if isinstance(made, AsyncHttp2):
            bucket.http2 = True
            use = made.claim()
            self._offer(bucket, made)
            gate.hand(bucket, Grant.AGAIN)  # there may be more than it has room for
            return use
        if not alone:
            bucket.http2 = False
            gate.hand_all(bucket, lambda: Grant.AGAIN)
        return made

    def _give(self, bucket: AsyncBucket, connection: PooledConnection) -> None:
        generation = tls_layer.generation_of(self._identity, bucket.tls)
        now = time.monotonic()
        wanted = bucket.waiting and self.store.keeps(bucket, connection, generation, now) and connection.usable()
        if wanted and self._gates.of(bucket.cluster.name).hand(bucket, connection):
            return
        self.store.give(bucket, connection, generation, now)

    def _offer(self, bucket: AsyncBucket, connection: AsyncHttp2) -> None:
        gate = self._gates.of(bucket.cluster.name)
        while bucket.waiting and connection.room > 0 and not worn(connection, bucket, time.monotonic()):
            gate.hand(bucket, connection.claim())
        generation = tls_layer.generation_of(self._identity, bucket.tls)
        self.store.offer(bucket, connection, generation, time.monotonic())

    def _changed(self, bucket: AsyncBucket, place: Place, connection: AsyncHttp2) -> None:
        if connection.usable():
            self._offer(bucket, connection)
            return
        self.store.drop(bucket, connection)
        if connection.closed:
            place.leave()
        if not bucket.connecting:
            self._gates.of(bucket.cluster.name).hand(bucket, Grant.AGAIN)

    def _connect_ahead(self, bucket: AsyncBucket) -> None:
        """A certificate was renewed: make the next connection while the request goes out on the last one's."""
        if not self._gates.of(bucket.cluster.name).connect_ahead(bucket):
            return
        bucket.warming += 1
        task = self._loop.create_task(self._warm(bucket))
        self._ahead.add(task)
        task.add_done_callback(self._ahead.discard)

    async def _warm(self, bucket: AsyncBucket) -> None:
        place = Place(self._gates.of(bucket.cluster.name), bucket)
        try:
            made = await self._within(bucket, place, Timings(), Wait(bucket.cluster.connect_timeout, None, None))
        except BaseException as error:
            place.leave()
            for old in list(bucket.shared):
                self.store.drop(bucket, old)
                old.drain()
            if not isinstance(error, WireError):
                raise
            return
        finally:
            bucket.warming -= 1
        if isinstance(made, AsyncHttp2):
            self._offer(bucket, made)
        else:
            self._give(bucket, made)

    async def _within(
        self, bucket: AsyncBucket, place: Place, timings: Timings, wait: Wait
    ) -> PooledConnection | AsyncHttp2:
        self._sweep_later()
        within, deadline, now = wait.connect, wait.deadline, time.monotonic()
        bound = deadline is not None and deadline < now + within
        try:
            async with asyncio.timeout(deadline - now if bound and deadline is not None else within):
                return await self._connect(bucket, place, timings)
        except TimeoutError as error:
            # A TimeoutError with an errno is the kernel's: the peer never answered.
            if bound and error.errno is None:
                raise DeadlineExceeded(f"no connection to {bucket.endpoint} within the time for this request") from None
            raise ConnectFailed(f"no connection within the connect timeout of {within:g} s") from None
        except (OSError, IdentityError, NotReadyError, UnicodeError, EOFError, WireError) as error:
            raise ConnectFailed(tls_layer.explain(error)) from None

    async def _connect(self, bucket: AsyncBucket, place: Place, timings: Timings) -> PooledConnection | AsyncHttp2:
        loop, identity, endpoint = self._loop, self._runtime.identity, bucket.endpoint
        tls = None if bucket.tls is None else tls_layer.offering(bucket.tls, bucket.protocol)
        started = time.monotonic()
        # Before the context is made: a swap in between makes the connection old, never an old one new.
        generation = tls_layer.generation_of(identity, tls)
        context = identity.client_context(tls) if tls is not None else None
        sock = await open_tcp(loop, endpoint, bucket.cluster, timings)
        connected = time.monotonic()
        timings.connect = connected - started - (timings.resolve or 0.0)
        name = tls_layer.server_name(endpoint, tls) if tls is not None else None
        made: PooledConnection | AsyncHttp2 | None = None

        def choose(secured: ssl.SSLObject | None) -> PooledConnection | AsyncHttp2:
            nonlocal made
            if tls_layer.speaks_http2(secured, bucket.protocol):
                made = AsyncHttp2(loop, max_streams(bucket.cluster))
            else:
                made = PooledConnection(loop, self._waiters)
                made.place = place
            self.all.add(made)
            return made

        try:
            if timings.on_tcp is not None:
                await timings.on_tcp(sock, context, name)
            transport: asyncio.Transport
            if context is None:
                transport, _ = await loop.create_connection(lambda: choose(None), sock=sock)
            else:
                transport, _ = await secure(loop, sock, context, lambda: _Choice(choose), server_hostname=name)
        except BaseException:
            if made is not None:
                made.close()
            sock.close()
            raise
        try:
            if made is None:  # the server chose what was not offered
                raise IdentityError("the server insists on HTTP/2, which was not offered")
            made.generation, made.made_at = generation, connected
            if tls is not None:
                made.peer = tls_layer.verify(transport.get_extra_info("ssl_object"), tls, identity)
                timings.tls = time.monotonic() - connected
            if isinstance(made, AsyncHttp2):
                made.idle_since = connected
                await made.ready()
                made.changed = partial(self._changed, bucket, place)
        except BaseException:
            transport.abort()
            if made is not None:
                made.close()
            raise
        return made

    def _sweep_later(self) -> None:
        """Idle connections end in time, also when nobody asks for any more."""
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_EVERY, _sweep, weakref.ref(self))

    def sweep(self) -> None:
        self._sweeping = False
        if self.store.sweep(time.monotonic()):
            self._sweep_later()


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

    def forget(self) -> Iterable[PooledConnection | AsyncHttp2]:
        """See ``fork``."""
        gone = [connection for pool in self._pools.values() for connection in pool.all]
        self._pools = {}
        return gone


def _sweep(reference: "weakref.ref[AsyncPool]") -> None:
    if (pool := reference()) is not None:
        pool.sweep()


def _tell(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
    with contextlib.suppress(RuntimeError):  # a loop that has ended: so has who waited
        loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

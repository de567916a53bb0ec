"""Connections of threads that wait, shared by all threads of a transport."""

import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from functools import partial

from proxyless.model.cluster import Cluster, Endpoint, Protocol, UpstreamTls
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.transport import tls as tls_layer
from proxyless.transport.http1.blocking import BlockingConnection
from proxyless.transport.http1.errors import ConnectFailed, DeadlineExceeded, WireError
from proxyless.transport.http2.blocking import BlockingHttp2, BlockingStream
from proxyless.transport.pool import fork
from proxyless.transport.pool.connect import AddressInfo, Timings, Wait, keep_alive, max_streams, numeric
from proxyless.transport.pool.limits import Grant, Place, Waiter, gates_of
from proxyless.transport.pool.store import Bucket, Store, worn
from proxyless.transport.runtime import Runtime

BlockingBucket = Bucket["PooledConnection", BlockingHttp2]
# What one request has of a connection.
BlockingUse = BlockingConnection | BlockingStream


class PooledConnection(BlockingConnection):
    """Its end is noticed, whoever ends it: it counts in its cluster's limit."""

    __slots__ = ("place",)

    def __init__(self, sock: socket.socket, place: Place) -> None:
        super().__init__(sock)
        self.place = place

    def close(self) -> None:
        super().close()
        self.place.leave()


class BlockingPool:
    """The lock is held for the bookkeeping of a checkout only, never while something is sent, read or connected.

    Locks are taken in this order: the pool's, an HTTP/2 connection's, the limits'.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._gates = gates_of(runtime)
        self._start()
        fork.watch(self)

    def _start(self) -> None:
        # Reentrant: a connection that ends while it is looked at tells the pool.
        self._lock = threading.RLock()
        self._store: Store[PooledConnection, BlockingHttp2] = Store(
            self._runtime.snapshot, self._generation, self._runtime.identity.still_good
        )
        self._all: weakref.WeakSet[PooledConnection | BlockingHttp2] = weakref.WeakSet()

    def checkout(
        self, endpoint: Endpoint, tls: UpstreamTls | None, cluster: Cluster, protocol: Protocol | None
    ) -> tuple[BlockingBucket, BlockingUse | None]:
        """The endpoint's bucket, and what of it can be used at once. protocol: the cluster's unless given."""
        generation = self._generation(tls)
        with self._lock:
            bucket = self._store.bucket(endpoint, tls, cluster, protocol)
            return bucket, self._take(bucket, generation)

    def release(self, bucket: BlockingBucket, use: BlockingUse) -> None:
        """The exchange is over, or nobody wants the rest: keep the connection if that is safe, else close it."""
        if isinstance(use, PooledConnection) and use.finish():
            self._give(bucket, use)
        else:
            use.close()

    def acquire(self, bucket: BlockingBucket, timings: Timings, wait: Wait) -> BlockingUse:
        """When ``checkout`` found nothing: a new connection with its peer verified, or a place on one, as limits allow.

        Raises ConnectFailed; PoolOverflow, PoolTimedOut; DeadlineExceeded when the deadline came first.
        """
        gate = self._gates.of(bucket.cluster.name)
        gate.enter(bucket.cluster)
        try:
            while True:
                waiter = Waiter(gate, bucket)
                # Looking and queueing in one: what is given back in between would find nobody waiting.
                with self._lock:
                    if (found := self._take(bucket, self._generation(bucket.tls))) is not None:
                        timings.reused = True
                        return found
                    if bucket.connecting:
                        gate.wait(waiter)
                        connect = False
                    else:
                        connect = gate.wait_or_connect(waiter)
                        bucket.connecting = connect and bucket.may_share
                if connect:
                    return self._make(bucket, timings, wait)
                granted = self._granted(bucket, waiter, wait)
                if granted is Grant.CONNECT:
                    return self._make(bucket, timings, wait)
                if not isinstance(granted, Grant):
                    timings.reused = True
                    return granted
        finally:
            gate.leave()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when its exchange ends."""
        with self._lock:
            self._store.close()

    def forget(self) -> Iterable[PooledConnection | BlockingHttp2]:
        """See ``fork``. The lock may be held by a thread that does not exist here."""
        gone, closed = list(self._all), self._store.closed
        self._start()
        self._store.closed = closed
        return gone

    def _generation(self, tls: UpstreamTls | None) -> int:
        return tls_layer.generation_of(self._runtime.identity, tls)

    def _take(self, bucket: BlockingBucket, generation: int) -> BlockingUse | None:
        found: PooledConnection | BlockingHttp2 | None
        if bucket.shared:
            found = self._store.share(bucket, generation, time.monotonic())
            if found is not None:
                if found.generation != generation and not bucket.warming:
                    self._connect_ahead(bucket)
                return found.claim()
        found = self._store.take(bucket, generation, time.monotonic())
        if found is not None and found.generation != generation:
            self._connect_ahead(bucket)
        return found

    def _granted(self, bucket: BlockingBucket, waiter: Waiter, wait: Wait) -> BlockingUse | Grant:
        """What the waiter was given. Raises what it was told, or what its patience says."""
        gate, event = waiter.gate, threading.Event()
        if not gate.subscribe(waiter, event.set):
            now = time.monotonic()
            until, late = wait.until(now, connecting=bucket.connecting)
            try:
                if not event.wait(None if until is None else max(0.0, until - now)) and gate.withdraw(waiter) is None:
                    raise late
            except BaseException:
                self._give_back(bucket, waiter)
                raise
        granted = waiter.granted
        if isinstance(granted, WireError):
            raise granted
        return granted  # type: ignore[no-any-return]

    def _give_back(self, bucket: BlockingBucket, waiter: Waiter) -> None:
        granted = waiter.gate.withdraw(waiter)
        if granted is Grant.CONNECT:
            waiter.gate.closed(bucket)
        elif granted is Grant.AGAIN:
            waiter.gate.hand(bucket, Grant.AGAIN)
        elif isinstance(granted, PooledConnection):
            self._give(bucket, granted)
        elif isinstance(granted, BlockingStream):
            granted.close()

    def _make(self, bucket: BlockingBucket, timings: Timings, wait: Wait) -> BlockingUse:
        """A connection for this request, and for those that wait if it can be shared. It is counted already."""
        gate = self._gates.of(bucket.cluster.name)
        place = Place(gate, bucket)
        with self._lock:
            alone = not bucket.may_share
            bucket.connecting = not alone
        try:
            made = self._within(bucket, place, timings, wait)
        except BaseException as error:
            place.leave()
            if not alone:
                with self._lock:
                    bucket.connecting = False
                # Everybody's failure, unless it was only this request's own patience that ended.
                if isinstance(error, ConnectFailed) and wait.connect >= bucket.cluster.connect_timeout:
                    gate.hand_all(bucket, partial(ConnectFailed, str(error)))
                else:
                    gate.hand(bucket, Grant.AGAIN)
            raise
        with self._lock:
            if isinstance(made, PooledConnection):
                if not alone:
                    bucket.connecting = bucket.http2 = False
                    gate.hand_all(bucket, lambda: Grant.AGAIN)
                return made
            bucket.connecting, bucket.http2 = False, True
            use = made.claim()
            self._offer(bucket, made)
            gate.hand(bucket, Grant.AGAIN)  # there may be more than it has room for
            return use

    def _give(self, bucket: BlockingBucket, connection: PooledConnection) -> None:
        generation = self._generation(bucket.tls)
        with self._lock:
            now = time.monotonic()
            wanted = bucket.waiting and self._store.keeps(bucket, connection, generation, now) and connection.usable()
            if wanted and self._gates.of(bucket.cluster.name).hand(bucket, connection):
                return
            self._store.give(bucket, connection, generation, now)

    def _offer(self, bucket: BlockingBucket, connection: BlockingHttp2) -> None:
        gate = self._gates.of(bucket.cluster.name)
        while bucket.waiting and connection.room > 0 and not worn(connection, bucket, time.monotonic()):
            use = connection.claim()
            if not gate.hand(bucket, use):
                use.close()
                break
        self._store.offer(bucket, connection, self._generation(bucket.tls), time.monotonic())

    def _changed(self, bucket: BlockingBucket, place: Place, connection: BlockingHttp2) -> None:
        with self._lock:
            if connection.usable():
                self._offer(bucket, connection)
                return
            self._store.drop(bucket, connection)
            if connection.closed:
                place.leave()
            if not bucket.connecting:
                self._gates.of(bucket.cluster.name).hand(bucket, Grant.AGAIN)

    def _connect_ahead(self, bucket: BlockingBucket) -> None:
        """A certificate was renewed: make the next connection while the request goes out on the last one's."""
        if not self._gates.of(bucket.cluster.name).connect_ahead(bucket):
            return
        bucket.warming += 1
        threading.Thread(target=self._warm, args=(bucket,), name="proxyless-connect", daemon=True).start()

    def _warm(self, bucket: BlockingBucket) -> None:
        place = Place(self._gates.of(bucket.cluster.name), bucket)
        try:
            made = self._within(bucket, place, Timings(), Wait(bucket.cluster.connect_timeout, None, None))
        except BaseException as error:
            place.leave()
            with self._lock:
                bucket.warming -= 1
                for old in list(bucket.shared):
                    self._store.drop(bucket, old)
                    old.drain()
            if not isinstance(error, WireError):
                raise
            return
        with self._lock:
            bucket.warming -= 1
            if isinstance(made, PooledConnection):
                self._give(bucket, made)
            else:
                self._offer(bucket, made)

    def _within(
        self, bucket: BlockingBucket, place: Place, timings: Timings, wait: Wait
    ) -> PooledConnection | BlockingHttp2:
        until = time.monotonic() + wait.connect
        bound = wait.deadline is not None and wait.deadline < until
        if bound and wait.deadline is not None:
            until = wait.deadline
        try:
            return self._connect(bucket, place, timings, until)
        except TimeoutError:
            if bound:
                raise DeadlineExceeded(f"no connection to {bucket.endpoint} within the time for this request") from None
            raise ConnectFailed(f"no connection within the connect timeout of {wait.connect:g} s") from None
        except (OSError, IdentityError, NotReadyError, UnicodeError, EOFError, WireError) as error:
            raise ConnectFailed(tls_layer.explain(error)) from None

    def _connect(
        self, bucket: BlockingBucket, place: Place, timings: Timings, until: float
    ) -> PooledConnection | BlockingHttp2:
        identity, endpoint = self._runtime.identity, bucket.endpoint
        tls = None if bucket.tls is None else tls_layer.offering(bucket.tls, bucket.protocol)
        started = time.monotonic()
        # Before the context is made: a swap in between makes the connection old, never an old one new.
        generation = tls_layer.generation_of(identity, tls)
        context = identity.client_context(tls) if tls is not None else None
        sock = _tcp(endpoint, bucket.cluster, until, timings)
        connected = time.monotonic()
        timings.connect = connected - started - (timings.resolve or 0.0)
        peer, secured = None, None
        made: PooledConnection | BlockingHttp2
        try:
            name = tls_layer.server_name(endpoint, tls) if tls is not None else None
            if timings.on_tcp is not None:
                timings.on_tcp(sock, context, name)
            if tls is not None and context is not None:
                sock.settimeout(_left(until))
                # In steps: wrap_socket would do the handshake with no total time limit of ours.
                secured = tls_layer.wrapped(context, sock, name)
                sock = secured
                _handshake(secured, until)
                peer = tls_layer.verify(secured, tls, identity)
                timings.tls = time.monotonic() - connected
            if tls_layer.speaks_http2(secured, bucket.protocol):
                made = BlockingHttp2(sock, max_streams(bucket.cluster))
                made.idle_since = connected
                made.ready(until)
                made.changed = partial(self._changed, bucket, place)
            else:
                made = PooledConnection(sock, place)
        except BaseException:
            sock.close()
            raise
        made.generation, made.peer, made.made_at = generation, peer, connected
        with self._lock:
            self._all.add(made)
        return made


def _handshake(secured: ssl.SSLSocket, until: float) -> None:
    secured.setblocking(False)
    poll = select.poll()
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            wanted = select.POLLIN
        except ssl.SSLWantWriteError:
            wanted = select.POLLOUT
        else:
            return
        poll.register(secured, wanted)
        if not poll.poll(_left(until) * 1000):
            raise TimeoutError


def _tcp(endpoint: Endpoint, cluster: Cluster, until: float, timings: Timings) -> socket.socket:
    places: Sequence[AddressInfo] = numeric(endpoint.address, endpoint.port)
    if not places:
        started = time.monotonic()
        places = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)
        timings.resolve = time.monotonic() - started
    problem: OSError | None = None
    for family, kind, protocol, _, where in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(until))
            keep_alive(sock, cluster)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(where)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem or OSError(f"{endpoint.address} has no address")


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

"""Connections of threads that wait, shared by all threads of a transport."""

import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Sequence

from proxyless.model.cluster import Cluster, Endpoint, UpstreamTls
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.transport import tls as tls_layer
from proxyless.transport.http1.blocking import BlockingConnection
from proxyless.transport.http1.errors import ConnectFailed, DeadlineExceeded
from proxyless.transport.pool import fork
from proxyless.transport.pool.connect import AddressInfo, Timings, numeric
from proxyless.transport.pool.store import Bucket, Store
from proxyless.transport.runtime import Runtime


class BlockingPool:
    """The lock is held for the bookkeeping of a checkout only, never while something is sent, read or connected."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._store: Store[BlockingConnection] = Store(runtime.snapshot)
        self._all: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()
        fork.watch(self)

    def checkout(
        self, endpoint: Endpoint, tls: UpstreamTls | None, cluster: Cluster
    ) -> tuple[Bucket[BlockingConnection], BlockingConnection | None]:
        """The endpoint's bucket, and a connection from it if one is good."""
        generation = tls_layer.generation_of(self._runtime.identity, tls)
        with self._lock:
            bucket = self._store.bucket(endpoint, tls, cluster)
            return bucket, self._store.take(bucket, generation, time.monotonic())

    def release(self, bucket: Bucket[BlockingConnection], connection: BlockingConnection) -> None:
        """The exchange is over, or nobody wants the rest: keep the connection if that is safe, else close it."""
        if not connection.finish():
            connection.close()
            return
        generation = tls_layer.generation_of(self._runtime.identity, bucket.tls)
        with self._lock:
            self._store.give(bucket, connection, generation, time.monotonic())

    def connect(
        self, endpoint: Endpoint, tls: UpstreamTls | None, timings: Timings, within: float, deadline: float | None
    ) -> BlockingConnection:
        """A new connection, its peer verified. within: seconds for TCP and TLS. deadline: monotonic.

        Raises ConnectFailed, or DeadlineExceeded when the deadline came first.
        """
        until = time.monotonic() + within
        bound = deadline is not None and deadline < until
        if bound and deadline is not None:
            until = deadline
        try:
            return self._connect(endpoint, tls, timings, until)
        except TimeoutError:
            if bound:
                raise DeadlineExceeded(f"no connection to {endpoint} within the time for this request") from None
            raise ConnectFailed(f"no connection within the connect timeout of {within:g} s") from None
        except (OSError, IdentityError, NotReadyError, UnicodeError, EOFError) as error:
            raise ConnectFailed(tls_layer.explain(error)) from None

    def close(self) -> None:
        """Close what is idle; what is in use is closed when its exchange ends."""
        with self._lock:
            self._store.close()

    def forget(self) -> Iterable[BlockingConnection]:
        """See ``fork``. The lock may be held by a thread that does not exist here."""
        gone = list(self._all)
        closed = self._store.closed
        self._lock = threading.Lock()
        self._store = Store(self._runtime.snapshot)
        self._store.closed = closed
        self._all = weakref.WeakSet()
        return gone

    def _connect(
        self, endpoint: Endpoint, tls: UpstreamTls | None, timings: Timings, until: float
    ) -> BlockingConnection:
        identity = self._runtime.identity
        started = time.monotonic()
        # Before the context is made: a swap in between makes the connection old, never an old one new.
        generation = tls_layer.generation_of(identity, tls)
        context = identity.client_context(tls) if tls is not None else None
        sock = _tcp(endpoint, until, timings)
        connected = time.monotonic()
        timings.connect = connected - started - (timings.resolve or 0.0)
        peer = None
        try:
            name = tls_layer.server_name(endpoint, tls) if tls is not None else None
            if timings.on_tcp is not None:
                timings.on_tcp(sock, context, name)
            if tls is not None and context is not None:
                sock.settimeout(_left(until))
                # In steps: wrap_socket would do the handshake with no total time limit of ours.
                secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
                sock = secured
                _handshake(secured, until)
                peer = tls_layer.verify(secured, tls, identity)
                timings.tls = time.monotonic() - connected
            connection = BlockingConnection(sock)
        except BaseException:
            sock.close()
            raise
        connection.generation, connection.peer = generation, peer
        with self._lock:
            self._all.add(connection)
        return connection


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


def _tcp(endpoint: Endpoint, until: float, timings: Timings) -> socket.socket:
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

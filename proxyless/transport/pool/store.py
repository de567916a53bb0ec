"""What connections there are, by endpoint. Not thread-safe: its owner says who may call when.

HTTP/1.1: those that are idle, last in, first out. HTTP/2: those that have room, used by many requests at once.
"""

from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from proxyless.model.cluster import Cluster, ClusterKind, ConnectionOptions, Endpoint, UpstreamTls
from proxyless.model.cluster import Protocol as Http
from proxyless.model.snapshot import Snapshot
from proxyless.transport.pool.limits import Waiter

# Envoy's default for upstream connections.
IDLE_TIMEOUT = 3600.0
SWEEP_EVERY = 5.0


class Connection(Protocol):
    """What all kinds of connection are to a pool. generation: of the identity it was made with, 0 if none matters.

    made_at, idle_since: monotonic.
    """

    generation: int
    made_at: float
    requests: int
    idle_since: float

    def usable(self) -> bool: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...


class Multiplexed(Connection, Protocol):
    """An HTTP/2 connection. claimed: how many requests it serves; room: how many more it could."""

    claimed: int

    @property
    def room(self) -> int: ...
    def drain(self) -> None: ...


C = TypeVar("C", bound=Connection)
M = TypeVar("M", bound=Multiplexed)


@dataclass(slots=True)
class Bucket(Generic[C, M]):
    """Connections to one endpoint with one kind of TLS, HTTP and options. cluster: the one that used it last.

    owner: the name of a cluster that limits its connections, and so does not share them. shared: HTTP/2 connections
    that may have room. connections: all there are, busy ones and those being made included. connecting: somebody
    makes one that others may share. http2: which kind the last one was, None while there was none. warming: how many
    are being made ahead of need. swept: the store has forgotten it, it was empty.
    """

    endpoint: Endpoint
    tls: UpstreamTls | None
    cluster: Cluster
    protocol: Http = Http.HTTP1
    owner: str = ""
    options: ConnectionOptions | None = None
    idle: list[C] = field(default_factory=list)
    shared: list[M] = field(default_factory=list)
    waiting: OrderedDict[Waiter, None] = field(default_factory=OrderedDict)
    connections: int = 0
    connecting: bool = False
    http2: bool | None = None
    warming: int = 0
    swept: bool = False

    @property
    def may_share(self) -> bool:
        """Whether a new connection is likely to serve several requests at once."""
        if self.protocol is Http.HTTP1 or (self.tls is None and self.protocol is Http.AUTO):
            return False
        return self.http2 is not False


class Store(Generic[C, M]):
    """``bucket`` for an attempt, then ``take`` or ``share`` or make a connection, then ``give`` it back or close it."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        generation: Callable[[UpstreamTls | None], int] | None = None,
        still_good: Callable[[int], bool] | None = None,
    ) -> None:
        """generation: of connections made now. still_good: whether an older one may be used until there is another."""
        self._snapshot = snapshot
        self._generation = generation
        self._still_good = still_good or _never
        self._buckets: dict[tuple[str, int], list[Bucket[C, M]]] = {}
        self._next_sweep = 0.0
        self.closed = False

    def bucket(
        self, endpoint: Endpoint, tls: UpstreamTls | None, cluster: Cluster, protocol: Http | None = None
    ) -> Bucket[C, M]:
        """The one bucket of this address, port, TLS, connection options and protocol (the cluster's unless given).

        A closed store opens again for who starts a request.
        """
        self.closed = False
        if protocol is None:
            protocol = cluster.protocol
        owner, options = "" if cluster.max_connections is None else cluster.name, cluster.connection_options
        buckets = self._buckets.get(endpoint.key)
        if buckets is None:
            buckets = self._buckets[endpoint.key] = []
        for bucket in buckets:
            # Comparing field by field is the exception: it happens once after each swap of the snapshot.
            if (
                bucket.protocol is protocol
                and bucket.owner == owner
                and (bucket.tls is tls or bucket.tls == tls)
                and (bucket.options is options or bucket.options == options)
            ):
                bucket.tls, bucket.cluster, bucket.endpoint, bucket.options = tls, cluster, endpoint, options
                return bucket
        buckets.append(Bucket(endpoint, tls, cluster, protocol, owner, options))
        return buckets[-1]

    def take(self, bucket: Bucket[C, M], generation: int, now: float) -> C | None:
        """The connection used last that is still good. Others met on the way are closed.

        It may be of an older generation: then it serves this request only, and another should be made meanwhile.
        """
        idle = bucket.idle
        while idle:
            connection = idle.pop()
            if (
                (connection.generation == generation or self._still_good(connection.generation))
                and not _expired(connection, bucket, now)
                and connection.usable()
            ):
                return connection
            connection.close()
        return None

    def share(self, bucket: Bucket[C, M], generation: int, now: float) -> M | None:
        """An HTTP/2 connection with room, of an older generation if there is no other yet."""
        shared = bucket.shared
        while shared:
            connection = shared[-1]
            good = connection.generation == generation or self._still_good(connection.generation)
            idle_too_long = not connection.claimed and _expired(connection, bucket, now)
            if not good or idle_too_long or not connection.usable() or worn(connection, bucket, now):
                shared.pop()
                connection.drain()
            elif connection.room > 0:
                return connection
            else:
                shared.pop()  # it is back when one of its requests ends
        return None

    def keeps(self, bucket: Bucket[C, M], connection: C, generation: int, now: float) -> bool:
        """Whether a connection whose exchange is over may serve another."""
        return not (self.closed or connection.generation != generation or worn(connection, bucket, now))

    def give(self, bucket: Bucket[C, M], connection: C, generation: int, now: float) -> None:
        """Keep a connection whose exchange is over and that can serve another, unless a limit says no."""
        if not self.keeps(bucket, connection, generation, now):
            connection.close()
            return
        connection.idle_since = now
        # Looked up anew: a sweep may have removed the bucket while its only connection was in use.
        self._same(bucket).idle.append(connection)
        if now >= self._next_sweep:
            self.sweep(now)

    def offer(self, bucket: Bucket[C, M], connection: M, generation: int, now: float) -> None:
        """An HTTP/2 connection is new, or one of its requests has ended: it may have room."""
        stale = connection.generation != generation and not self._still_good(connection.generation)
        if self.closed or stale or worn(connection, bucket, now):
            if connection in bucket.shared:
                bucket.shared.remove(connection)
            connection.drain()
            return
        shared = self._same(bucket).shared
        if connection.generation == generation:
            # What was used until this one was there.
            for old in [one for one in shared if one.generation != generation]:
                shared.remove(old)
                old.drain()
        if connection not in shared:
            shared.append(connection)
        if now >= self._next_sweep:
            self.sweep(now)

    def drop(self, bucket: Bucket[C, M], connection: M) -> None:
        """It takes no further request."""
        if connection in bucket.shared:
            bucket.shared.remove(connection)

    def sweep(self, now: float) -> bool:
        """Close what idled too long, and everything idle to endpoints that have left their cluster; what is busy with
        HTTP/2 requests gets no more of them. Whether anything is left to sweep.
        """
        self._next_sweep = now + SWEEP_EVERY
        clusters = self._snapshot().clusters
        members: dict[str, Container[tuple[str, int]] | None] = {}
        for key, buckets in list(self._buckets.items()):
            for bucket in list(buckets):
                name = bucket.cluster.name
                if name not in members:
                    members[name] = _members(clusters.get(name))
                known, current = members[name], clusters.get(name)
                gone = (known is not None and key not in known) or (
                    current is not None and current.connection_options != bucket.options
                )
                kept = []
                newest = self._generation(bucket.tls) if self._generation is not None else None
                for connection in bucket.idle:
                    # Of those that a new certificate made old, what was not needed since is not replaced.
                    old = newest is not None and connection.generation != newest
                    unused = old and now - connection.idle_since > SWEEP_EVERY
                    if unused or gone or _expired(connection, bucket, now) or not connection.usable():
                        connection.close()
                    else:
                        kept.append(connection)
                bucket.idle = kept
                for shared in list(bucket.shared):
                    idle_too_long = not shared.claimed and _expired(shared, bucket, now)
                    if gone or idle_too_long or not shared.usable() or worn(shared, bucket, now):
                        bucket.shared.remove(shared)
                        shared.drain()
                if not (kept or bucket.shared or bucket.connections or bucket.waiting):
                    buckets.remove(bucket)
                    bucket.swept = True
            if not buckets:
                del self._buckets[key]
        return bool(self._buckets)

    def close(self) -> None:
        """Close everything idle, and whatever is given back until somebody starts another request."""
        self.closed = True
        for buckets in self._buckets.values():
            for bucket in buckets:
                for connection in bucket.idle:
                    connection.close()
                bucket.idle.clear()
                shared, bucket.shared = bucket.shared, []
                for one in shared:
                    one.drain()
                bucket.swept = True
        self._buckets.clear()

    @property
    def idle(self) -> int:
        """How many connections wait."""
        return sum(
            len(bucket.idle) + sum(not one.claimed for one in bucket.shared)
            for buckets in self._buckets.values()
            for bucket in buckets
        )

    def _same(self, bucket: Bucket[C, M]) -> Bucket[C, M]:
        if not bucket.swept:
            return bucket
        closed = self.closed
        found = self.bucket(bucket.endpoint, bucket.tls, bucket.cluster, bucket.protocol)
        self.closed = closed
        return found


def _members(cluster: Cluster | None) -> Container[tuple[str, int]] | None:
    """Where the cluster's connections may go; None for a passthrough cluster: wherever the application dials."""
    if cluster is None:
        return ()
    if cluster.kind is ClusterKind.PASSTHROUGH:
        return None
    return frozenset(endpoint.key for endpoint in cluster.endpoints)


def worn(connection: Connection, bucket: Bucket[C, M], now: float) -> bool:
    """It has served as many requests, or as long, as its cluster lets a connection: those under way are its last."""
    limit, options = bucket.cluster.max_requests_per_connection, bucket.options
    return 0 < limit <= connection.requests or (
        options is not None and options.max_duration is not None and now - connection.made_at >= options.max_duration
    )


def _expired(connection: Connection, bucket: Bucket[C, M], now: float) -> bool:
    timeout = bucket.cluster.idle_timeout
    return now - connection.idle_since > (IDLE_TIMEOUT if timeout is None else timeout) or (
        bucket.options is not None and worn(connection, bucket, now)
    )


def _never(_: int) -> bool:
    return False

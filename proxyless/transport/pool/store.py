"""Idle connections by endpoint, last in, first out. Not thread-safe: its owner says who may call when."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from proxyless.model.cluster import Cluster, ClusterKind, Endpoint, UpstreamTls
from proxyless.model.snapshot import Snapshot

# Envoy's default for HTTP/1.1 upstream connections.
IDLE_TIMEOUT = 3600.0
_SWEEP_EVERY = 5.0


class Connection(Protocol):
    """What both kinds of connection are to a pool. generation: of the identity it was made with, 0 if none matters."""

    generation: int
    requests: int
    idle_since: float

    def usable(self) -> bool: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...


C = TypeVar("C", bound=Connection)


@dataclass(slots=True)
class Bucket(Generic[C]):
    """Connections to one endpoint with one kind of TLS. cluster: the one that used it last, whose limits count."""

    endpoint: Endpoint
    tls: UpstreamTls | None
    cluster: Cluster
    idle: list[C] = field(default_factory=list)


class Store(Generic[C]):
    """``bucket`` for an attempt, then ``take`` or make a connection, then ``give`` it back or close it."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._buckets: dict[tuple[str, int], list[Bucket[C]]] = {}
        self._next_sweep = 0.0
        self.closed = False

    def bucket(self, endpoint: Endpoint, tls: UpstreamTls | None, cluster: Cluster) -> Bucket[C]:
        """The one bucket of this address, port and TLS. A closed store opens again for who starts a request."""
        self.closed = False
        buckets = self._buckets.get(endpoint.key)
        if buckets is None:
            buckets = self._buckets[endpoint.key] = []
        for bucket in buckets:
            # Comparing TLS field by field is the exception: it happens once after each swap of the snapshot.
            if bucket.tls is tls or bucket.tls == tls:
                bucket.tls, bucket.cluster, bucket.endpoint = tls, cluster, endpoint
                return bucket
        buckets.append(Bucket(endpoint, tls, cluster))
        return buckets[-1]

    def take(self, bucket: Bucket[C], generation: int, now: float) -> C | None:
        """The connection used last that is still good. Others met on the way are closed."""
        idle = bucket.idle
        while idle:
            connection = idle.pop()
            if connection.generation == generation and not _expired(connection, bucket, now) and connection.usable():
                return connection
            connection.close()
        return None

    def give(self, bucket: Bucket[C], connection: C, generation: int, now: float) -> None:
        """Keep a connection whose exchange is over and that can serve another, unless a limit says no."""
        limit = bucket.cluster.max_requests_per_connection
        if self.closed or connection.generation != generation or 0 < limit <= connection.requests:
            connection.close()
            return
        connection.idle_since = now
        # Looked up anew: a sweep may have removed the bucket while its only connection was in use.
        self.bucket(bucket.endpoint, bucket.tls, bucket.cluster).idle.append(connection)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_EVERY
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """Close what idled too long, and everything idle to endpoints that have left their cluster."""
        clusters = self._snapshot().clusters
        members: dict[str, Container[tuple[str, int]] | None] = {}
        for key, buckets in list(self._buckets.items()):
            for bucket in list(buckets):
                name = bucket.cluster.name
                if name not in members:
                    members[name] = _members(clusters.get(name))
                known = members[name]
                gone = known is not None and key not in known
                kept = []
                for connection in bucket.idle:
                    if gone or _expired(connection, bucket, now) or not connection.usable():
                        connection.close()
                    else:
                        kept.append(connection)
                bucket.idle = kept
                if not kept:
                    buckets.remove(bucket)
            if not buckets:
                del self._buckets[key]

    def close(self) -> None:
        """Close everything idle, and whatever is given back until somebody starts another request."""
        self.closed = True
        for buckets in self._buckets.values():
            for bucket in buckets:
                for connection in bucket.idle:
                    connection.close()
                bucket.idle.clear()
        self._buckets.clear()

    @property
    def idle(self) -> int:
        """How many connections wait."""
        return sum(len(bucket.idle) for buckets in self._buckets.values() for bucket in buckets)


def _members(cluster: Cluster | None) -> Container[tuple[str, int]] | None:
    """Where the cluster's connections may go; None for a passthrough cluster: wherever the application dials."""
    if cluster is None:
        return ()
    if cluster.kind is ClusterKind.PASSTHROUGH:
        return None
    return frozenset(endpoint.key for endpoint in cluster.endpoints)


def _expired(connection: Connection, bucket: Bucket[C], now: float) -> bool:
    timeout = bucket.cluster.idle_timeout
    return now - connection.idle_since > (IDLE_TIMEOUT if timeout is None else timeout)

"""One channel for each endpoint, kind of TLS, generation of the identity and, for grpcio, authority. Thread-safe."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from proxyless.engine.decision import PASSTHROUGH, dialled
from proxyless.engine.request import Request
from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import Cluster, ClusterKind, ConnectionOptions, Endpoint, Health, UpstreamTls
from proxyless.model.route import Forward
from proxyless.model.snapshot import EMPTY, Snapshot
from proxyless.transport.grpc_client.credentials import IDLE_TIMEOUT
from proxyless.transport.grpc_client.peer_name import Peer, ask, only_peer
from proxyless.transport.runtime import Runtime
from proxyless.transport.tls import generation_of

C = TypeVar("C")
Make = Callable[[Endpoint, Cluster, str, Peer | None], C]
_Key = tuple[tuple[str, int], UpstreamTls | None, str, ConnectionOptions | None]
# So many endpoints are connected to ahead of the first call.
MOST_AHEAD = 16


@dataclass(slots=True)
class Subchannel(Generic[C]):
    """calls: under way. taken: all that there were. retired: takes none any more, and is closed with its last."""

    channel: C
    key: _Key
    generation: int
    passthrough: bool = False
    calls: int = 0
    taken: int = 0
    used: float = 0.0
    retired: bool = False


class Subchannels(Generic[C]):
    """``take`` one for an attempt, ``done`` when its call has ended.

    make: a channel to an endpoint, for an authority and a peer. close: end one that has no calls. ours: the channels
    are for any authority, and follow their cluster's connection options; grpcio's are for one, and do not.
    """

    def __init__(self, runtime: Runtime, make: Make[C], close: Callable[[C], None], *, ours: bool = False) -> None:
        self._runtime = runtime
        self._make = make
        self._close = close
        self._ours = ours
        self._lock = threading.Lock()
        self._open: dict[_Key, Subchannel[C]] = {}
        self._peers: dict[tuple[tuple[str, int], UpstreamTls], Peer] = {}
        self._seen: Snapshot = EMPTY

    @property
    def identity(self) -> IdentitySource:
        return self._runtime.identity

    def peer(self, endpoint: Endpoint) -> Peer | None:
        """Who the endpoint must be, as far as that is known; ``learn`` asks it. Raises PeerUnknown."""
        tls = endpoint.tls
        if tls is None:
            return None
        return only_peer(endpoint, tls) or self._peers.get((endpoint.key, tls))

    def learn(self, endpoint: Endpoint, timeout: float) -> Peer:
        """Blocks for a handshake. Raises PeerUnknown."""
        assert endpoint.tls is not None
        peer = ask(endpoint, endpoint.tls, self.identity, timeout)
        self._peers[endpoint.key, endpoint.tls] = peer
        return peer

    def forget(self, endpoint: Endpoint) -> None:
        """It could not be connected to: it may be another than the one that was asked, so ask again."""
        if endpoint.tls is not None:
            with self._lock:
                if self._peers.pop((endpoint.key, endpoint.tls), None) is not None:
                    for one in [one for one in self._open.values() if one.key[:2] == (endpoint.key, endpoint.tls)]:
                        self._retire(one)

    def take(
        self, endpoint: Endpoint, cluster: Cluster, authority: str, peer: Peer | None = None, *, counted: bool = True
    ) -> Subchannel[C]:
        """peer: of ``peer`` or ``learn``, where grpcio is to verify one. counted: it is for a call, not for its
        connection. Raises what ``make`` raises.
        """
        tls, now = endpoint.tls, time.monotonic()
        generation = generation_of(self.identity, tls)
        with self._lock:
            self._sweep(now)
            key = self._key(endpoint, cluster, authority)
            found = self._open.get(key)
            if found is not None and found.generation != generation:
                # A new certificate or new trust: what is under way ends on the old connection.
                self._retire(found)
                found = None
            if found is None:
                made = self._make(endpoint, cluster, authority, peer)
                passes = cluster.kind is ClusterKind.PASSTHROUGH
                found = self._open[key] = Subchannel(made, key, generation, passes)
            found.calls += 1
            found.used = now
            if counted:
                found.taken += 1
                if found.taken == cluster.max_requests_per_connection:
                    self._retire(found)
            return found

    def done(self, subchannel: Subchannel[C]) -> None:
        with self._lock:
            subchannel.calls -= 1
            subchannel.used = time.monotonic()
            last = subchannel.retired and not subchannel.calls
        if last:
            self._close(subchannel.channel)

    def cold(self, snapshot: Snapshot, target: str) -> list[tuple[Cluster, Endpoint]]:
        """Endpoints that calls to ``target`` may go to, and that have no subchannel. None where there is only one: the
        first call connects to that itself.
        """
        found = ahead(snapshot, target, as_dialled=True)
        if len(found) <= 1:
            return []
        return [(one, endpoint) for one, endpoint in found if self._key(endpoint, one, target) not in self._open]

    def channels(self) -> list[C]:
        with self._lock:
            return [one.channel for one in self._open.values()]

    def close(self) -> list[C]:
        """Forget all; the caller closes what is returned: the channels that still have calls."""
        with self._lock:
            left = list(self._open.values())
            for one in left:
                self._retire(one)
        return [one.channel for one in left if one.calls]

    def _key(self, endpoint: Endpoint, cluster: Cluster, authority: str) -> _Key:
        return endpoint.key, endpoint.tls, "" if self._ours else authority, self._options(cluster)

    def _options(self, cluster: Cluster) -> ConnectionOptions | None:
        return cluster.connection_options if self._ours else None

    def _retire(self, one: Subchannel[C]) -> None:
        self._open.pop(one.key, None)
        one.retired = True
        if not one.calls:
            self._close(one.channel)

    def _sweep(self, now: float) -> None:
        """After each change of the world: endpoints that left get no call, and close with their last stream."""
        snapshot = self._runtime.snapshot()
        if snapshot is self._seen:
            return
        self._seen = snapshot
        present = {
            (endpoint.key, self._options(cluster))
            for cluster in snapshot.clusters.values()
            for endpoint in cluster.endpoints
        }
        for one in list(self._open.values()):
            left = (one.key[0], one.key[3]) not in present and not one.passthrough
            if left or (not one.calls and now - one.used > IDLE_TIMEOUT):
                self._retire(one)


def ahead(snapshot: Snapshot, target: str, *, as_dialled: bool = False) -> list[tuple[Cluster, Endpoint]]:
    """Endpoints that calls to ``target`` may go to, by its routes, or itself if the mesh does not know it.

    as_dialled: without those of routes that change the authority, which have connections of their own.
    """
    if target not in snapshot.listeners:
        return []
    listener = snapshot.listeners[target]
    if listener is None:
        return [(PASSTHROUGH, dialled(Request("POST", target, "/")))]
    if listener.virtual_host is None:
        return []
    names = {
        leg.cluster: None
        for route in listener.virtual_host.routes
        if isinstance(route.action, Forward)
        for leg in route.action.clusters
        if leg.weight and not (as_dialled and (route.action.host_rewrite or leg.host_rewrite))
    }
    found = [
        (cluster, endpoint)
        for name in names
        if (cluster := snapshot.clusters.get(name)) is not None
        for endpoint in cluster.endpoints
        if endpoint.health in (Health.HEALTHY, Health.DEGRADED)
    ]
    return found[:MOST_AHEAD]

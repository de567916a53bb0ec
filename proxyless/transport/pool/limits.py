"""How many connections a process may have to a cluster, and how many requests may wait for one.

Envoy's circuit breakers max_connections and max_pending_requests, as its connection pools hold them: an endpoint to
which a pool has no connection may always have one, so that what waits for it can end; a request is pending from the
moment it finds no connection until it has one.
"""

import enum
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from proxyless.model.cluster import Cluster
from proxyless.transport.http1.errors import PoolOverflow
from proxyless.transport.pool import fork
from proxyless.transport.runtime import Runtime


class Queue(Protocol):
    """A pool's connections to one endpoint: how many there are, and who waits for one of them, in order."""

    connections: int
    waiting: "OrderedDict[Waiter, None]"


class Grant(enum.Enum):
    """What a waiter can get beside a connection."""

    AGAIN = "again"  # look once more what there is
    CONNECT = "connect"  # make a connection; it is counted already


class Waiter:
    """A request without a connection. granted: what it got, None while it waits."""

    __slots__ = ("gate", "granted", "queue", "wake")

    def __init__(self, gate: "Gate", queue: Queue) -> None:
        self.gate = gate
        self.queue = queue
        self.wake: Callable[[], None] | None = None
        self.granted: Any = None


class Gate:
    """Of one cluster, for all pools of a runtime. Each method is O(1) and thread-safe."""

    __slots__ = ("_lock", "_waiting", "connections", "limit", "pending")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock  # of all gates: clusters may share a queue
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.limit: int | None = None
        self.connections = self.pending = 0

    def enter(self, cluster: Cluster) -> None:
        """A request has no connection. Raises PoolOverflow; otherwise ``leave`` follows."""
        with self._lock:
            most = cluster.max_pending_requests
            if most is not None and self.pending >= most:
                raise PoolOverflow(f"{self.pending} requests wait for a connection, {most} may (max_pending_requests)")
            self.pending += 1
            self.limit = cluster.max_connections
            self._admit()

    def leave(self) -> None:
        with self._lock:
            self.pending -= 1

    def wait_or_connect(self, waiter: Waiter) -> bool:
        """True: connect; it counts already. False: the limit is reached, and the waiter waits in its queue's order."""
        with self._lock:
            if self._free() or not waiter.queue.connections:
                self._count(waiter.queue)
                return True
            self._waiting[waiter] = None
            waiter.queue.waiting[waiter] = None
            return False

    def wait(self, waiter: Waiter) -> None:
        """For a connection that somebody makes already: nothing of its own is asked for."""
        with self._lock:
            waiter.queue.waiting[waiter] = None

    def subscribe(self, waiter: Waiter, wake: Callable[[], None]) -> bool:
        """Call ``wake``, from any thread, when the waiter is granted something. True: it was already."""
        with self._lock:
            waiter.wake = wake
            return waiter.granted is not None

    def withdraw(self, waiter: Waiter) -> Any:
        """The waiter gives up. Returns what it was granted meanwhile, which must be given back; None for nothing."""
        with self._lock:
            self._remove(waiter)
            return waiter.granted

    def hand_all(self, queue: Queue, make: Callable[[], object]) -> None:
        """Give everybody who waits in the queue now something of their own."""
        with self._lock:
            for waiter in list(queue.waiting):
                self._grant(waiter, make())

    def hand(self, queue: Queue, found: object) -> bool:
        """Give ``found``, a connection or an exception, to who waits longest in the queue. False when nobody does."""
        with self._lock:
            if not queue.waiting:
                return False
            self._grant(next(iter(queue.waiting)), found)
            return True

    def connect_ahead(self, queue: Queue) -> bool:
        """Whether a connection that nobody waits for may be made; it is counted then."""
        with self._lock:
            if not self._free():
                return False
            self._count(queue)
            return True

    def closed(self, queue: Queue) -> None:
        """A connection that was counted has ended, or was not made after all."""
        with self._lock:
            self.connections -= 1
            queue.connections -= 1
            self._admit()
            if not queue.connections and queue.waiting:
                self._connect(next(iter(queue.waiting)))

    def _free(self) -> bool:
        return self.limit is None or self.connections < self.limit

    def _admit(self) -> None:
        while self._waiting and self._free():
            self._connect(next(iter(self._waiting)))

    def _connect(self, waiter: Waiter) -> None:
        if waiter in waiter.gate._waiting:
            waiter.gate._count(waiter.queue)
            self._grant(waiter, Grant.CONNECT)
        else:
            self._grant(waiter, Grant.AGAIN)

    def _count(self, queue: Queue) -> None:
        self.connections += 1
        queue.connections += 1

    def _grant(self, waiter: Waiter, found: object) -> None:
        self._remove(waiter)
        waiter.granted = found
        if waiter.wake is not None:
            waiter.wake()

    def _remove(self, waiter: Waiter) -> None:
        waiter.gate._waiting.pop(waiter, None)
        waiter.queue.waiting.pop(waiter, None)


class Gates:
    """The gates of a runtime, by cluster."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._lock = threading.Lock()
        fork.watch(self)

    def of(self, cluster: str) -> Gate:
        gate = self._gates.get(cluster)
        return gate if gate is not None else self._gates.setdefault(cluster, Gate(self._lock))

    def forget(self) -> tuple[()]:
        """See ``fork``: a child has none of its parent's connections, and the locks may be held by nobody."""
        self._gates = {}
        self._lock = threading.Lock()
        return ()


_gates: "weakref.WeakKeyDictionary[Runtime, Gates]" = weakref.WeakKeyDictionary()


def gates_of(runtime: Runtime) -> Gates:
    """Limits are the process's: all transports of a runtime share them."""
    return _gates.setdefault(runtime, Gates())


class Place:
    """One counted connection's part of a limit; given back once, by whoever notices its end first."""

    __slots__ = ("_gate", "_queue")

    def __init__(self, gate: Gate, queue: Queue) -> None:
        self._gate: Gate | None = gate
        self._queue = queue

    def leave(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.closed(self._queue)

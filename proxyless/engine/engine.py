"""The engine: decides for every request of a process. One is enough; it is called from any number of threads and
event loops.

No lock is taken but a rate limit's. What calls share is either frozen (the snapshot), or changed only by single C
operations that are atomic by themselves (see ``engine.balance.state`` and ``engine.identity_cache``).
"""

import random
import time
from collections.abc import Callable

from proxyless.engine.balance.state import ClusterStates
from proxyless.engine.call import Call
from proxyless.engine.decision import Known, decide
from proxyless.engine.rate_limit import RateLimiter
from proxyless.engine.request import Request
from proxyless.model.cluster import Cluster
from proxyless.model.errors import NotReadyError
from proxyless.model.snapshot import Snapshot


class Engine:
    """clock: monotonic seconds. rng: the source of every draw; give a seeded one for a repeatable run."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._own_rng = rng is None
        self._rng = rng if rng is not None else random.Random()  # noqa: S311  nothing secret is drawn
        self._states = ClusterStates(self._rng)
        self._known = Known()
        self._limiter = RateLimiter(clock, self._rng)

    def call(self, snapshot: Snapshot, request: Request) -> Call:
        """Match the route and draw the split for one request.

        A target whose listener is None goes to the dialled address as it is. Raises NotReadyError for a target that
        is not in the snapshot: the transport resolves it first.
        """
        try:
            listener = snapshot.listeners[request.target]
        except KeyError:
            raise NotReadyError(f"target {request.target} has not been resolved yet") from None
        decision = decide(snapshot, listener, request, self._known, self._rng)
        call = Call(request, decision, self._states, self._clock, self._rng)
        if decision.rate_limit is not None:
            call.limited(self._limiter)
        return call

    def prepare(self, snapshot: Snapshot) -> None:
        """Make the tables of clusters that balance by hash before a request needs them; a Maglev table takes 0.1 s."""
        for cluster in snapshot.clusters.values():
            if cluster.hashing is not None:
                now = self._clock()
                self._states.get(cluster.name, now).plan(cluster, now)

    def ejected(self, cluster: Cluster) -> frozenset[tuple[str, int]]:
        """The keys of a cluster's endpoints that outlier detection leaves out now."""
        state = self._states.peek(cluster.name)
        return state.ejected(cluster, self._clock()) if state is not None else frozenset()

    def active_requests(self, cluster: str, endpoint: tuple[str, int]) -> int:
        """How many requests of this process an endpoint of a cluster has in flight."""
        state = self._states.peek(cluster)
        return state.active(endpoint) if state is not None else 0

    def after_fork(self) -> None:
        """In a forked child: forget the parent's requests in flight, and stop drawing the numbers that its siblings
        draw.
        """
        if self._own_rng:
            self._rng.seed()
        self._states.clear()
        self._limiter.clear()

"""What the balancer knows of a cluster beyond one snapshot: requests in flight, places in rotations.

Kept by cluster name and endpoint key, so a snapshot swap carries it over. No lock: each operation on shared state is
one C call on a dict, set or counter. A race can at most cost a rotation one step or rebuild a plan twice.
"""

import itertools
import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from proxyless.engine.balance.hash_table import HashTable, TableKey
from proxyless.engine.balance.load_weights import NO_WEIGHTS, LoadWeights
from proxyless.engine.balance.outliers import NOBODY, Key, Outliers
from proxyless.engine.balance.plan import Plan, TickKey
from proxyless.engine.steps import Outcome
from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.load_report import LoadReport


class Hold:
    """One request, or one retry, in flight: a member of ``sets``. ``release`` may be called again; it counts once."""

    __slots__ = ("_sets",)

    def __init__(self, *sets: "set[Hold]") -> None:
        self._sets = sets
        for one in sets:
            one.add(self)

    def release(self) -> None:
        for one in self._sets:
            one.discard(self)


_UNCOUNTED = Hold()
# Hash tables that a cluster keeps: of its priorities, and of the endpoints it had before.
_TABLES = 8


class ClusterState:
    __slots__ = (
        "_holders",
        "_in_flight",
        "_loads",
        "_outliers",
        "_plan",
        "_retries",
        "_rng",
        "_tables",
        "_ticks",
        "last_used",
    )

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._plan: Plan | None = None
        # Sets of holds, not numbers: adding to a set is atomic, ``number += 1`` is not, and a hold cannot be released
        # twice.
        self._holders: dict[Key, set[Hold]] = {}
        # Requests to any endpoint, of clusters that limit them, and retries decided on and not yet answered.
        self._in_flight: set[Hold] = set()
        self._retries: set[Hold] = set()
        self._tables: dict[TableKey, HashTable] = {}
        self._ticks: dict[TickKey, Iterator[int]] = {}
        self._outliers: Outliers | None = None
        self._loads: LoadWeights | None = None
        self.last_used = now

    def plan(self, cluster: Cluster, now: float) -> Plan:
        ejected = NOBODY if self._outliers is None else self.ejected(cluster, now)
        asked = cluster.load_weighting
        by_load = None
        if asked is not None:
            by_load = NO_WEIGHTS if self._loads is None else self._loads.weights(asked, now)
        plan = self._plan
        if plan is None or plan.cluster is not cluster or plan.ejected is not ejected or plan.by_load is not by_load:
            if plan is None or plan.cluster is not cluster:
                self._forget_gone(cluster)
            plan = self._plan = Plan(cluster, self._rotation, self._table, ejected, by_load)
        return plan

    def loaded(self, cluster: Cluster, endpoint: Endpoint, report: LoadReport, now: float) -> None:
        """What an endpoint says of its load, for clusters that balance by it."""
        if cluster.load_weighting is not None:
            if self._loads is None:
                self._loads = LoadWeights()
            self._loads.report(cluster.load_weighting, endpoint.key, report, now)

    def report(self, cluster: Cluster, endpoint: Endpoint, outcome: Outcome, now: float, *, grpc: bool = False) -> None:
        """What became of an attempt, for outlier detection."""
        asked = cluster.outlier_detection
        if asked is None:
            return
        if self._outliers is None:
            self._outliers = Outliers(self._rng, now)
        plan = self._plan
        hosts = plan.size if plan is not None and plan.cluster is cluster else len(cluster.endpoints)
        self._outliers.report(asked, endpoint.key, outcome, hosts=hosts, now=now, grpc=grpc)

    def ejected(self, cluster: Cluster, now: float) -> frozenset[Key]:
        """Endpoints that outlier detection leaves out now."""
        if cluster.outlier_detection is None or self._outliers is None:
            return NOBODY
        self._outliers.sweep(cluster.outlier_detection, now)
        return self._outliers.ejected

    def active(self, key: Key) -> int:
        holders = self._holders.get(key)
        return len(holders) if holders is not None else 0

    @property
    def busy(self) -> bool:
        return any(list(self._holders.values()))

    def hold(self, endpoint: Endpoint, *, counted: bool = False) -> Hold:
        """Counts a request on an endpoint, and if ``counted`` on the cluster, until the hold is released."""
        holders = self._holders.get(endpoint.key)
        if holders is None:
            holders = self._holders.setdefault(endpoint.key, set())
        return Hold(holders, self._in_flight) if counted else Hold(holders)

    def full(self, cluster: Cluster) -> bool:
        """Whether one more request would exceed max_requests. Like Envoy's, the limit may be passed by a race."""
        return cluster.max_requests is not None and len(self._in_flight) >= cluster.max_requests

    def hold_retry(self, cluster: Cluster) -> Hold | None:
        """Counts a retry until the hold is released; None when max_retries or the retry budget has no room.

        Envoy: from the decision to retry, so with its back-off, until the retry's response head.
        """
        limit = cluster.max_retries
        if (budget := cluster.retry_budget) is not None:
            limit = max(budget.minimum, int(len(self._in_flight) * budget.percent / 100))
        if limit is None:
            return _UNCOUNTED
        return Hold(self._retries) if len(self._retries) < limit else None

    def pick(
        self,
        cluster: Cluster,
        avoid: AbstractSet[Key] = frozenset(),
        attempts: int = 0,
        value: int | None = None,
        now: float = 0.0,
    ) -> Endpoint | None:
        """An endpoint, or None when none is usable.

        avoid: endpoints already tried (Envoy's previous_hosts predicate). The balancer is asked up to ``attempts``
        more times for another; then, unlike Envoy, any usable endpoint that was not tried is taken: a least-request
        balancer would go on offering the dead host, because nothing is in flight there.
        value: the request's hash, for clusters that balance by it.
        """
        plan = self.plan(cluster, now)
        endpoint = plan.pick(self._rng, self.active, value)
        if endpoint is None or endpoint.key not in avoid:
            return endpoint
        for attempt in range(1, attempts + 1):
            again = plan.pick(self._rng, self.active, value, attempt)
            if again is not None and again.key not in avoid:
                return again
        others = [other for other in plan.usable if other.key not in avoid]
        return others[int(self._rng.random() * len(others))] if others else endpoint

    def _rotation(self, key: TickKey) -> Iterator[int]:
        ticks = self._ticks.get(key)
        if ticks is None:
            # A random start, as Envoy's: many clients must not all begin with the same endpoint.
            start = int(self._rng.random() * 65536)
            ticks = self._ticks.setdefault(key, itertools.count(start))
        return ticks

    def _table(self, key: TableKey) -> HashTable:
        """A table outlives the snapshot it was made for: most changes are not of a cluster's endpoints."""
        table = self._tables.get(key)
        if table is None:
            table = key.build()
            # A few are kept: an endpoint that goes and comes back soon finds its table.
            kept = list(self._tables.items())[-_TABLES + 1 :]
            self._tables = {**dict(kept), key: table}
        return table

    def _forget_gone(self, cluster: Cluster) -> None:
        known = {endpoint.key for endpoint in cluster.endpoints}
        for key, holders in list(self._holders.items()):
            if key not in known and not holders:
                self._holders.pop(key, None)
        if self._outliers is not None:
            self._outliers.forget(known)
        if self._loads is not None:
            self._loads.forget(known)
        if len(self._ticks) > 64 + 4 * len(cluster.localities):
            self._ticks = {}


class ClusterStates:
    """The states of all clusters in use, by name. One unused for ``keep`` seconds with nothing in flight is dropped."""

    def __init__(self, rng: random.Random, keep: float = 600.0) -> None:
        self._rng = rng
        self._keep = keep
        self._states: dict[str, ClusterState] = {}

    def get(self, name: str, now: float) -> ClusterState:
        state = self._states.get(name)
        if state is None:
            # New names are rare: the moment to look for old ones.
            self._sweep(now)
            state = self._states.setdefault(name, ClusterState(self._rng, now))
        state.last_used = now
        return state

    def peek(self, name: str) -> ClusterState | None:
        return self._states.get(name)

    def clear(self) -> None:
        self._states = {}

    def __len__(self) -> int:
        return len(self._states)

    def _sweep(self, now: float) -> None:
        for name, state in list(self._states.items()):
            if now - state.last_used > self._keep and not state.busy:
                self._states.pop(name, None)

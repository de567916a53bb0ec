import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from engine_world import binomial_bound, cluster, endpoints

from proxyless.engine.balance.hosts import Stride
from proxyless.engine.balance.priority import Availability, Load, share_load
from proxyless.engine.balance.state import ClusterState, ClusterStates
from proxyless.model.cluster import Cluster, Endpoint, Health, LoadBalancer, Locality, LocalityEndpoints

ROUND_ROBIN, LEAST_REQUEST, RANDOM = LoadBalancer.ROUND_ROBIN, LoadBalancer.LEAST_REQUEST, LoadBalancer.RANDOM


def state(seed: int = 1) -> ClusterState:
    return ClusterState(random.Random(seed), 0.0)


def picks(of: ClusterState, what: Cluster, count: int) -> list[int]:
    found = []
    for _ in range(count):
        endpoint = of.pick(what)
        assert endpoint is not None
        found.append(endpoint.port - 8000)
    return found


def weighted(*weights: int) -> tuple[Endpoint, ...]:
    return tuple(
        replace(endpoint, weight=weight) for endpoint, weight in zip(endpoints(len(weights)), weights, strict=True)
    )


def test_round_robin_takes_turns_from_a_random_start() -> None:
    what = cluster(hosts=endpoints(3))
    order = picks(state(), what, 9)
    assert sorted(order[:3]) == [1, 2, 3]
    assert order == order[:3] * 3
    assert {picks(state(seed), what, 1)[0] for seed in range(20)} == {1, 2, 3}


@pytest.mark.parametrize("weights", [(1, 2), (5, 1, 1), (3, 3, 2), (1, 1000), (7, 11, 13, 17), (2**32 - 1, 2**31)])
def test_weighted_round_robin_is_exact_and_smooth(weights: tuple[int, ...]) -> None:
    stride, ticks, turns = Stride(weights), itertools.count(17), 30_000
    order = [stride.pick(ticks) for _ in range(turns)]
    counts = Counter(order)
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        assert counts[index] == pytest.approx(share * turns, rel=0.01, abs=2)
        if share * turns > 10:
            # Smooth: no gap between two turns is more than about twice the fair one.
            places = [place for place, chosen in enumerate(order) if chosen == index]
            assert max(b - a for a, b in itertools.pairwise(places)) <= 2 / share + len(weights)


def test_rotation_goes_on_over_a_change_of_endpoints() -> None:
    of, hosts = state(), endpoints(4)
    before = picks(of, cluster(hosts=hosts), 2)
    after = picks(of, cluster(hosts=hosts), 2)
    assert sorted(before + after) == [1, 2, 3, 4]


@pytest.mark.parametrize("balancer", list(LoadBalancer))
def test_draining_and_unhealthy_get_nothing(balancer: LoadBalancer) -> None:
    good, draining, sick = endpoints(3)
    hosts = (good, replace(draining, health=Health.DRAINING), replace(sick, health=Health.UNHEALTHY))
    assert set(picks(state(), cluster(hosts=hosts, load_balancer=balancer), 50)) == {1}


@pytest.mark.parametrize(
    "localities",
    [(), (LocalityEndpoints(()),), (LocalityEndpoints(endpoints(2, health=Health.UNHEALTHY)),)],
)
def test_nothing_usable(localities: tuple[LocalityEndpoints, ...]) -> None:
    assert state().pick(Cluster("v1", localities=localities)) is None


def test_least_request_prefers_the_idle_one() -> None:
    of, hosts = state(), endpoints(2)
    what = cluster(hosts=hosts, load_balancer=LEAST_REQUEST)
    holds = [of.hold(hosts[0]) for _ in range(3)]
    assert of.active(hosts[0].key) == 3
    assert set(picks(of, what, 20)) == {2}
    for hold in (*holds, *holds):
        hold.release()
    assert of.active(hosts[0].key) == 0
    assert set(picks(of, what, 40)) == {1, 2}


def test_least_request_evens_out_requests_in_flight() -> None:
    of, hosts = state(3), endpoints(5)
    what = cluster(hosts=hosts, load_balancer=LEAST_REQUEST)
    for _ in range(500):
        endpoint = of.pick(what)
        assert endpoint is not None
        of.hold(endpoint)
    counts = [of.active(host.key) for host in hosts]
    assert max(counts) - min(counts) <= 5


@pytest.mark.parametrize(
    ("balancer", "weights", "shares"),
    [
        (LEAST_REQUEST, (1, 1), (0.5, 0.5)),
        (LEAST_REQUEST, (3, 1), (0.75, 0.25)),
        (RANDOM, (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
        # Envoy's RANDOM knows no endpoint weights.
        (RANDOM, (9, 1), (0.5, 0.5)),
    ],
)
def test_shares_of_an_idle_cluster(balancer: LoadBalancer, weights: tuple[int, ...], shares: tuple[float, ...]) -> None:
    draws = 6000
    counts = Counter(picks(state(5), cluster(hosts=weighted(*weights), load_balancer=balancer), draws))
    for number, share in enumerate(shares, start=1):
        assert abs(counts[number] - share * draws) <= binomial_bound(share, draws)


def test_weighted_least_request_under_load_follows_the_weights() -> None:
    of, hosts = state(5), weighted(4, 1)
    what = cluster(hosts=hosts, load_balancer=LEAST_REQUEST)
    for _ in range(500):
        endpoint = of.pick(what)
        assert endpoint is not None
        of.hold(endpoint)
    assert of.active(hosts[0].key) == pytest.approx(400, abs=25)


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [
        ([Availability(0, 0, 0)], None),
        ([Availability(0, 0, 5)], None),
        ([Availability(1, 0, 1)], Load((100,), (0,))),
        # Envoy's own table (Priority levels): 72% of P0 healthy is enough, below it spills.
        ([Availability(72, 0, 100), Availability(100, 0, 100)], Load((100, 0), (0, 0))),
        ([Availability(71, 0, 100), Availability(71, 0, 100)], Load((99, 1), (0, 0))),
        ([Availability(50, 0, 100), Availability(60, 0, 100)], Load((70, 30), (0, 0))),
        ([Availability(25, 0, 100), Availability(100, 0, 100)], Load((35, 65), (0, 0))),
        # In all less than 100% available: the shares are scaled up.
        ([Availability(25, 0, 100), Availability(25, 0, 100)], Load((50, 50), (0, 0))),
        # 7% and 92% after division: the first priority gets what rounding lost.
        ([Availability(5, 0, 100), Availability(65, 0, 100)], Load((8, 92), (0, 0))),
        # Degraded endpoints take what healthy ones of any priority cannot.
        ([Availability(50, 50, 100)], Load((70,), (30,))),
        ([Availability(50, 50, 100), Availability(100, 0, 100)], Load((70, 30), (0, 0))),
        ([Availability(0, 3, 3)], Load((0,), (100,))),
        # One usable endpoint of very many stays reachable.
        ([Availability(1, 0, 1000)], Load((100,), (0,))),
    ],
)
def test_load_of_priorities(priorities: list[Availability], expected: Load | None) -> None:
    assert share_load(priorities) == expected


def test_spill_to_the_next_priority() -> None:
    first = (*endpoints(1), *endpoints(1, first=2, health=Health.UNHEALTHY))
    what = Cluster(
        "v1",
        localities=(LocalityEndpoints(endpoints(2, first=3), priority=1), LocalityEndpoints(first, priority=0)),
    )
    draws = 5000
    counts = Counter(picks(state(2), what, draws))
    assert counts[2] == 0
    for number, share in ((1, 0.7), (3, 0.15), (4, 0.15)):
        assert abs(counts[number] - share * draws) <= binomial_bound(share, draws)


def test_localities_share_by_weight_and_availability() -> None:
    def locality(zone: str, first: int, count: int, weight: int, sick: int = 0) -> LocalityEndpoints:
        hosts = endpoints(count, first=first) + endpoints(sick, first=first + count, health=Health.UNHEALTHY)
        return LocalityEndpoints(hosts, Locality("r", zone), weight=weight)

    both = Cluster("v1", localities=(locality("a", 1, 2, 3), locality("b", 3, 1, 1)))
    counts = Counter(picks(state(), both, 4000))
    assert counts[3] == pytest.approx(1000, abs=10)
    assert counts[1] == pytest.approx(counts[2], abs=2)

    # Half of b is gone: it counts 1.4 * 0.5 of its weight. c has no weight beside those that have.
    half = Cluster("v1", localities=(locality("a", 1, 1, 7), locality("b", 2, 1, 10, sick=1), locality("c", 5, 1, 0)))
    counts = Counter(picks(state(), half, 4000))
    assert counts == {1: pytest.approx(2000, abs=20), 2: pytest.approx(2000, abs=20)}


@pytest.mark.parametrize("balancer", list(LoadBalancer))
def test_a_retry_avoids_what_was_tried(balancer: LoadBalancer) -> None:
    hosts = endpoints(3)
    what = cluster(hosts=hosts, load_balancer=balancer)
    tried = {hosts[0].key, hosts[2].key}
    for seed in range(40):
        of = state(seed)
        # The tried ones are idle, the other is busy: a least-request balancer left to itself would not choose it.
        of.hold(hosts[1])
        endpoint = of.pick(what, tried, attempts=1)
        assert endpoint is hosts[1]
    everything = {host.key for host in hosts}
    assert state().pick(what, everything, attempts=5) in hosts


def test_state_outlives_snapshots_and_forgets_what_is_gone() -> None:
    of, hosts = state(), endpoints(2)
    first = cluster(hosts=hosts)
    hold = of.hold(hosts[0])
    of.hold(hosts[1]).release()
    assert of.pick(first) is not None
    gone = cluster(hosts=endpoints(1, first=9))
    assert of.pick(gone) is not None
    assert of.active(hosts[0].key) == 1
    hold.release()
    assert of.pick(first) is not None
    assert of.pick(gone) is not None
    assert of._holders == {}
    assert not of.busy


def test_clusters_unused_for_long_are_forgotten() -> None:
    states = ClusterStates(random.Random(1), keep=60.0)
    old, busy = states.get("old", 0.0), states.get("busy", 0.0)
    busy.hold(endpoints(1)[0])
    assert states.get("old", 30.0) is old
    states.get("new", 95.0)
    assert states.peek("old") is None
    assert states.peek("busy") is busy
    assert len(states) == 2

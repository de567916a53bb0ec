"""Outlier detection: endpoints that fail again and again are left out, and come back."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from engine_world import (
    OK,
    REFUSED,
    RESET,
    TARGET,
    Clock,
    attempts,
    cluster,
    endpoints,
    engine,
    forward,
    reply,
    request,
    run,
    world,
)

from proxyless.engine.balance.outliers import Outliers
from proxyless.engine.balance.state import ClusterState
from proxyless.engine.explain import explain
from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Failed, FailureKind, Flag, Outcome
from proxyless.model.cluster import Cluster, Endpoint, Health, LocalityEndpoints, OutlierDetection

KEY = ("10.0.0.1", 1)
FAILS, GATEWAY = Answered(500, []), Answered(503, [])
TIMEOUT = Failed(FailureKind.TIMEOUT, "")
OVERFLOW = Failed(FailureKind.OVERFLOW, "")
ALL = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100)


def detector(now: float = 0.0) -> Outliers:
    return Outliers(random.Random(1), now)


def told(
    asked: OutlierDetection, *outcomes: Outcome, hosts: int = 1, now: float = 0.0, grpc: bool = False
) -> frozenset[tuple[str, int]]:
    of = detector()
    for outcome in outcomes:
        of.report(asked, KEY, outcome, hosts=hosts, now=now, grpc=grpc)
    return of.ejected


GATEWAYS = replace(ALL, consecutive_5xx=0, consecutive_gateway_failure=2, enforcing_gateway_failure=100)
SPLIT = replace(ALL, split_local_origin=True, consecutive_local_origin_failure=2)


@pytest.mark.parametrize(
    ("asked", "outcomes", "out"),
    [
        (ALL, [FAILS], False),
        (ALL, [FAILS, FAILS], True),
        (ALL, [FAILS, OK, FAILS], False),
        (ALL, [FAILS, GATEWAY], True),
        # Without a response it is a 503, or a 504.
        (ALL, [REFUSED, RESET], True),
        (ALL, [TIMEOUT, FAILS], True),
        (ALL, [OVERFLOW, OVERFLOW, OVERFLOW], False),
        (ALL, [FAILS, OVERFLOW, FAILS], True),
        (replace(ALL, consecutive_5xx=0), [FAILS] * 9, False),
        (replace(ALL, enforcing_5xx=0), [FAILS] * 9, False),
        (GATEWAYS, [GATEWAY, GATEWAY], True),
        (GATEWAYS, [GATEWAY, FAILS, GATEWAY], False),
        (GATEWAYS, [REFUSED, TIMEOUT], True),
        (GATEWAYS, [FAILS] * 9, False),
        (replace(GATEWAYS, enforcing_gateway_failure=0), [GATEWAY] * 9, False),
        (SPLIT, [REFUSED, TIMEOUT], True),
        (SPLIT, [REFUSED, FAILS, REFUSED], False),
        (SPLIT, [FAILS, REFUSED, FAILS], True),
        (replace(SPLIT, consecutive_local_origin_failure=0), [REFUSED] * 9, False),
    ],
)
def test_what_counts(asked: OutlierDetection, outcomes: list[Outcome], out: bool) -> None:
    assert told(asked, *outcomes) == ({KEY} if out else set())


@pytest.mark.parametrize(
    ("status", "out"), [("0", False), ("14", True), ("13", True), ("5", False), ("4", True), ("x", True)]
)
def test_a_grpc_status_counts_as_the_http_status_it_stands_for(status: str, out: bool) -> None:
    answer = Answered(200, [("grpc-status", status)])
    assert bool(told(ALL, answer, answer, grpc=True)) is out
    assert not told(ALL, answer, answer)


@pytest.mark.parametrize(
    ("percent", "always", "hosts", "expected"),
    [(10, False, 9, 0), (10, False, 10, 1), (10, True, 3, 1), (50, False, 5, 2), (100, False, 5, 5), (0, False, 5, 0)],
)
def test_only_so_many_are_out_at_a_time(percent: int, always: bool, hosts: int, expected: int) -> None:
    asked, of = replace(ALL, max_ejection_percent=percent, always_eject_one=always), detector()
    for port in range(hosts):
        for _ in range(2):
            of.report(asked, ("10.0.0.1", port), FAILS, hosts=hosts, now=0.0)
    assert len(of.ejected) == expected


def ejected_until(of: Outliers, asked: OutlierDetection, ejected_at: float, looks: Iterable[float]) -> float:
    """Ejects the endpoint and gives the first of ``looks`` at which it is back."""
    for _ in range(asked.consecutive_5xx):
        of.report(asked, KEY, FAILS, hosts=1, now=ejected_at)
    assert of.ejected == {KEY}
    for now in looks:
        of.sweep(asked, now)
        if not of.ejected:
            return now
    raise AssertionError("never back")


@pytest.mark.parametrize("step", [1, 7, 10, 100_000])
def test_an_ejection_ends_at_the_sweep_after_its_time_and_lasts_longer_each_time(step: int) -> None:
    asked = replace(ALL, interval=10.0, base_ejection_time=25.0, max_ejection_time=60.0)
    of = detector()
    # Sweeps at 10, 20, ...: after 25 seconds the next is at 30.
    first = ejected_until(of, asked, 0.0, range(0, 10**6, step))
    assert first == (30 if step in (1, 10) else (35 if step == 7 else 100_000))
    if step != 1:
        return
    # At once again: twice as long, then the most there is.
    assert ejected_until(of, asked, 30.0, range(30, 1000)) == 80
    assert ejected_until(of, asked, 80.0, range(80, 1000)) == 140
    # Each quiet sweep takes one ejection back.
    of.sweep(asked, 1000.0)
    assert ejected_until(of, asked, 1000.0, range(1000, 2000)) == 1030


def test_sweeps_made_up_for_later_have_the_same_result() -> None:
    asked = replace(ALL, interval=10.0, base_ejection_time=25.0, max_ejection_time=300.0)
    often, seldom = detector(), detector()
    for of, looks in ((often, range(60)), (seldom, (59,))):
        for _ in range(2):
            of.report(asked, KEY, FAILS, hosts=1, now=0.0)
        for now in looks:
            of.sweep(asked, float(now))
        assert not of.ejected
        # Back at 30, quiet sweeps at 40 and 50: the next ejection is a first one again.
        assert ejected_until(of, asked, 60.0, range(60, 200)) == 90


def test_what_is_gone_is_forgotten() -> None:
    of = ClusterState(random.Random(1), 0.0)
    hosts = endpoints(3)
    what = cluster(hosts=hosts, outlier_detection=ALL)
    for _ in range(2):
        of.report(what, hosts[0], FAILS, 0.0)
    assert of.ejected(what, 0.0) == {hosts[0].key}
    of.pick(replace(what, localities=(LocalityEndpoints(hosts[1:]),)))
    of.pick(what)
    assert of.ejected(what, 0.0) == set()


# ---- in calls


def call(mesh: object, snapshot: object, *outcomes: Outcome) -> Endpoint:
    (attempt,) = attempts(run(mesh.call(snapshot, request()), *outcomes))  # type: ignore[attr-defined]
    endpoint: Endpoint = attempt.endpoint
    return endpoint


def test_an_ejected_endpoint_gets_nothing_until_it_is_back_whatever_the_snapshot() -> None:
    clock = Clock()
    mesh, hosts = engine(clock=clock), endpoints(3)
    asked = replace(ALL, interval=10.0, base_ejection_time=30.0)

    def fresh() -> object:
        return world(forward(), clusters=[cluster(hosts=hosts, outlier_detection=asked)])

    snapshot = fresh()
    bad = hosts[1]
    for _ in range(12):
        step = (one := mesh.call(snapshot, request())).next_step()  # type: ignore[arg-type]
        assert isinstance(step, Attempt)
        one.report(FAILS if step.endpoint is bad else OK)
        one.finish()
    for now in (0, 29):
        clock.now = 1000.0 + now
        assert Counter(call(mesh, fresh(), OK).port for _ in range(30)).keys() == {hosts[0].port, hosts[2].port}
    clock.now = 1041.0
    assert bad.port in {call(mesh, fresh(), OK).port for _ in range(30)}


def test_when_all_are_out_there_is_no_healthy_upstream_unless_a_minimum_is_asked_for() -> None:
    for threshold, works in ((0.0, False), (50.0, True)):
        what = cluster(hosts=endpoints(2), outlier_detection=ALL, panic_threshold=threshold)
        mesh, snapshot = engine(), world(forward(), clusters=[what])
        for _ in range(4):
            call(mesh, snapshot, FAILS)
        steps = run(mesh.call(snapshot, request()), *([OK] if works else []))
        if works:
            assert len(attempts(steps)) == 1
        else:
            assert reply(steps).flags == (Flag.NO_HEALTHY_UPSTREAM,)


@pytest.mark.parametrize(
    ("healthy", "threshold", "used"),
    [(1, 0.0, 1), (1, 25.0, 1), (1, 26.0, 4), (2, 50.0, 2), (2, 51.0, 4), (3, 100.0, 3), (0, 0.0, 0), (0, 1.0, 4)],
)
def test_panic(healthy: int, threshold: float, used: int) -> None:
    hosts = endpoints(healthy) + endpoints(4 - healthy, first=1 + healthy, health=Health.UNHEALTHY)
    what = cluster(hosts=hosts, panic_threshold=threshold)
    of = ClusterState(random.Random(1), 0.0)
    assert len({one.port for _ in range(40) if (one := of.pick(what)) is not None}) == used


def test_no_panic_while_another_priority_takes_the_load() -> None:
    sick = LocalityEndpoints(endpoints(2, health=Health.UNHEALTHY))
    well = LocalityEndpoints(endpoints(2, first=5), priority=1)
    what = Cluster("v1", localities=(sick, well), panic_threshold=100.0)
    of = ClusterState(random.Random(1), 0.0)
    assert {one.port for _ in range(40) if (one := of.pick(what)) is not None} == {8005, 8006}


def test_failover_to_the_next_priority_when_the_nearest_are_ejected() -> None:
    near, far = endpoints(2), endpoints(2, first=5)
    what = Cluster(
        "v1", localities=(LocalityEndpoints(near), LocalityEndpoints(far, priority=1)), outlier_detection=ALL
    )
    mesh, snapshot = engine(), world(forward(), clusters=[what])
    assert {call(mesh, snapshot, OK).port for _ in range(20)} == {8001, 8002}
    while len(mesh.ejected(what)) < 2:
        step = (one := mesh.call(snapshot, request())).next_step()
        assert isinstance(step, Attempt)
        one.report(FAILS if step.endpoint in near else OK)
        one.finish()
    assert {call(mesh, snapshot, OK).port for _ in range(20)} == {8005, 8006}


def test_explain_shows_who_is_out() -> None:
    mesh, hosts = engine(), endpoints(2)
    snapshot = world(forward(), clusters=[cluster(hosts=hosts, outlier_detection=ALL)])
    for _ in range(8):
        step = (one := mesh.call(snapshot, request())).next_step()
        assert isinstance(step, Attempt)
        one.report(FAILS if step.endpoint is hosts[0] else OK)
        one.finish()
    wanted = Request("GET", TARGET, "/")
    (first, second) = explain(snapshot, wanted, mesh.ejected).clusters[0].endpoints
    assert (first.ejected, first.usable, second.ejected, second.usable) == (True, False, False, True)
    assert any("ejected" in line for line in explain(snapshot, wanted, mesh.ejected).to_text())
    assert not explain(snapshot, wanted).clusters[0].endpoints[0].ejected

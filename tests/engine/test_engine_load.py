"""Load reports of servers (ORCA), and picking endpoints by them."""

import base64
import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from engine_world import Clock, cluster, endpoints, engine, forward, request, run, world
from hypothesis import given
from hypothesis import strategies as st
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

from proxyless.engine.balance.load_weights import LoadWeights, weight_of
from proxyless.engine.balance.state import ClusterState
from proxyless.engine.load_reports import read
from proxyless.engine.steps import Answered, Attempt
from proxyless.model.cluster import Cluster, LoadBalancer, LoadWeighting, Locality, LocalityEndpoints
from proxyless.model.load_report import LoadReport

BY_LOAD: dict[str, Any] = {
    "load_balancer": LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN,
    "load_weighting": LoadWeighting(),
}
NAME, NAME_BIN = "endpoint-load-metrics", "endpoint-load-metrics-bin"
WHOLE = LoadReport(0.5, 0.25, 0.75, 100.0, 2.0, {"rows": 3.0}, {"queue": 0.5}, {"depth": -7.0})
MESSAGE = OrcaLoadReport(
    cpu_utilization=0.5,
    mem_utilization=0.25,
    application_utilization=0.75,
    rps_fractional=100,
    eps=2,
    rps=7,
    request_cost={"rows": 3},
    utilization={"queue": 0.5},
    named_metrics={"depth": -7},
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- reading


@pytest.mark.parametrize(
    ("name", "value", "report"),
    [
        (NAME_BIN, b64(MESSAGE.SerializeToString()), WHOLE),
        (NAME_BIN, b64(MESSAGE.SerializeToString()).rstrip("="), WHOLE),
        (NAME_BIN, b64(MESSAGE.SerializeToString()) + ", AAAA", WHOLE),
        (NAME, "BIN " + b64(MESSAGE.SerializeToString()), WHOLE),
        (NAME, WHOLE.header(), WHOLE),
        (NAME, 'JSON {"cpuUtilization": 0.5, "rpsFractional": 3, "more": [1]}', LoadReport(0.5, qps=3)),
        (
            NAME,
            "TEXT cpu_utilization=0.5, mem_utilization:0.25,rps_fractional=10,named_metrics.a=1,utilization.b=0.5",
            LoadReport(0.5, 0.25, qps=10, utilization={"b": 0.5}, named_metrics={"a": 1}),
        ),
        (NAME, "JSON {}", LoadReport()),
        (NAME_BIN, "", LoadReport()),
        *[
            (name, value, None)
            for name, value in (
                ("content-type", "text/plain"),
                (NAME, ""),
                (NAME, "cpu_utilization=0.5"),
                (NAME, "YAML {}"),
                (NAME, "JSON"),
                (NAME, "JSON []"),
                (NAME, 'JSON {"eps": true}'),
                (NAME, 'JSON {"eps": "1"}'),
                (NAME, 'JSON {"eps": NaN}'),
                (NAME, 'JSON {"eps": 1e999}'),
                (NAME, 'JSON {"eps": 1' + "0" * 400 + "}"),
                (NAME, 'JSON {"eps": 1' + "0" * 5000 + "}"),
                (NAME, 'JSON {"named_metrics": []}'),
                (NAME, 'JSON {"named_metrics": {"a": null}}'),
                (NAME, "JSON " + "[" * 10_000),
                (NAME, "JSON " + json.dumps({"named_metrics": {str(n): 1 for n in range(257)}})),
                (NAME, 'JSON {"eps": 1' + " " * 17_000 + "}"),
                (NAME, "TEXT eps"),
                (NAME, "TEXT eps=x"),
                (NAME, "TEXT eps=inf"),
                (NAME, "BIN *"),
                (NAME_BIN, "*"),
                (NAME_BIN, b64(b"\x09\x00")),
                (NAME_BIN, b64(b"\x80" * 20)),
                (NAME_BIN, b64(b"\x22\x7f")),
                (NAME_BIN, b64(b"\x07")),
                (NAME_BIN, b64(b"\x0a\x01a")),
                (NAME_BIN, b64(b"\x42\x03\x0a\x01\xff")),
            )
        ],
    ],
)
def test_reports_in_an_answer(name: str, value: str, report: LoadReport | None) -> None:
    assert read([("server", "x"), (name, value)]) == report


numbers = st.floats(allow_nan=False, allow_infinity=False)
maps = st.dictionaries(st.text(max_size=5), numbers, max_size=3)


@given(numbers, numbers, numbers, maps, maps, st.integers(0, 2**64 - 1))
def test_the_message_is_read_as_protobuf_writes_it(
    cpu: float, qps: float, eps: float, cost: dict[str, float], named: dict[str, float], rps: int
) -> None:
    made = OrcaLoadReport(
        cpu_utilization=cpu, rps_fractional=qps, eps=eps, request_cost=cost, named_metrics=named, rps=rps
    )
    expected = LoadReport(cpu, qps=qps, eps=eps, request_cost=cost, named_metrics=named)
    assert read([(NAME_BIN, b64(made.SerializeToString()))]) == expected
    assert read([(NAME, expected.header())]) == expected


@given(st.sampled_from(["JSON ", "TEXT ", "BIN ", ""]), st.text(max_size=60), st.binary(max_size=60))
def test_nothing_that_a_peer_sends_raises(kind: str, text: str, data: bytes) -> None:
    read([(NAME, kind + text)])
    read([(NAME, "BIN " + b64(data))])
    read([(NAME_BIN, text)])
    read([(NAME_BIN, b64(data))])


# ---- weights


@pytest.mark.parametrize(
    ("report", "asked", "weight"),
    [
        (LoadReport(0.5, qps=100), {}, 200),
        (LoadReport(0.5, application_utilization=0.25, qps=100), {}, 400),
        (LoadReport(0.5, qps=100, eps=50), {}, 100),
        (LoadReport(0.5, qps=100, eps=50), {"error_utilization_penalty": 0}, 200),
        (LoadReport(0.5, qps=100, eps=50), {"error_utilization_penalty": 3}, 50),
        (LoadReport(0.5, qps=100, named_metrics={"a": 0.8}), {"metric_names": ("named_metrics.a",)}, 125),
        (
            LoadReport(0.5, 0.2, qps=100, utilization={"b.c": 0.1}),
            {"metric_names": ("mem_utilization", "utilization.b.c", "nothing", "named_metrics.a")},
            500,
        ),
        (LoadReport(0.5, qps=100), {"metric_names": ("named_metrics.a",)}, 200),
        # Without requests or without a load there is no weight.
        (LoadReport(0.5), {}, 0),
        (LoadReport(0, qps=100, eps=100), {}, 0),
        (LoadReport(-1, qps=100), {}, 0),
        (LoadReport(0.5, qps=-1), {}, 0),
        # Whatever a peer says, the arithmetic holds.
        (LoadReport(1e-300, qps=1e300), {}, 2**32 - 1),
        (LoadReport(0.5, qps=1e-300, eps=1e300), {}, 0),
    ],
)
def test_weight_of_a_report(report: LoadReport, asked: dict[str, Any], weight: float) -> None:
    assert weight_of(LoadWeighting(**asked), report) == pytest.approx(weight)


def test_a_weight_counts_after_the_blackout_and_until_it_is_old() -> None:
    asked, key = LoadWeighting(blackout_period=10, expiration_period=100, update_period=1), ("10.0.0.1", 1)
    of, report = LoadWeights(), LoadReport(0.5, qps=100)
    timeline: list[tuple[float, bool, bool]] = [
        # At this moment: does it report, has it a weight.
        (0, True, False),
        (9.5, True, False),
        (10.6, False, True),
        (50, True, True),
        (149, False, True),
        (150, False, False),
        # Reports after a gap begin anew.
        (151, True, False),
        (160, True, False),
        (161.5, True, True),
    ]
    for now, reports, weighs in timeline:
        if reports:
            of.report(asked, key, report, now)
        assert of.weights(asked, now) == ({key: 200} if weighs else {}), now
    of.forget(set())
    assert of.weights(asked, 170) == {}


def test_weights_change_once_in_a_period() -> None:
    asked, key = LoadWeighting(blackout_period=0, update_period=5), ("10.0.0.1", 1)
    of = LoadWeights()
    of.report(asked, key, LoadReport(0.5, qps=100), 0)
    first = of.weights(asked, 0)
    of.report(asked, key, LoadReport(0.5, qps=50), 1)
    assert of.weights(asked, 4.9) is first
    assert of.weights(asked, 5) == {key: 100}
    assert of.weights(asked, 10) is of.weights(asked, 20)  # the same as long as nothing changes


# ---- picking


def picked(state: ClusterState, what: Cluster, count: int, now: float) -> Counter[int]:
    found: Counter[int] = Counter()
    for _ in range(count):
        endpoint = state.pick(what, now=now)
        assert endpoint is not None
        found[endpoint.port - 8000] += 1
    return found


def reporting(what: Cluster, *loads: float | None, seed: int = 1) -> ClusterState:
    """A cluster whose endpoints have told their utilization, at 100 requests a second, for 20 s by now=20."""
    state = ClusterState(random.Random(seed), 0.0)
    for now in (0.0, 15.0):
        for endpoint, load in zip(what.endpoints, loads, strict=True):
            if load is not None:
                state.loaded(what, endpoint, LoadReport(load, qps=100), now)
    return state


@pytest.mark.parametrize(
    ("loads", "shares"),
    [
        ((0.2, 0.4, 0.8), (4, 2, 1)),
        ((0.9, 0.1), (1, 9)),
        ((0.5, 0.5, 0.5, 0.5), (1, 1, 1, 1)),
        # Who tells nothing gets the mean.
        ((0.2, None, 0.4), (4, 3, 2)),
        # One report says nothing about the others.
        ((0.2, None, None), (1, 1, 1)),
        ((None, None), (1, 1)),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_shares_are_as_the_weights(loads: tuple[float | None, ...], shares: tuple[int, ...], seed: int) -> None:
    # The control plane's weights do not count.
    hosts = tuple(replace(one, weight=1 + 7 * at) for at, one in enumerate(endpoints(len(loads))))
    what = cluster(hosts=hosts, **BY_LOAD)
    found = picked(reporting(what, *loads, seed=seed), what, 7000, 20)
    for number, share in enumerate(shares, 1):
        assert found[number] == pytest.approx(7000 * share / sum(shares), rel=0.01, abs=3)


def test_equal_until_the_blackout_is_over_and_when_reports_are_old() -> None:
    what = cluster(hosts=endpoints(2), **BY_LOAD)
    state = reporting(what, 0.1, 0.9)
    assert picked(state, what, 100, 5) == {1: 50, 2: 50}
    assert picked(state, what, 100, 20) == {1: 90, 2: 10}
    assert picked(state, what, 100, 300) == {1: 50, 2: 50}


def test_weights_outlive_a_change_of_endpoints() -> None:
    one, other, third = endpoints(3)
    what = cluster(hosts=(one, other), **BY_LOAD)
    state = reporting(what, 0.1, 0.9)
    assert picked(state, what, 100, 20) == {1: 90, 2: 10}
    grown = cluster(hosts=(one, other, third), **BY_LOAD)
    found = picked(state, grown, 1500, 20.5)
    assert [found[n] for n in (1, 2, 3)] == pytest.approx([900, 100, 500], abs=3)
    # Who is gone is forgotten.
    picked(state, cluster(hosts=(third,), **BY_LOAD), 1, 21)
    assert picked(state, what, 100, 30) == {1: 50, 2: 50}


def test_localities_keep_their_weights() -> None:
    one, other, third, fourth = endpoints(4)
    groups = (
        LocalityEndpoints((one, other), Locality("a"), weight=1),
        LocalityEndpoints((third, fourth), Locality("b"), weight=3),
    )
    what = Cluster("v1", localities=groups, **BY_LOAD)
    found = picked(reporting(what, 0.1, 0.9, 0.5, 0.5), what, 4000, 20)
    assert [found[n] for n in (1, 2, 3, 4)] == pytest.approx([900, 100, 1500, 1500], rel=0.02)


# ---- through calls


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("listens", [True, False])
def test_calls_tell_the_balancer(trailers: bool, listens: bool) -> None:
    clock = Clock()
    mesh = engine(clock=clock)
    what = cluster(hosts=endpoints(2), **(BY_LOAD if listens else {}))
    snapshot = world(forward(), clusters=[what])
    loads = {8001: 0.2, 8002: 0.6}

    def call() -> int:
        made = mesh.call(snapshot, request())
        step = made.next_step()
        assert isinstance(step, Attempt)
        told = [(NAME, LoadReport(loads[step.endpoint.port], qps=10).header())]
        made.report(Answered(200, [] if trailers else told))
        assert made.next_step() is None
        if trailers:
            made.loaded(told)
        made.finish()
        return step.endpoint.port

    for _ in range(12):
        call()
        clock.now += 1
    found = Counter(call() for _ in range(400))
    assert found == ({8001: 300, 8002: 100} if listens else {8001: 200, 8002: 200})


def test_a_call_without_an_attempt_tells_nothing() -> None:
    made = engine().call(world(forward(), clusters=[cluster(hosts=endpoints(1), **BY_LOAD)]), request())
    made.loaded([(NAME, "JSON {}")])
    assert [type(step) for step in run(made, Answered(200, [(NAME, "JSON [")]))] == [Attempt]

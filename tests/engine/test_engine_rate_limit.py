"""Local rate limits with a clock that moves when told: who passes, what the others get, what survives a snapshot."""

import random
from dataclasses import replace
from typing import Any

import pytest
from engine_world import OK, Clock, attempts, engine, forward, reply, request, run, world

from proxyless.engine.caller import Caller
from proxyless.engine.explain import explain
from proxyless.engine.inbound import ALLOW, decide
from proxyless.engine.rate_limit import RateLimiter
from proxyless.engine.steps import Answered, Attempt, Flag, Respond
from proxyless.model.authorization import Action, Rbac
from proxyless.model.inbound import InboundListener
from proxyless.model.rate_limit import NO_LIMIT, RateLimit
from proxyless.model.route import DirectResponse, Fault, FaultAbort, RetryPolicy, Route, WeightedCluster
from proxyless.model.snapshot import Snapshot

ALWAYS = 1_000_000
HEADERS = (("x-envoy-ratelimited", "true"),)
TWO = RateLimit("routes v", "VirtualService default/reviews", 2, 2, 1.0, headers=HEADERS, exhausted=True)
CALLER = Caller(False, None, "10.0.0.1:8080", "10.0.0.2:1")
GRPC = ("content-type", "application/grpc")


def limiter(clock: Clock, seed: int = 1) -> RateLimiter:
    return RateLimiter(clock, random.Random(seed))


@pytest.mark.parametrize(
    ("most", "tokens", "interval", "seconds", "admitted"),
    [
        # Envoy fills its buckets continuously: a tenth of the interval brings a tenth of the tokens.
        (10, 10, 10.0, [0] * 12 + [2.2, 0, 0], [True] * 10 + [False] * 2 + [True, True, False]),
        (1, 1, 1.0, [0, 0.5, 0.5, 0.5, 0.5], [True, False, True, False, True]),
        (2, 1, 60.0, [0, 0, 0, 59, 1, 0], [True, True, False, False, True, False]),
        # No more than the bucket holds, however long nobody comes; and less than a fill at once.
        (2, 100, 1.0, [0, 0, 0, 3600, 0, 0], [True, True, False, True, True, False]),
        (1, 3, 1.0, [0, 0.3, 0.1, 1 / 3, 1 / 3], [True, False, True, True, True]),
        # A clock that stands still or goes back gives nothing.
        (1, 1000, 1.0, [0, 0, -5, 0], [True, False, False, False]),
    ],
)
def test_a_bucket(most: int, tokens: int, interval: float, seconds: list[float], admitted: list[bool]) -> None:
    clock, found = Clock(), []
    buckets, limit = limiter(clock), RateLimit("p", "", most, tokens, interval)
    for passed in seconds:
        clock.now += passed
        found.append(buckets.admits(limit))
    assert found == admitted


@pytest.mark.parametrize("per_second", [3, 7, 100])
def test_as_many_as_the_rate_says_however_they_are_spread(per_second: int) -> None:
    clock, rng = Clock(), random.Random(per_second)
    buckets, limit = limiter(clock), RateLimit("p", "", per_second, per_second)
    passed = 0
    for _ in range(20_000):
        clock.now += rng.random() / per_second / 2
        passed += buckets.admits(limit)
    most = per_second + (clock.now - 1000) * per_second
    assert most - 2 <= passed <= most + 1e-3


def test_equal_limits_of_a_place_share_a_bucket_and_others_do_not() -> None:
    buckets = limiter(Clock())
    one = RateLimit("p", "", 1, 1)
    assert buckets.admits(one)
    assert not buckets.admits(replace(one))
    assert buckets.admits(replace(one, place="q"))
    assert buckets.admits(replace(one, most=2))
    assert not buckets.admits(one)


def test_shares_of_requests() -> None:
    buckets = limiter(Clock())
    assert all(buckets.admits(RateLimit("off", "", 1, 1, enabled=0)) for _ in range(9))
    assert all(buckets.admits(RateLimit("shadow", "", 1, 1, enforced=0)) for _ in range(9))
    half = RateLimit("half", "", 1, 1, enforced=500_000)
    assert 300 < sum(buckets.admits(half) for _ in range(1000)) < 700


def limited(limit: RateLimit | None = TWO, **route: Any) -> Snapshot:
    return world(forward(route={"rate_limit": limit, "origin": "VirtualService default/reviews http[0]", **route}))


def test_a_call_without_a_token_is_answered_at_once() -> None:
    decide_, snapshot = engine(), limited()
    for _ in range(2):
        assert attempts(run(decide_.call(snapshot, request()), OK))
    call = decide_.call(snapshot, request())
    answer = reply(run(call))
    assert (answer.status, answer.body, answer.flags) == (429, b"local_rate_limited", (Flag.RATE_LIMITED,))
    assert answer.headers == (*HEADERS, ("content-type", "text/plain"))
    assert answer.reason == "local_rate_limited: 2/s (VirtualService default/reviews)"
    assert (call.record.attempts, call.record.flags, call.record.status) == ([], [Flag.RATE_LIMITED], 429)


@pytest.mark.parametrize(("exhausted", "code"), [(True, "8"), (False, "14")])
def test_grpc_gets_a_status_of_its_own(exhausted: bool, code: str) -> None:
    decide_, snapshot = engine(), limited(replace(TWO, most=1, exhausted=exhausted))
    run(decide_.call(snapshot, request(headers=[GRPC])), OK)
    answer = reply(run(decide_.call(snapshot, request(headers=[GRPC]))))
    assert answer.status == 200
    assert {*answer.headers} >= {("grpc-status", code), ("grpc-message", "local_rate_limited"), *HEADERS}


def test_a_bucket_survives_a_snapshot_and_fills_by_the_engines_clock() -> None:
    clock = Clock()
    decide_ = engine(clock=clock)
    for _ in range(2):
        run(decide_.call(limited(), request()), OK)
    assert reply(run(decide_.call(limited(replace(TWO)), request()))).status == 429
    clock.now += 0.5
    assert attempts(run(decide_.call(limited(), request()), OK))
    assert attempts(run(decide_.call(limited(replace(TWO, most=3)), request()), OK))
    decide_.after_fork()
    assert attempts(run(decide_.call(limited(), request()), OK))


def test_a_retry_needs_no_token_and_a_fault_comes_first() -> None:
    retry = RetryPolicy(frozenset({"5xx"}), num_retries=2, back_off_base=0)
    route = forward(retry=retry, route={"rate_limit": replace(TWO, most=1)})
    decide_ = engine()
    assert len(attempts(run(decide_.call(world(route), request()), Answered(503, []), Answered(503, []), OK))) == 3
    assert reply(run(decide_.call(world(route), request()))).status == 429
    aborted = limited(replace(TWO, place="x", most=1), fault=Fault(abort=FaultAbort(ALWAYS, http_status=500)))
    assert [reply(run(decide_.call(aborted, request()))).status for _ in range(3)] == [500] * 3


def test_the_most_specific_place_counts() -> None:
    one, legs = replace(TWO, place="one", most=1), WeightedCluster("v1", rate_limit=NO_LIMIT)
    listener = {"rate_limit": one}
    statuses = {
        "leg": world(forward(legs, route={"rate_limit": one}), listener=listener),
        "route": world(forward(route={"rate_limit": NO_LIMIT}), listener=listener),
        "listener": world(forward(), listener=listener),
        "answer": world(Route(forward().match, DirectResponse(418), rate_limit=replace(one, place="a"))),
        "no route": world(listener={"rate_limit": replace(one, place="n")}),
    }
    found: dict[str, list[int]] = {}
    decide_ = engine()
    for name, snapshot in statuses.items():
        for _ in range(2):
            call = decide_.call(snapshot, request())
            if isinstance(call.next_step(), Attempt):
                call.report(OK)
            found.setdefault(name, []).append(call.record.status or 0)
    assert found == {
        "leg": [200, 200],
        "route": [200, 200],
        "listener": [200, 429],
        "answer": [418, 429],
        "no route": [404, 429],
    }


def test_explained() -> None:
    told = explain(limited(replace(TWO, most=5)), request())
    assert "      rate limit (VirtualService default/reviews): 2/s; burst=5 in this process" in told.to_text()
    assert told.to_dict()["clusters"][0]["rate_limit"] == {
        "name": "VirtualService default/reviews",
        "rate": "2/s; burst=5",
        "percent": 100.0,
    }


def test_a_server_refuses_after_it_has_authorized() -> None:
    clock = Clock()
    buckets, limit = limiter(clock), replace(TWO, place="8080", name="Service default/reviews")
    listener = InboundListener(8080, filters=(limit,))
    asked = [decide(listener, CALLER, request(), limiter=buckets) for _ in range(3)]
    assert asked[:2] == [ALLOW, ALLOW]
    refused = asked[2]
    assert isinstance(refused, Respond)
    assert (refused.status, refused.flags, refused.headers[0]) == (429, (Flag.RATE_LIMITED,), HEADERS[0])
    assert refused.reason == "local_rate_limited: 2/s (Service default/reviews)"
    clock.now += 10
    nobody = InboundListener(8080, filters=(Rbac(Action.ALLOW, ()), limit))
    assert [decide(nobody, CALLER, request(), limiter=buckets).status for _ in range(5)] == [403] * 5  # type: ignore[union-attr]
    # Those who may not come in took nothing.
    assert [decide(listener, CALLER, request(), limiter=buckets) for _ in range(2)] == [ALLOW, ALLOW]

"""Circuit breakers: how many requests and retries one process has in flight to a cluster."""

import pytest
from engine_world import OK, REFUSED, attempts, cluster, endpoints, engine, forward, reply, request, run, world

from proxyless.engine.call import Call
from proxyless.engine.steps import Answered, Attempt, Flag
from proxyless.model.cluster import RetryBudget
from proxyless.model.route import RetryPolicy

RETRIED = forward(retry=RetryPolicy(frozenset({"5xx"}), num_retries=3))
FAILS = Answered(503, [])


def started(call: Call) -> Call:
    assert isinstance(call.next_step(), Attempt)
    return call


def test_requests_over_the_limit_overflow() -> None:
    snapshot, mesh = world(forward(), clusters=[cluster(hosts=endpoints(3), max_requests=2)]), engine()
    busy = [started(mesh.call(snapshot, request())) for _ in range(2)]
    call = mesh.call(snapshot, request())
    answer = reply(run(call))
    assert answer.status == 503
    assert answer.flags == (Flag.UPSTREAM_OVERFLOW,)
    assert ("x-envoy-overloaded", "true") in answer.headers
    assert answer.body == b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
    assert "2 requests in flight" in answer.reason
    assert call.record.attempts == []
    # A response head does not end a request, its body's end does.
    busy[0].report(OK)
    assert busy[0].next_step() is None
    assert reply(run(mesh.call(snapshot, request()))).status == 503
    busy[0].finish()
    assert len(attempts(run(mesh.call(snapshot, request()), OK))) == 1


def test_the_count_outlives_a_change_of_the_cluster() -> None:
    mesh = engine()
    started(mesh.call(world(forward(), clusters=[cluster(hosts=endpoints(2), max_requests=5)]), request()))
    tighter = world(forward(), clusters=[cluster(hosts=endpoints(1, first=7), max_requests=1)])
    assert reply(run(mesh.call(tighter, request()))).flags == (Flag.UPSTREAM_OVERFLOW,)


def test_no_endpoint_comes_before_no_room() -> None:
    from proxyless.model.cluster import Cluster

    snapshot = world(forward(), clusters=[Cluster("v1", max_requests=0)])
    assert reply(run(engine().call(snapshot, request()))).flags == (Flag.NO_HEALTHY_UPSTREAM,)


def test_a_retry_that_finds_no_room_says_so() -> None:
    mesh = engine()
    snapshot = world(RETRIED, clusters=[cluster(max_requests=1)])
    call = started(mesh.call(snapshot, request()))
    call.report(FAILS)
    started(mesh.call(snapshot, request()))
    answer = reply(run(call))
    assert b"retried and the latest reset reason: overflow" in answer.body
    assert answer.flags == (Flag.UPSTREAM_OVERFLOW,)


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({"max_retries": 0}, 0),
        ({"max_retries": 2}, 2),
        ({"max_retries": None}, 6),
        ({"retry_budget": RetryBudget(0.0, 1)}, 1),
        # Of six in flight, less those that wait for their retry. The budget takes the place of max_retries.
        ({"retry_budget": RetryBudget(50.0, 1), "max_retries": 0}, 2),
    ],
)
def test_retries_over_the_limit_are_not_made(limits: dict[str, object], allowed: int) -> None:
    mesh, snapshot = engine(), world(RETRIED, clusters=[cluster(hosts=endpoints(2), **limits)])
    calls = [started(mesh.call(snapshot, request())) for _ in range(6)]
    last = None
    for call in calls:
        call.report(FAILS)
        last = call
    retried = [call for call in calls if call.next_step() is not None]
    assert len(retried) == allowed
    if allowed < 6:
        assert last is not None
        assert last.record.flags == [Flag.UPSTREAM_OVERFLOW]
        assert last.record.status == 503
        assert "limit of retries" in last.record.reason


def test_a_retry_counts_until_its_answer_or_the_end_of_the_call() -> None:
    mesh, snapshot = engine(), world(RETRIED, clusters=[cluster(hosts=endpoints(2), max_retries=1)])
    for outcome in (OK, None):
        call = started(mesh.call(snapshot, request()))
        call.report(FAILS)
        assert run(mesh.call(snapshot, request()), FAILS)[-1].__class__ is Attempt
        while not isinstance(call.next_step(), Attempt):
            pass
        if outcome is not None:
            call.report(outcome)
            assert len(attempts(run(mesh.call(snapshot, request()), FAILS, OK))) == 2
        call.finish()
        assert len(attempts(run(mesh.call(snapshot, request()), REFUSED, OK))) == 2

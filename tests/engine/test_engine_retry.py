import random

import pytest
from engine_world import (
    OK,
    REFUSED,
    RESET,
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
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.engine.retry import CONDITIONS, back_off, wants_retry
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Flag, Outcome, Respond
from proxyless.model.cluster import LoadBalancer
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher
from proxyless.model.route import RetryPolicy

ISTIO = RetryPolicy(
    frozenset(
        {"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes", "reset-idempotent"}
    ),
    num_retries=2,
    retry_other_host=True,
    host_selection_attempts=5,
)
UNSENT = Failed(FailureKind.RESET, "closed before it was written")
STREAM = Failed(FailureKind.REFUSED_STREAM, "REFUSED_STREAM", request_sent=True)
SLOW = Failed(FailureKind.TIMEOUT, "", request_sent=True)
OVERFLOW = Failed(FailureKind.OVERFLOW, "the pool is full")
RESETS = [REFUSED, RESET, UNSENT, STREAM, SLOW]


def status(code: int, *headers: tuple[str, str]) -> Answered:
    return Answered(code, list(headers))


def grpc(code: int) -> Answered:
    return status(200, ("content-type", "application/grpc"), ("grpc-status", str(code)))


EVERYTHING: dict[str, Outcome] = {
    **{str(code): status(code) for code in (200, 404, 409, 429, 500, 501, 502, 503, 504, 599, 600)},
    **{f"grpc {code}": grpc(code) for code in range(17)},
    "x-retry": status(200, ("x-retry", "yes")),
    "limited": status(503, ("x-envoy-ratelimited", "true")),
    "connect": REFUSED,
    "reset": RESET,
    "unsent": UNSENT,
    "stream": STREAM,
    "slow": SLOW,
    "overflow": OVERFLOW,
}
ANY_RESET = {"connect", "reset", "unsent", "stream", "slow"}


@pytest.mark.parametrize(
    ("condition", "retried"),
    [
        ("5xx", {"500", "501", "502", "503", "504", "599"} | ANY_RESET),
        ("gateway-error", {"502", "503", "504"} | ANY_RESET),
        ("reset", ANY_RESET),
        ("reset-before-request", {"connect", "unsent"}),
        ("connect-failure", {"connect"}),
        ("refused-stream", {"stream"}),
        ("retriable-4xx", {"409"}),
        ("retriable-status-codes", {"404", "429"}),
        ("retriable-headers", {"x-retry"}),
        ("envoy-ratelimited", {"limited"}),
        ("cancelled", {"grpc 1"}),
        ("deadline-exceeded", {"grpc 4"}),
        ("resource-exhausted", {"grpc 8"}),
        ("internal", {"grpc 13"}),
        ("unavailable", {"grpc 14"}),
        ("reset-idempotent", {"reset", "unsent"}),
        ("no-such-condition", set()),
    ],
)
def test_conditions(condition: str, retried: set[str]) -> None:
    policy = RetryPolicy(
        frozenset({condition}),
        retriable_status_codes=frozenset({404, 429}),
        retriable_headers=(HeaderMatcher("x-retry", StringMatcher(StringKind.EXACT, "yes")),),
    )
    assert {name for name, outcome in EVERYTHING.items() if wants_retry(policy, request(), outcome)} == retried
    assert condition in CONDITIONS or not retried


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("GET", True),
        ("HEAD", True),
        ("PUT", True),
        ("DELETE", True),
        ("OPTIONS", True),
        ("POST", False),
        ("PATCH", False),
    ],
)
def test_reset_idempotent_is_for_methods_that_may_be_repeated(method: str, expected: bool) -> None:
    policy = RetryPolicy(frozenset({"reset-idempotent"}))
    assert bool(wants_retry(policy, request(method=method), RESET)) is expected


def test_status_of_a_retriable_header_matcher() -> None:
    policy = RetryPolicy(
        frozenset({"retriable-headers"}),
        retriable_headers=(HeaderMatcher(":status", StringMatcher(StringKind.EXACT, "418")),),
    )
    assert wants_retry(policy, request(), status(418)) == "retriable-headers"
    assert wants_retry(policy, request(), status(200)) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(0.001, 10), st.floats(0.001, 100), st.integers(0, 2**32))
def test_back_off_stays_in_envoys_bounds(retry: int, base: float, most: float, seed: int) -> None:
    policy = RetryPolicy(frozenset(), back_off_base=base, back_off_max=most)
    wait = back_off(policy, retry, random.Random(seed))
    assert 0 <= wait <= most
    if retry < 60:
        assert wait <= base * (2**retry - 1)


def test_back_off_of_the_first_retries_fills_its_range() -> None:
    rng = random.Random(1)
    for retry, ceiling in ((1, 0.025), (2, 0.075), (3, 0.175), (4, 0.25), (9, 0.25)):
        waits = [back_off(RetryPolicy(frozenset()), retry, rng) for _ in range(500)]
        assert 0.9 * ceiling < max(waits) < ceiling
        assert min(waits) < 0.1 * ceiling


def test_another_host_after_a_back_off() -> None:
    clock = Clock()
    snapshot = world(forward(retry=ISTIO), clusters=[cluster(hosts=endpoints(2))])
    call = engine(clock=clock).call(snapshot, request())
    steps = run(call, REFUSED, OK, clock=clock)
    assert [type(step) for step in steps] == [Attempt, Delay, Attempt]
    first, second = attempts(steps)
    assert first.endpoint.key != second.endpoint.key
    assert [dict(step.headers)["x-envoy-attempt-count"] for step in (first, second)] == ["1", "2"]
    wait = steps[1]
    assert isinstance(wait, Delay)
    assert wait.reason == "back-off"
    assert 0 <= wait.seconds < 0.025
    assert call.record.status == 200
    assert call.record.flags == []
    assert [attempt.failure for attempt in call.record.attempts] == [REFUSED, None]


@pytest.mark.parametrize("balancer", list(LoadBalancer))
def test_no_retry_goes_to_a_host_already_tried_while_there_is_another(balancer: LoadBalancer) -> None:
    snapshot = world(forward(retry=ISTIO), clusters=[cluster(hosts=endpoints(3), load_balancer=balancer)])
    for seed in range(50):
        call = engine(seed).call(snapshot, request())
        steps = run(call, REFUSED, RESET, OK)
        assert len({attempt.endpoint.key for attempt in attempts(steps)}) == 3


def test_limit_exceeded() -> None:
    snapshot = world(forward(retry=ISTIO))
    call = engine().call(snapshot, request())
    answer = reply(run(call, REFUSED, REFUSED, REFUSED))
    assert (answer.status, answer.flags) == (
        503,
        (Flag.UPSTREAM_CONNECTION_FAILURE, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED),
    )
    assert answer.body == (
        b"upstream connect error or disconnect/reset before headers. retried and the latest reset reason: "
        b"remote connection failure"
    )


def test_the_last_answer_is_passed_on_when_the_limit_is_exceeded() -> None:
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=1)
    call = engine().call(world(forward(retry=policy)), request())
    steps = run(call, status(503), status(500))
    assert not any(isinstance(step, Respond) for step in steps)
    assert (call.record.status, call.record.flags) == (500, [Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED])


@pytest.mark.parametrize("policy", [None, RetryPolicy(frozenset({"5xx"}), num_retries=0)])
def test_no_retries(policy: RetryPolicy | None) -> None:
    call = engine().call(world(forward(retry=policy)), request())
    assert reply(run(call, REFUSED)).status == 503
    assert len(call.record.attempts) == 1


@pytest.mark.parametrize(
    ("replayable", "outcome", "retried"),
    [
        (True, Failed(FailureKind.CONNECT, "", body_consumed=True), True),
        (False, Failed(FailureKind.CONNECT, "", body_consumed=False), True),
        (False, Failed(FailureKind.CONNECT, "", body_consumed=True), False),
        (False, status(503), False),
        (True, status(503), True),
    ],
)
def test_a_consumed_body_is_never_sent_again(replayable: bool, outcome: Outcome, retried: bool) -> None:
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=1)
    call = engine().call(world(forward(retry=policy)), request(method="PUT", replayable=replayable))
    steps = run(call, outcome, OK) if retried else run(call, outcome)
    assert len(attempts(steps)) == (2 if retried else 1)
    if not retried:
        assert "cannot be sent a second time" in call.record.reason


def test_no_back_off_past_the_deadline() -> None:
    clock = Clock()
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=5, back_off_base=10.0, back_off_max=10.0)
    call = engine(clock=clock).call(world(forward(retry=policy, timeout=1.0)), request())
    answer = reply(run(call, REFUSED, clock=clock))
    assert (answer.status, answer.flags) == (503, (Flag.UPSTREAM_CONNECTION_FAILURE,))
    assert "deadline comes first" in answer.reason
    assert clock.now == 1000.0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 6),
    st.lists(st.sampled_from([*RESETS, OVERFLOW, status(503), status(200)]), min_size=8, max_size=8),
    st.integers(0, 1000),
    st.one_of(st.none(), st.floats(0.01, 2.0)),
)
def test_attempts_are_bounded_by_count_and_time(
    num_retries: int, outcomes: list[Outcome], seed: int, timeout: float | None
) -> None:
    clock = Clock()
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=num_retries)
    snapshot = world(forward(retry=policy, timeout=timeout), clusters=[cluster(hosts=endpoints(2))])
    decide = engine(seed, clock)
    call = decide.call(snapshot, request())
    waiting = list(outcomes)
    while (step := call.next_step()) is not None:
        if isinstance(step, Delay):
            clock.now += step.seconds
        if isinstance(step, Attempt):
            clock.now += min(0.2, 0.2 if step.timeout is None else step.timeout)
            call.report(waiting.pop(0))
    call.finish()
    assert 1 <= len(call.record.attempts) <= num_retries + 1
    assert call.record.status is not None
    if timeout is not None:
        assert clock.now <= 1000.0 + timeout + 1e-6
    assert all(decide.active_requests("v1", host.key) == 0 for host in endpoints(2))


def test_the_request_may_steer_its_retries_as_behind_a_sidecar() -> None:
    headers = [("x-envoy-retry-on", "5xx, retriable-status-codes"), ("x-envoy-max-retries", "3")]
    call = engine().call(world(forward()), request(headers=headers))
    steps = run(call, status(500), REFUSED, RESET, OK)
    assert len(attempts(steps)) == 4
    names = {name for attempt in attempts(steps) for name, _ in attempt.headers}
    assert names == {"x-envoy-attempt-count"}


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ([("x-envoy-retry-grpc-on", "unavailable")], grpc(14)),
        ([("x-envoy-retry-on", "retriable-status-codes"), ("x-envoy-retriable-status-codes", "418,x")], status(418)),
        (
            [("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", "X-A")],
            status(200, ("x-a", "")),
        ),
    ],
)
def test_other_steering_headers(headers: list[tuple[str, str]], outcome: Outcome) -> None:
    call = engine().call(world(forward()), request(headers=headers))
    assert len(attempts(run(call, outcome, OK))) == 2

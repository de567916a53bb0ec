import pytest
from engine_world import OK, Clock, attempts, engine, forward, reply, request, run, world

from proxyless.engine.steps import Answered, Attempt, Failed, FailureKind, Flag
from proxyless.engine.timeouts import Limits, expected_ms
from proxyless.model.route import RetryPolicy

SLOW = Failed(FailureKind.TIMEOUT, "no response head", request_sent=True)


@pytest.mark.parametrize(
    ("timeout", "per_try", "deadline", "expected"),
    [
        (None, None, None, Limits(None, None)),
        (0.0, None, None, Limits(None, None)),
        (5.0, None, None, Limits(15.0, None)),
        (5.0, 2.0, None, Limits(15.0, 2.0)),
        # Not shorter than the whole: no limit of its own.
        (5.0, 5.0, None, Limits(15.0, None)),
        (5.0, 9.0, None, Limits(15.0, None)),
        (None, 9.0, None, Limits(None, 9.0)),
        (5.0, None, 12.0, Limits(12.0, None)),
        (5.0, None, 20.0, Limits(15.0, None)),
        (None, None, 12.0, Limits(12.0, None)),
        (None, 0.0, None, Limits(None, None)),
    ],
)
def test_limits(timeout: float | None, per_try: float | None, deadline: float | None, expected: Limits) -> None:
    assert Limits.start(10.0, timeout, per_try, deadline) == expected


def test_each_attempt_gets_the_shorter_of_its_own_and_what_is_left() -> None:
    limits = Limits(15.0, 2.0)
    assert limits.attempt(10.0) == (2.0, False)
    assert limits.attempt(14.0) == (1.0, True)
    assert Limits(None, 2.0).attempt(10.0) == (2.0, False)
    assert Limits(None, None).attempt(10.0) == (None, False)


@pytest.mark.parametrize(("seconds", "text"), [(1.5, "1500"), (0.0001, "1"), (0.0, "1"), (2.0, "2000")])
def test_expected_milliseconds_are_never_zero(seconds: float, text: str) -> None:
    assert expected_ms(seconds) == text


def test_the_whole_call_times_out() -> None:
    clock = Clock()
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=5)
    call = engine(clock=clock).call(world(forward(timeout=1.0, retry=policy)), request())
    steps = run(call, SLOW, clock=clock, took=9.0)
    assert attempts(steps)[0].timeout == pytest.approx(1.0)
    answer = reply(steps)
    assert (answer.status, answer.body, answer.flags) == (
        504,
        b"upstream request timeout",
        (Flag.UPSTREAM_REQUEST_TIMEOUT,),
    )
    assert clock.now == pytest.approx(1001.0)


def test_a_try_times_out_and_is_retried_within_the_whole() -> None:
    clock = Clock()
    policy = RetryPolicy(
        frozenset({"gateway-error"}), num_retries=5, per_try_timeout=0.4, back_off_base=0.001, back_off_max=0.001
    )
    call = engine(clock=clock).call(world(forward(timeout=1.0, retry=policy)), request())
    steps = run(call, SLOW, SLOW, SLOW, clock=clock, took=9.0)
    timeouts = [attempt.timeout for attempt in attempts(steps)]
    assert timeouts[:2] == [0.4, 0.4]
    assert timeouts[2] == pytest.approx(0.2, abs=0.003)
    assert [dict(attempt.headers)["x-envoy-expected-rq-timeout-ms"] for attempt in attempts(steps)][:2] == [
        "400",
        "400",
    ]
    assert reply(steps).flags == (Flag.UPSTREAM_REQUEST_TIMEOUT,)


def test_a_try_that_times_out_is_not_retried_unless_asked_for() -> None:
    policy = RetryPolicy(frozenset({"connect-failure"}), num_retries=5, per_try_timeout=0.4)
    call = engine().call(world(forward(retry=policy)), request())
    steps = run(call, SLOW)
    assert len(attempts(steps)) == 1
    assert (reply(steps).status, reply(steps).flags) == (504, (Flag.UPSTREAM_REQUEST_TIMEOUT,))


def test_limit_exceeded_by_timeouts() -> None:
    policy = RetryPolicy(frozenset({"reset"}), num_retries=1, per_try_timeout=0.4)
    call = engine().call(world(forward(retry=policy)), request())
    answer = reply(run(call, SLOW, SLOW))
    assert (answer.status, set(answer.flags)) == (
        504,
        {Flag.UPSTREAM_REQUEST_TIMEOUT, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED},
    )


def test_the_callers_deadline_bounds_a_route_without_timeout() -> None:
    clock = Clock()
    call = engine(clock=clock).call(world(forward()), request(deadline=1003.0))
    assert call.deadline == 1003.0
    step = call.next_step()
    assert isinstance(step, Attempt)
    assert step.timeout == 3.0
    assert dict(step.headers)["x-envoy-expected-rq-timeout-ms"] == "3000"


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    call = engine().call(world(forward()), request(deadline=999.0))
    answer = reply(run(call))
    assert (answer.status, answer.flags, call.record.attempts) == (504, (Flag.UPSTREAM_REQUEST_TIMEOUT,), [])


def test_the_deadline_of_the_body_is_the_routes_timeout_from_the_first_attempt_on() -> None:
    clock = Clock()
    call = engine(clock=clock).call(world(forward(timeout=4.0)), request())
    assert call.deadline is None
    clock.now = 1010.0
    call.next_step()
    call.report(Answered(200, []))
    assert call.deadline == 1014.0


def test_no_timeout_no_header() -> None:
    call = engine().call(world(forward()), request(headers=[("x-envoy-expected-rq-timeout-ms", "5")]))
    first = attempts(run(call, OK))[0]
    assert first.timeout is None
    assert "x-envoy-expected-rq-timeout-ms" not in dict(first.headers)


@pytest.mark.parametrize(
    ("headers", "timeout"),
    [
        ([("x-envoy-upstream-rq-timeout-ms", "250")], 0.25),
        ([("x-envoy-upstream-rq-timeout-ms", "0")], None),
        ([("x-envoy-upstream-rq-timeout-ms", "soon")], 2.0),
        ([("x-envoy-upstream-rq-per-try-timeout-ms", "100")], 0.1),
    ],
)
def test_the_request_may_steer_its_timeout(headers: list[tuple[str, str]], timeout: float | None) -> None:
    call = engine().call(world(forward(timeout=2.0)), request(headers=headers))
    assert attempts(run(call, OK))[0].timeout == timeout

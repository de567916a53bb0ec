"""Hedged attempts, in virtual time. What is expected is what a real Envoy does (see tests/conformance)."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine_world import OK, REFUSED, RESET, TARGET, Clock, cluster, endpoints, engine, forward, request, world

from proxyless.engine.call import Call
from proxyless.engine.engine import Engine
from proxyless.engine.explain import explain
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Flag, Outcome, Respond, Wait
from proxyless.model.cluster import OutlierDetection
from proxyless.model.route import RetryPolicy
from proxyless.model.snapshot import Snapshot

BAD = Answered(503, [])
NOT_FOUND = Answered(404, [])
TIMEOUT = Failed(FailureKind.TIMEOUT, "", request_sent=True)
NEVER = 1e9
PATIENCE = 1.0
POLICY = RetryPolicy(
    frozenset({"5xx"}), num_retries=2, per_try_timeout=PATIENCE, retry_other_host=True, back_off_base=0.0
)

# An attempt: when it ends, counted from its start, and how.
Script = list[tuple[float, Outcome]]


@dataclass
class Run:
    """What became of a call. begun: when each attempt began. winner: the number of the answering attempt."""

    call: Call
    begun: list[float] = field(default_factory=list)
    sent: list[Attempt] = field(default_factory=list)
    winner: int | None = None
    reply: Respond | None = None
    ended: float = 0.0
    most: int = 0

    @property
    def status(self) -> int | None:
        return self.call.record.status


def snapshot(policy: RetryPolicy | None = POLICY, timeout: float | None = None, **more: Any) -> Snapshot:
    return world(forward(retry=policy, timeout=timeout, hedge=True), clusters=[cluster(hosts=endpoints(3), **more)])


def perform(decider: Engine, clock: Clock, known: Snapshot, script: Script, **asked: Any) -> Run:
    """As a transport does it: attempts end in their order, the time of the whole call ends them all."""
    start = clock.now
    call = decider.call(known, request(**{"hedgeable": True, **asked}))
    run, under_way = Run(call), dict[int, tuple[float, Outcome]]()
    reported = 0
    while (step := call.next_step()) is not None:
        match step:
            case Attempt():
                seconds, outcome = script[step.number - 1]
                if step.timeout is not None and seconds >= step.timeout:
                    seconds, outcome = step.timeout, TIMEOUT
                run.begun.append(round(clock.now - start, 6))
                run.sent.append(step)
                if not step.hedged:
                    clock.now += seconds
                    call.report(outcome)
                    reported = step.number
                    continue
                under_way[step.number] = clock.now + seconds, outcome
                run.most = max(run.most, len(under_way))
            case Wait():
                number = min(under_way, key=lambda one: under_way[one][0], default=0)
                if number and (step.seconds is None or under_way[number][0] <= clock.now + step.seconds):
                    moment, outcome = under_way.pop(number)
                    clock.now = max(clock.now, moment)
                    call.report(outcome, number)
                    reported = number
                else:
                    assert step.seconds is not None, "nothing is under way, and nothing is due"
                    clock.now += step.seconds
            case Delay():
                clock.now += step.seconds
            case Respond():
                run.reply = step
    if run.reply is None:
        run.winner = reported
    run.ended = round(clock.now - start, 6)
    return run


def hedge(script: Script, *, known: Snapshot | None = None, **asked: Any) -> Run:
    clock = Clock()
    decider = engine(clock=clock)
    known = known or snapshot()
    run = perform(decider, clock, known, script, **asked)
    run.call.finish()
    assert not any(decider.active_requests("v1", one.key) for one in known.clusters["v1"].endpoints)
    return run


@pytest.mark.parametrize(
    ("script", "begun", "winner", "status", "ended"),
    [
        ([(0.5, OK)], [0], 1, 200, 0.5),
        ([(NEVER, OK), (0.5, OK)], [0, 1], 2, 200, 1.5),
        ([(1.2, OK), (0.5, OK)], [0, 1], 1, 200, 1.2),
        ([(NEVER, OK), (NEVER, OK), (0.5, OK)], [0, 1, 2], 3, 200, 2.5),
        ([(9, OK), (NEVER, OK), (NEVER, OK)], [0, 1, 2], 1, 200, 9),
        # What is late has had its retry: its error is dropped while another attempt may still answer ...
        ([(1.2, BAD), (0.5, OK)], [0, 1], 2, 200, 1.5),
        ([(1.2, RESET), (0.5, OK)], [0, 1], 2, 200, 1.5),
        # ... and given to the application where none is left.
        ([(1.6, BAD), (NEVER, OK), (0.4, BAD)], [0, 1, 2], None, None, None),
        # The newest one's error is retried as ever, beside those that are late.
        ([(NEVER, OK), (0.5, BAD), (0.2, OK)], [0, 1, 1.5], 3, 200, 1.7),
        ([(1.6, OK), (0.5, BAD), (0.2, OK)], [0, 1, 1.5], 1, 200, 1.6),
        ([(0.5, BAD), (NEVER, OK), (0.3, OK)], [0, 0.5, 1.5], 3, 200, 1.8),
        # What no condition names is an answer, whichever attempt brings it.
        ([(1.2, NOT_FOUND), (0.5, OK)], [0, 1], 1, 404, 1.2),
        ([(NEVER, OK), (0.5, NOT_FOUND)], [0, 1], 2, 404, 1.5),
        # Without retries left the errors of all but the last are dropped.
        ([(2.5, BAD), (1.8, BAD), (0.1, BAD)], [0, 1, 2], 2, 503, 2.8),
        ([(0.1, BAD), (0.1, BAD), (0.1, BAD)], [0, 0.1, 0.2], 3, 503, 0.3),
    ],
)
def test_who_wins(
    script: Script, begun: list[float], winner: int | None, status: int | None, ended: float | None
) -> None:
    if winner is None:
        run = hedge(script, known=snapshot(timeout=3.0))
        assert (run.begun, run.reply and run.reply.status, run.ended) == (begun, 504, 3.0)
        return
    run = hedge(script)
    assert (run.begun, run.winner, run.status, run.ended) == (begun, winner, status, ended)
    attempts = run.call.record.attempts
    assert attempts[-1].number == winner and not attempts[-1].lost
    assert all(one.ended is not None and one.lost == (one.status is None and one.failure is None) for one in attempts)


def test_each_attempt_is_told_that_there_is_all_the_time_of_the_call() -> None:
    run = hedge([(NEVER, OK), (0.5, OK)], known=snapshot(timeout=10.0))
    headers = [dict(one.headers) for one in run.sent]
    assert [one["x-envoy-expected-rq-timeout-ms"] for one in headers] == ["10000", "9000"]
    assert [one["x-envoy-attempt-count"] for one in headers] == ["1", "2"]
    assert [one.timeout for one in run.sent] == [10.0, 9.0]
    first, second = run.sent
    assert first.endpoint != second.endpoint
    assert [(one.number, one.hedge, one.lost) for one in run.call.record.attempts] == [
        (1, False, True),
        (2, True, False),
    ]


def test_the_last_failure_of_all_is_told() -> None:
    run = hedge([(1.5, RESET), (0.1, REFUSED), (0.1, REFUSED)])
    assert run.reply is not None and run.reply.status == 503
    assert run.reply.flags == (Flag.UPSTREAM_CONNECTION_TERMINATION, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
    assert run.ended == 1.5


def test_the_time_of_the_call_ends_all() -> None:
    run = hedge([(NEVER, OK)] * 3, known=snapshot(timeout=2.5))
    assert run.reply is not None and (run.reply.status, run.ended) == (504, 2.5)
    assert run.call.out_of_time
    assert len(run.call.record.attempts) == 3


def test_no_hedge_begins_that_could_not_end() -> None:
    run = hedge([(NEVER, OK), (0, OK)], known=snapshot(timeout=1.0))
    assert (run.begun, run.status) == ([0], 504)


@pytest.mark.parametrize(
    ("policy", "asked", "begun", "ended", "status"),
    [
        # What cannot be sent twice is not ended, as in Envoy; nothing can be made beside it.
        (POLICY, {"replayable": False}, [0], 1.5, 200),
        # A transport that cannot do two at a time does what it does without hedging.
        (POLICY, {"hedgeable": False}, [0, 1], 1.2, 200),
        (POLICY, {"headers": [("x-envoy-hedge-on-per-try-timeout", "false")]}, [0, 1], 1.2, 200),
        (POLICY, {"headers": [("x-envoy-hedge-on-per-try-timeout", "maybe")]}, [0, 1], 1.2, 200),
        (POLICY, {"headers": [("x-envoy-max-retries", "0")]}, [0], 1.5, 200),
        (None, {"headers": [("x-envoy-upstream-rq-per-try-timeout-ms", "500")]}, [0], 1.5, 200),
    ],
)
def test_who_does_not_hedge(
    policy: RetryPolicy | None, asked: dict[str, Any], begun: list[float], ended: float, status: int
) -> None:
    run = hedge([(1.5, OK), (0.2, OK)], known=snapshot(policy), **asked)
    assert (run.begun, run.ended, run.status) == (begun, ended, status)
    assert not any(name == "x-envoy-hedge-on-per-try-timeout" for name, _ in run.sent[0].headers)


def test_a_caller_may_ask_for_it() -> None:
    known = world(forward(retry=POLICY), clusters=[cluster(hosts=endpoints(3))])
    headers = [("x-envoy-hedge-on-per-try-timeout", "true")]
    assert hedge([(1.5, OK), (0.1, OK)], known=known, headers=headers).winner == 2
    assert hedge([(1.5, OK), (0.1, OK)], known=known).begun == [0, 1]


def test_limits_of_the_cluster_forbid_the_hedge_and_not_the_first() -> None:
    none = hedge([(1.5, OK)], known=snapshot(max_retries=0))
    assert (none.begun, none.winner, none.call.record.flags) == ([0], 1, [Flag.UPSTREAM_OVERFLOW])
    full = hedge([(1.5, OK)], known=snapshot(max_requests=1))
    assert (full.begun, full.winner, full.ended) == ([0], 1, 1.5)


def test_all_attempts_count_for_the_cluster_until_they_end() -> None:
    clock = Clock()
    decider = engine(clock=clock)
    known = snapshot(max_retries=1)
    hosts = known.clusters["v1"].endpoints
    call = decider.call(known, request(hedgeable=True))

    def active() -> int:
        return sum(decider.active_requests("v1", host.key) for host in hosts)

    assert isinstance(call.next_step(), Attempt) and active() == 1
    clock.now += PATIENCE
    assert isinstance(call.next_step(), Attempt) and active() == 2
    state = decider._states.get("v1", clock.now)
    assert state.hold_retry(known.clusters["v1"]) is None, "the hedge is the one retry in flight"
    call.report(BAD, 1)
    assert isinstance(call.next_step(), Wait) and active() == 1
    call.report(OK, 2)
    # The body is still to come.
    assert call.next_step() is None and active() == 1
    assert state.hold_retry(known.clusters["v1"]) is not None
    call.finish()
    assert active() == 0


def test_a_caller_who_goes_ends_them_all() -> None:
    clock = Clock()
    call = engine(clock=clock).call(snapshot(), request(hedgeable=True))
    call.next_step()
    clock.now += PATIENCE
    assert isinstance(call.next_step(), Attempt)
    call.finish()
    assert call.record.flags == [Flag.DOWNSTREAM_CONNECTION_TERMINATION]
    assert [one.lost for one in call.record.attempts] == [True, True]


def test_outlier_detection_learns_of_what_is_late_once() -> None:
    detection = OutlierDetection(consecutive_5xx=2, consecutive_gateway_failure=0, max_ejection_percent=100)
    policy = RetryPolicy(POLICY.conditions, 1, PATIENCE)
    known = world(
        forward(retry=policy, timeout=3.0, hedge=True),
        clusters=[cluster(hosts=endpoints(2), outlier_detection=detection)],
    )
    clock = Clock()
    decider = engine(clock=clock)
    for ejected in (0, 2):
        # Both endpoints are late, and neither is counted again when the time of the call is over.
        run = perform(decider, clock, known, [(NEVER, OK)] * 2)
        run.call.finish()
        assert run.status == 504
        assert len(decider.ejected(known.clusters["v1"])) == ejected


def test_it_is_explained() -> None:
    told = explain(snapshot(), request())
    assert told.retry is not None and told.retry.hedge
    assert "  retries: 2 on 5xx, on another endpoint, hedged after 1 s" in told.to_text()
    assert not explain(world(forward(retry=POLICY)), request()).retry.hedge  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_the_books_balance(seed: int) -> None:
    draw = random.Random(seed)
    clock = Clock()
    decider = engine(seed, clock)
    policy = RetryPolicy(
        frozenset({"5xx"}),
        num_retries=draw.randrange(5),
        per_try_timeout=PATIENCE,
        retry_other_host=draw.random() < 0.5,
        back_off_base=draw.choice((0.0, 0.025, 1.0)),
        back_off_max=5.0,
    )
    timeout = draw.choice((None, 0.5, 2.0, 5.0))
    more = {"max_requests": draw.choice((None, 2)), "max_retries": draw.choice((None, 1))}
    known = snapshot(policy, timeout, **more)
    outcomes = (OK, OK, BAD, NOT_FOUND, RESET, REFUSED, Failed(FailureKind.OVERFLOW, ""))
    script = [(draw.choice((0.1, 0.9, 1.0, 1.1, 2.5, 7.0)), draw.choice(outcomes)) for _ in range(6)]
    run = perform(decider, clock, known, script)
    record, hosts = run.call.record, known.clusters["v1"].endpoints
    assert sum(decider.active_requests("v1", host.key) for host in hosts) == (1 if run.reply is None else 0)
    run.call.finish()
    assert not any(decider.active_requests("v1", host.key) for host in hosts)
    state = decider._states.get("v1", clock.now)
    assert not state._retries and not state._in_flight
    assert 1 <= len(record.attempts) <= policy.num_retries + 1
    assert timeout is None or run.ended <= timeout + 1e-6
    assert record.status == (record.attempts[-1].status if run.reply is None else run.reply.status)
    if run.reply is None:
        assert run.winner == record.attempts[-1].number
        good = [one for one in record.attempts if one.status in (200, 404)]
        assert len(good) == (1 if record.status in (200, 404) else 0)
    assert sorted(one.number for one in record.attempts) == list(range(1, len(record.attempts) + 1))
    assert record.target == TARGET

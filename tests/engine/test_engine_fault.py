import pytest
from engine_world import ANY, OK, Clock, attempts, binomial_bound, engine, forward, reply, request, run, world

from proxyless.engine.request import Request
from proxyless.engine.steps import Attempt, Delay, Flag, Respond
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher
from proxyless.model.route import DirectResponse, Fault, FaultAbort, FaultDelay, Route, WeightedCluster
from proxyless.model.snapshot import Snapshot

ALWAYS = 1_000_000
JASON = (HeaderMatcher("end-user", StringMatcher(StringKind.EXACT, "jason")),)
DELAY = Fault(FaultDelay(2.0, ALWAYS))
ABORT = Fault(abort=FaultAbort(ALWAYS, http_status=500))
BOTH = Fault(FaultDelay(2.0, ALWAYS), FaultAbort(ALWAYS, http_status=503))


def faulty(fault: Fault) -> Snapshot:
    return world(forward(route={"fault": fault}))


def test_delay_then_the_request() -> None:
    call = engine().call(faulty(DELAY), request())
    steps = run(call, OK)
    assert steps[0] == Delay(2.0, "fault")
    assert isinstance(steps[1], Attempt)
    assert call.record.flags == [Flag.DELAY_INJECTED]
    assert call.record.status == 200


def test_abort() -> None:
    call = engine().call(faulty(ABORT), request())
    answer = reply(run(call))
    assert (answer.status, answer.body, answer.flags) == (500, b"fault filter abort", (Flag.FAULT_INJECTED,))
    assert call.record.attempts == []


def test_delay_comes_before_abort() -> None:
    call = engine().call(faulty(BOTH), request())
    steps = run(call)
    assert [type(step) for step in steps] == [Delay, Respond]
    assert reply(steps).flags == (Flag.DELAY_INJECTED, Flag.FAULT_INJECTED)


def test_delay_and_abort_are_independent() -> None:
    draws, decide = 4000, engine(seed=11)
    snapshot = faulty(Fault(FaultDelay(1.0, 300_000), FaultAbort(200_000, http_status=500)))
    seen = {"delay": 0, "abort": 0, "both": 0}
    for _ in range(draws):
        call = decide.call(snapshot, request())
        step = call.next_step()
        delayed = isinstance(step, Delay)
        aborted = isinstance(call.next_step() if delayed else step, Respond)
        call.finish()
        seen["delay"] += delayed
        seen["abort"] += aborted
        seen["both"] += delayed and aborted
    for what, share in (("delay", 0.3), ("abort", 0.2), ("both", 0.06)):
        assert abs(seen[what] - share * draws) <= binomial_bound(share, draws)


@pytest.mark.parametrize(("parts", "happens"), [(0, 0), (ALWAYS, 200)])
def test_never_and_always(parts: int, happens: int) -> None:
    decide = engine()
    snapshot = faulty(Fault(abort=FaultAbort(parts, http_status=500)))
    aborted = [isinstance(decide.call(snapshot, request()).next_step(), Respond) for _ in range(200)]
    assert sum(aborted) == happens


def test_only_for_requests_that_meet_its_headers() -> None:
    snapshot = faulty(Fault(abort=FaultAbort(ALWAYS, http_status=500), headers=JASON))
    hit = engine().call(snapshot, request(headers=[("end-user", "jason")]))
    assert reply(run(hit)).status == 500
    missed = engine().call(snapshot, request(headers=[("end-user", "jane")]))
    assert len(attempts(run(missed, OK))) == 1


def test_a_more_specific_fault_replaces_the_others() -> None:
    def status(leg: Fault | None, route: Fault | None, listener: Fault | None) -> int | None:
        one = forward(WeightedCluster("v1", fault=leg), route={"fault": route})
        call = engine().call(world(one, listener={"fault": listener}), request())
        step = call.next_step()
        return step.status if isinstance(step, Respond) else None

    def abort(code: int) -> Fault:
        return Fault(abort=FaultAbort(ALWAYS, http_status=code))

    assert status(abort(501), abort(502), abort(503)) == 501
    assert status(None, abort(502), abort(503)) == 502
    assert status(None, None, abort(503)) == 503
    # Replaced even where its own condition does not hold.
    assert status(Fault(abort=FaultAbort(ALWAYS, 501), headers=JASON), abort(502), abort(503)) is None


def test_faults_act_where_nothing_is_forwarded() -> None:
    direct = Route(ANY, DirectResponse(204))
    assert reply(run(engine().call(world(direct), request()))).status == 204
    assert reply(run(engine().call(world(Route(ANY, DirectResponse(204), fault=ABORT)), request()))).status == 500
    assert reply(run(engine().call(world(direct, listener={"fault": ABORT}), request()))).status == 500
    assert reply(run(engine().call(world(listener={"fault": ABORT}), request()))).status == 500


@pytest.mark.parametrize(
    ("content_type", "abort", "status", "headers"),
    [
        (
            "application/grpc",
            FaultAbort(ALWAYS, grpc_status=8),
            200,
            {"grpc-status": "8", "grpc-message": "fault filter abort"},
        ),
        ("application/grpc+proto", FaultAbort(ALWAYS, http_status=503), 200, {"grpc-status": "14"}),
        ("application/json", FaultAbort(ALWAYS, grpc_status=8), 200, {"content-type": "text/plain"}),
        ("application/json", FaultAbort(ALWAYS, http_status=418), 418, {"content-type": "text/plain"}),
    ],
)
def test_abort_of_grpc_and_http_requests(
    content_type: str, abort: FaultAbort, status: int, headers: dict[str, str]
) -> None:
    head: Request = request(method="POST", headers=[("content-type", content_type)])
    answer = reply(run(engine().call(faulty(Fault(abort=abort)), head)))
    assert answer.status == status
    assert dict(answer.headers).items() >= headers.items()


def test_a_delay_ends_with_the_callers_deadline() -> None:
    clock = Clock()
    call = engine(clock=clock).call(faulty(DELAY), request(deadline=1000.5))
    steps = run(call, clock=clock)
    assert steps[0] == Delay(0.5, "fault")
    answer = reply(steps)
    assert (answer.status, answer.flags) == (504, (Flag.UPSTREAM_REQUEST_TIMEOUT, Flag.DELAY_INJECTED))


def test_a_delay_is_not_part_of_the_routes_timeout() -> None:
    clock = Clock()
    call = engine(clock=clock).call(world(forward(route={"fault": DELAY}, timeout=1.0)), request())
    first = attempts(run(call, OK, clock=clock))[0]
    assert first.timeout == pytest.approx(1.0)

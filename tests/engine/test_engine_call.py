import pytest
from engine_world import (
    ANY,
    OK,
    REFUSED,
    RESET,
    TARGET,
    Clock,
    attempts,
    binomial_bound,
    cluster,
    endpoints,
    engine,
    forward,
    regex,
    reply,
    request,
    run,
    world,
)

from proxyless.engine.record import CallRecord
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Flag, Respond
from proxyless.model.cluster import Cluster, ClusterKind, DropOverload, Endpoint, Health, LocalityEndpoints
from proxyless.model.errors import NotReadyError
from proxyless.model.matching import HeaderMatcher, PathKind, PathMatcher, RouteMatch, StringKind, StringMatcher
from proxyless.model.route import (
    DirectResponse,
    HeaderAction,
    HeaderMutations,
    HeaderSet,
    Listener,
    Redirect,
    Refused,
    RegexRewrite,
    RetryPolicy,
    Route,
    WeightedCluster,
)
from proxyless.model.snapshot import Snapshot

NOBODY = RouteMatch(PathMatcher(PathKind.NEVER))
SICK = Cluster("v1", localities=(LocalityEndpoints(endpoints(2, health=Health.UNHEALTHY)),))


def setting(name: str, value: str) -> HeaderMutations:
    return HeaderMutations((HeaderSet(name, value, HeaderAction.OVERWRITE),))


def test_a_plain_call() -> None:
    clock = Clock()
    decide = engine(clock=clock)
    snapshot = world(forward(route={"name": "default", "origin": "VirtualService default/reviews http[0]"}))
    head = request("/reviews/1?q=2", "POST", [("accept", "*/*")], authority="books.example")
    call = decide.call(snapshot, head)
    step = call.next_step()
    assert isinstance(step, Attempt)
    assert (step.method, step.path, step.authority, step.number) == ("POST", "/reviews/1?q=2", "books.example", 1)
    assert step.headers == [("accept", "*/*"), ("x-envoy-attempt-count", "1")]
    assert head.headers == [("accept", "*/*")]
    assert decide.active_requests("v1", step.endpoint.key) == 1
    clock.now += 0.25
    call.report(OK)
    assert call.next_step() is None
    assert call.next_step() is None
    assert decide.active_requests("v1", step.endpoint.key) == 1
    clock.now += 1
    call.finish()
    call.finish()
    assert decide.active_requests("v1", step.endpoint.key) == 0
    record = call.record
    assert (record.target, record.virtual_host, record.route) == (TARGET, "reviews", "default")
    assert record.origin == "VirtualService default/reviews http[0]"
    assert record.cluster is snapshot.clusters["v1"]
    assert (record.started, record.ended, record.status, record.flags) == (1000.0, 1001.25, 200, [])
    assert (record.attempts[0].ended, record.attempts[0].status) == (1000.25, 200)


def test_the_first_route_that_matches() -> None:
    jason = RouteMatch(ANY.path, (HeaderMatcher("end-user", StringMatcher(StringKind.EXACT, "jason")),))
    routes = [forward(WeightedCluster(name), match=match) for name, match in (("a", NOBODY), ("b", jason), ("c", ANY))]
    snapshot = world(*routes, clusters=[cluster(name) for name in "abc"])

    def chosen(*headers: tuple[str, str]) -> str:
        return attempts(run(engine().call(snapshot, request(headers=headers)), OK))[0].cluster.name

    assert chosen(("end-user", "jason")) == "b"
    assert chosen(("end-user", "jane")) == "c"
    assert chosen() == "c"


def test_a_route_for_a_fraction_of_requests() -> None:
    part = RouteMatch(ANY.path, fraction=250_000)
    snapshot = world(
        forward(WeightedCluster("a"), match=part), forward(WeightedCluster("b")), clusters=[cluster("a"), cluster("b")]
    )
    decide, draws = engine(9), 4000
    hits = 0
    for _ in range(draws):
        step = decide.call(snapshot, request()).next_step()
        assert isinstance(step, Attempt)
        hits += step.cluster.name == "a"
    assert abs(hits - draws / 4) <= binomial_bound(0.25, draws)


FAILURES = [
    ("no virtual host", Snapshot(listeners={TARGET: Listener(TARGET, "9080", None)}), 404, b"", Flag.NO_ROUTE),
    ("no route", world(forward(match=NOBODY)), 404, b"", Flag.NO_ROUTE),
    ("no cluster", world(forward(WeightedCluster("v9"))), 503, b"", Flag.NO_CLUSTER_FOUND),
    (
        "missing backend",
        world(
            forward(cluster_not_found_status=500), clusters=[Cluster("v1", problem="Service reviews-v9 does not exist")]
        ),
        500,
        b"",
        Flag.NO_CLUSTER_FOUND,
    ),
    ("no weights", world(forward(WeightedCluster("v1", 0))), 500, b"", Flag.NO_CLUSTER_FOUND),
    ("no endpoint", world(forward(), clusters=[Cluster("v1")]), 503, b"no healthy upstream", Flag.NO_HEALTHY_UPSTREAM),
    ("all sick", world(forward(), clusters=[SICK]), 503, b"no healthy upstream", Flag.NO_HEALTHY_UPSTREAM),
    (
        "overload",
        world(forward(), clusters=[cluster(drops=(DropOverload("lb", 0), DropOverload("throttle", 999_999)))]),
        503,
        b"drop overload",
        Flag.DROP_OVERLOAD,
    ),
    (
        "all dropped",
        world(forward(), clusters=[cluster(drops=(DropOverload("lb", 1_000_000),))]),
        503,
        b"unconditional drop overload",
        Flag.UNCONDITIONAL_DROP_OVERLOAD,
    ),
]


@pytest.mark.parametrize(("name", "snapshot", "status", "body", "flag"), FAILURES, ids=[row[0] for row in FAILURES])
def test_answers_of_the_mesh(name: str, snapshot: Snapshot, status: int, body: bytes, flag: Flag) -> None:
    call = engine().call(snapshot, request())
    answer = reply(run(call))
    assert (answer.status, answer.body, answer.flags) == (status, body, (flag,))
    assert answer.reason
    record = call.record
    assert (record.status, record.flags, record.reason) == (status, [flag], answer.reason)
    assert record.attempts == []
    # To a gRPC request the same is a trailers-only response.
    grpc = reply(run(engine().call(snapshot, request(method="POST", headers=[("content-type", "application/grpc")]))))
    assert (grpc.status, grpc.body) == (200, b"")
    assert dict(grpc.headers)["grpc-status"] == {404: "12", 503: "14", 500: "2"}[status]


@pytest.mark.parametrize(
    ("failed", "status", "flag", "cause"),
    [
        (
            REFUSED,
            503,
            Flag.UPSTREAM_CONNECTION_FAILURE,
            b"remote connection failure",
        ),
        (RESET, 503, Flag.UPSTREAM_CONNECTION_TERMINATION, b"connection termination"),
        (Failed(FailureKind.REFUSED_STREAM, ""), 503, Flag.UPSTREAM_REMOTE_RESET, b"remote refused stream reset"),
        (Failed(FailureKind.OVERFLOW, ""), 503, Flag.UPSTREAM_OVERFLOW, b"overflow"),
    ],
)
def test_failed_attempts(failed: Failed, status: int, flag: Flag, cause: bytes) -> None:
    call = engine().call(world(forward()), request())
    answer = reply(run(call, failed))
    assert (answer.status, answer.flags) == (status, (flag,))
    assert answer.body == b"upstream connect error or disconnect/reset before headers. reset reason: " + cause
    assert ("x-envoy-overloaded", "true") in answer.headers or failed.kind is not FailureKind.OVERFLOW


def test_reasons_are_safe_as_header_values() -> None:
    evil = Failed(FailureKind.CONNECT, "bad\r\nset-cookie: x\0é" + "x" * 9999)
    answer = reply(run(engine().call(world(forward()), request()), evil))
    assert len(answer.reason) <= 300
    assert answer.reason.isascii()
    assert answer.reason.isprintable()
    assert b"\n" not in answer.body


def test_refused_route() -> None:
    answer = reply(run(engine().call(world(Route(ANY, Refused("cluster_header is not supported"))), request())))
    assert (answer.status, answer.flags) == (500, ())
    assert "cluster_header is not supported" in answer.reason


def test_direct_response_and_redirect_get_the_routes_response_headers() -> None:
    direct = Route(ANY, DirectResponse(418, b"short and stout"), response_headers=setting("x-a", "route"))
    answer = reply(run(engine().call(world(direct, response_headers=setting("x-b", "host")), request())))
    assert (answer.status, answer.body, answer.flags) == (418, b"short and stout", ())
    assert dict(answer.headers).items() >= {"x-a": "route", "x-b": "host"}.items()
    redirect = Route(ANY, Redirect(302, host="other"), response_headers=setting("x-a", "route"))
    answer = reply(run(engine().call(world(redirect), request("/x"))))
    assert answer.status == 302
    assert dict(answer.headers) == {"location": "http://other/x", "x-a": "route"}


def test_a_target_the_mesh_does_not_know_goes_out_as_it_is() -> None:
    headers = [("x-envoy-max-retries", "3"), ("x-a", "1")]
    snapshot = Snapshot(listeners={TARGET: None, "[::1]:81": None})
    call = engine().call(snapshot, request("/a?b", headers=headers, authority="other"))
    steps = run(call, OK)
    (step,) = attempts(steps)
    assert step.endpoint == Endpoint("reviews", 9080)
    assert (step.cluster.name, step.cluster.kind) == ("PassthroughCluster", ClusterKind.PASSTHROUGH)
    assert (step.path, step.authority, step.headers, step.timeout) == ("/a?b", "other", headers, None)
    assert call.record.cluster is step.cluster
    head = request()
    head.target = "[::1]:81"
    step = attempts(run(engine().call(snapshot, head), OK))[0]
    assert step.endpoint == Endpoint("::1", 81)
    failed = reply(run(engine().call(snapshot, request()), REFUSED))
    assert (failed.status, failed.flags) == (503, (Flag.UPSTREAM_CONNECTION_FAILURE,))


def test_a_route_to_a_passthrough_cluster_uses_the_dialled_address() -> None:
    snapshot = world(forward(), clusters=[Cluster("v1", ClusterKind.PASSTHROUGH)])
    (step,) = attempts(run(engine().call(snapshot, request()), OK))
    assert step.endpoint == Endpoint("reviews", 9080)


def test_a_target_that_was_not_resolved_is_the_callers_mistake() -> None:
    with pytest.raises(NotReadyError, match=TARGET):
        engine().call(Snapshot(), request())


def test_headers_to_the_endpoint() -> None:
    leg = WeightedCluster("v1", request_headers=setting("x-leg", "leg"), response_headers=setting("x-who", "leg"))
    route = forward(
        leg, route={"request_headers": setting("x-route", "route"), "response_headers": setting("x-who", "route")}
    )
    snapshot = world(
        route,
        request_headers=HeaderMutations((HeaderSet("x-host", "host", HeaderAction.APPEND),), ("x-gone",)),
        response_headers=setting("x-host", "host"),
    )
    forged = [
        ("x-forwarded-client-cert", "By=spiffe://forged"),
        ("x-envoy-attempt-count", "7"),
        ("x-envoy-original-path", "/forged"),
        ("x-envoy-internal", "true"),
    ]
    call = engine().call(snapshot, request(headers=[("x-gone", "1"), ("x-kept", "1"), *forged]))
    (step,) = attempts(run(call, OK))
    assert step.headers == [
        ("x-kept", "1"),
        ("x-leg", "leg"),
        ("x-route", "route"),
        ("x-host", "host"),
        ("x-envoy-attempt-count", "1"),
    ]
    # The least specific level comes last and wins, as in Envoy.
    assert call.response_headers([("x-who", "service")]) == [("x-who", "route"), ("x-host", "host")]


def test_rewrites() -> None:
    v1 = RouteMatch(PathMatcher(PathKind.PREFIX, "/v1"))
    call = engine().call(world(forward(match=v1, prefix_rewrite="/v2", host_rewrite="internal")), request("/v1/a?q"))
    (step,) = attempts(run(call, OK))
    assert (step.path, step.authority) == ("/v2/a?q", "internal")
    assert ("x-envoy-original-path", "/v1/a?q") in step.headers
    call = engine().call(world(forward(regex_rewrite=RegexRewrite(regex("/a"), "/b"))), request("/a/a?/a"))
    assert attempts(run(call, OK))[0].path == "/b/b?/a"


@pytest.mark.parametrize(
    ("route", "leg", "auto", "hostname", "expected"),
    [
        (None, None, False, "pod", TARGET),
        (None, "leg", False, "", "leg"),
        ("route", "leg", False, "", "route"),
        (None, None, True, "pod", "pod"),
        (None, None, True, "", TARGET),
    ],
)
def test_host_rewrites(route: str | None, leg: str | None, auto: bool, hostname: str, expected: str) -> None:
    one = forward(WeightedCluster("v1", host_rewrite=leg), host_rewrite=route, auto_host_rewrite=auto)
    snapshot = world(one, clusters=[cluster(hosts=[Endpoint("10.0.0.1", 1, hostname=hostname)])])
    (step,) = attempts(run(engine().call(snapshot, request()), OK))
    assert step.authority == expected


def test_giving_up_is_recorded_and_counted_back() -> None:
    decide = engine()
    call = decide.call(world(forward()), request())
    step = call.next_step()
    assert isinstance(step, Attempt)
    call.finish()
    assert decide.active_requests("v1", step.endpoint.key) == 0
    assert (call.record.status, call.record.flags) == (None, [Flag.DOWNSTREAM_CONNECTION_TERMINATION])
    assert call.next_step() is None


def test_a_call_keeps_its_snapshot() -> None:
    """What a later snapshot says has no effect on a call that is under way (gRFC A74)."""
    decide = engine()
    policy = RetryPolicy(frozenset({"5xx"}), num_retries=1)
    old = world(forward(retry=policy), clusters=[cluster(hosts=endpoints(1))])
    new = world(forward(), clusters=[cluster(hosts=endpoints(1, first=50))])
    call = decide.call(old, request())
    first = call.next_step()
    other = decide.call(new, request()).next_step()
    call.report(Answered(503, []))
    assert isinstance(call.next_step(), Delay)
    second = call.next_step()
    assert isinstance(first, Attempt)
    assert isinstance(second, Attempt)
    assert isinstance(other, Attempt)
    assert (first.endpoint.port, other.endpoint.port, second.endpoint.port) == (8001, 8050, 8001)


def test_a_fork_draws_its_own_numbers_and_has_nothing_in_flight() -> None:
    from proxyless.engine.engine import Engine

    decide = Engine()
    snapshot = world(forward())
    step = decide.call(snapshot, request()).next_step()
    assert isinstance(step, Attempt)
    before = decide._rng.getstate()
    decide.after_fork()
    assert decide._rng.getstate() != before
    assert decide.active_requests("v1", step.endpoint.key) == 0


def test_what_is_derived_from_routes_is_bounded() -> None:
    decide = engine()
    for _ in range(5000):
        decide.call(world(forward()), request())
    assert len(decide._known.splits) <= 4096


def test_flags_are_kept_once_in_order() -> None:
    record = CallRecord("a:1", 0.0)
    for flag in (Flag.DELAY_INJECTED, Flag.FAULT_INJECTED, Flag.DELAY_INJECTED):
        record.flag(flag)
    assert record.flags == [Flag.DELAY_INJECTED, Flag.FAULT_INJECTED]


def test_a_direct_response_of_a_route_is_a_respond() -> None:
    assert isinstance(engine().call(world(Route(ANY, DirectResponse(204))), request()).next_step(), Respond)

import json
from dataclasses import replace

import pytest
from engine_world import ANY, OK, TARGET, attempts, cluster, endpoints, engine, forward, reply, request, run, world

from proxyless.engine.explain import explain
from proxyless.model.cluster import Cluster, DropOverload, Endpoint, Health, UpstreamTls
from proxyless.model.errors import NotReadyError
from proxyless.model.matching import (
    NEVER,
    HeaderMatcher,
    IntRange,
    PathKind,
    PathMatcher,
    QueryMatcher,
    RouteMatch,
    StringKind,
    StringMatcher,
)
from proxyless.model.route import (
    DirectResponse,
    Fault,
    FaultAbort,
    FaultDelay,
    HeaderAction,
    HeaderMutations,
    HeaderSet,
    Listener,
    Redirect,
    Refused,
    RetryPolicy,
    Route,
    WeightedCluster,
)
from proxyless.model.snapshot import Origin, Snapshot

PEER = StringMatcher(StringKind.EXACT, "spiffe://cluster.local/ns/default/sa/reviews")
SECURE = Endpoint("10.0.0.7", 9080, tls=UpstreamTls((PEER,)), labels={"version": "v2"})
JASON = HeaderMatcher("end-user", StringMatcher(StringKind.EXACT, "jason"))
ROUTES = (
    forward(
        WeightedCluster("v1"),
        match=RouteMatch(ANY.path, (JASON,)),
        route={"origin": "VirtualService default/reviews http[0]"},
    ),
    forward(
        WeightedCluster("v1", 9, request_headers=HeaderMutations((HeaderSet("x-v", "1", HeaderAction.OVERWRITE),))),
        WeightedCluster("v2", 1),
        timeout=3.0,
        retry=RetryPolicy(frozenset({"connect-failure", "5xx"}), 2, per_try_timeout=1.0, retry_other_host=True),
        route={
            "origin": "VirtualService default/reviews http[1]",
            "fault": Fault(FaultDelay(2.0, 500_000), FaultAbort(1000, http_status=503), headers=(JASON,)),
        },
    ),
)
SNAPSHOT = replace(
    world(
        *ROUTES,
        clusters=[
            cluster("v1", [*endpoints(1), *endpoints(1, first=2, health=Health.DRAINING)]),
            cluster("v2", [SECURE], drops=(DropOverload("lb", 10_000),)),
        ],
    ),
    origin=Origin.CONTROL_PLANE,
)


def test_forward_as_data() -> None:
    told = explain(SNAPSHOT, request("/reviews/1")).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["outcome"], told["route"], told["origin"]) == ("forward", 1, "VirtualService default/reviews http[1]")
    assert [(check["matched"], check["why"]) for check in told["routes"]] == [
        (False, 'header end-user is absent, wanted exact "jason"'),
        (True, "path prefix /"),
    ]
    assert [(leg["cluster"], leg["share"]) for leg in told["clusters"]] == [("v1", 90.0), ("v2", 10.0)]
    v1, v2 = told["clusters"]
    assert [(host["address"], host["usable"], host["health"]) for host in v1["endpoints"]] == [
        ("10.0.0.1:8001", True, "HEALTHY"),
        ("10.0.0.1:8002", False, "DRAINING"),
    ]
    assert v2["endpoints"][0]["san"] == ['exact "spiffe://cluster.local/ns/default/sa/reviews"']
    assert v2["endpoints"][0]["labels"] == {"version": "v2"}
    assert v2["drop_percent"] == 1.0
    assert v1["request_headers"] == [{"source": "cluster", "action": "overwrite", "name": "x-v", "value": "1"}]
    assert v1["fault"]["applies"] is False
    assert (v1["fault"]["delay_percent"], v1["fault"]["abort_percent"]) == (50.0, 0.1)
    assert told["timeout"] == 3.0
    assert told["retry"]["conditions"] == ["5xx", "connect-failure"]
    assert (told["retry"]["num_retries"], told["retry"]["per_try_timeout"]) == (2, 1.0)


def test_forward_as_text() -> None:
    text = "\n".join(explain(SNAPSHOT, request("/reviews/1")).to_text())
    for line in (
        "listener reviews:9080, routes 9080, from the control-plane (snapshot 3)",
        "[0] VirtualService default/reviews http[0]: no: header end-user is absent",
        "-> [1] VirtualService default/reviews http[1]: matches",
        "90% cluster v1 (ROUND_ROBIN, http/1.1)",
        "10% cluster v2",
        "10.0.0.1:8002 draining, not used, plaintext",
        'mutual TLS, peer exact "spiffe://cluster.local/ns/default/sa/reviews"',
        'delay 2 s for 50%, abort 503 for 0.1% of requests with end-user exact "jason"',
        "; this request is not one of them",
        "timeout: 3 s",
        "retries: 2 on 5xx, connect-failure, on another endpoint, 1 s a try",
        "drops 1% of requests",
    ):
        assert line in text


def test_one_user() -> None:
    told = explain(SNAPSHOT, request("/", headers=[("end-user", "jason")]))
    assert (told.route, told.origin) == (0, "VirtualService default/reviews http[0]")


@pytest.mark.parametrize(
    ("match", "why"),
    [
        (RouteMatch(PathMatcher(PathKind.EXACT, "/b")), "path /a is not exact /b"),
        (RouteMatch(PathMatcher(PathKind.PREFIX, "/B", case_sensitive=False)), "path /a is not prefix /B (any case)"),
        (RouteMatch(PathMatcher(PathKind.SEPARATED_PREFIX, "/b")), "path /a is not /b or below it"),
        (RouteMatch(PathMatcher(PathKind.REGEX, "/b+")), "path /a is not regex /b+"),
        (RouteMatch(PathMatcher(PathKind.NEVER)), "path /a is not matchable (its matcher is unknown)"),
        (RouteMatch(ANY.path, (HeaderMatcher("x", NEVER),)), 'header x is "5", wanted nothing (an unknown matcher)'),
        (RouteMatch(ANY.path, (HeaderMatcher("x", IntRange(6, 9)),)), 'header x is "5", wanted from 6 to below 9'),
        (RouteMatch(ANY.path, (HeaderMatcher("x", invert=True),)), 'header x is "5", wanted absent'),
        (
            RouteMatch(
                ANY.path, (HeaderMatcher(":method", StringMatcher(StringKind.EXACT, "get", True), invert=True),)
            ),
            'header :method is "GET", wanted not exact "get" (any case)',
        ),
        (RouteMatch(ANY.path, query=(QueryMatcher("p"),)), "query p is absent, wanted present"),
        (
            RouteMatch(ANY.path, query=(QueryMatcher("q", StringMatcher(StringKind.PREFIX, "2")),)),
            'query q is "1", wanted prefix "2"',
        ),
    ],
)
def test_why_a_route_does_not_match(match: RouteMatch, why: str) -> None:
    snapshot, head = world(forward(match=match)), request("/a?q=1", headers=[("x", "5")])
    told = explain(snapshot, head)
    assert told.routes[0].why == why
    assert (told.outcome, told.status, told.route) == ("no_route", 404, None)
    # The same as a call: same answer, same words.
    assert reply(run(engine().call(snapshot, head))).reason == told.reason
    assert any("answered 404" in line for line in told.to_text())


def test_a_fraction_is_told_and_the_rest_explained() -> None:
    part = RouteMatch(ANY.path, fraction=100_000)
    told = explain(world(forward(match=part), forward(timeout=7.0)), request())
    assert [(check.matched, check.percent) for check in told.routes] == [(True, 10.0), (True, 100.0)]
    assert (told.route, told.timeout) == (1, 7.0)
    assert any("matches 10% of such requests" in line for line in told.to_text())


def test_other_outcomes() -> None:
    location = explain(world(Route(ANY, Redirect(302, host="b"))), request("/x"))
    assert (location.outcome, location.status, location.location) == ("redirect", 302, "http://b/x")
    direct = explain(world(Route(ANY, DirectResponse(418))), request())
    assert (direct.outcome, direct.status) == ("direct_response", 418)
    refused = explain(world(Route(ANY, Refused("no such thing"))), request())
    assert (refused.outcome, refused.status) == ("refused", 500)
    assert "no such thing" in refused.reason
    unknown = explain(Snapshot(listeners={TARGET: None}), request())
    assert unknown.outcome == "passthrough"
    nobody = explain(Snapshot(listeners={TARGET: Listener(TARGET, "9080", None)}), request())
    assert (nobody.outcome, nobody.status) == ("no_route", 404)
    for told in (location, direct, refused, unknown, nobody):
        assert json.dumps(told.to_dict())
        assert all(isinstance(line, str) for line in told.to_text())
    with pytest.raises(NotReadyError):
        explain(Snapshot(), request())


@pytest.mark.parametrize(
    ("clusters", "status", "problem"),
    [
        ([cluster("v9")], 503, "not known"),
        ([Cluster("v1", problem="Service reviews-v9 does not exist")], 503, "reviews-v9"),
        ([Cluster("v1")], 503, "no healthy upstream"),
    ],
)
def test_clusters_that_cannot_serve(clusters: list[Cluster], status: int, problem: str) -> None:
    snapshot = world(forward(), clusters=clusters)
    (leg,) = explain(snapshot, request()).clusters
    assert leg.status == status
    assert problem in leg.problem
    assert reply(run(engine().call(snapshot, request()))).status == status


def test_no_weight_at_all() -> None:
    told = explain(world(forward(WeightedCluster("v1", 0))), request())
    assert (told.status, [leg.share for leg in told.clusters]) == (500, [0.0])
    assert any("weight 0" in line for line in told.to_text())


def test_explanation_and_call_agree() -> None:
    """Over many requests, the route that is explained is the route that is taken, and the sent head is the one told."""
    decide = engine()
    matches = [
        RouteMatch(PathMatcher(PathKind.PREFIX, f"/{n}"), (HeaderMatcher("x"),) if n % 2 else ()) for n in range(4)
    ]
    routes = [forward(match=match, prefix_rewrite="/new", route={"name": str(n)}) for n, match in enumerate(matches)]
    snapshot = world(*routes)
    for path in ("/0", "/1/a", "/2?q", "/3", "/4"):
        for headers in ([], [("x", "1")]):
            head = request(path, headers=headers)
            told, call = explain(snapshot, head), decide.call(snapshot, head)
            if told.outcome == "no_route":
                assert reply(run(call)).status == 404
                continue
            (attempt,) = attempts(run(call, OK))
            assert told.route is not None
            assert call.record.route == told.routes[told.route].name
            assert attempt.path == told.sent_path

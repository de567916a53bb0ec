"""VirtualServices as routes: Istio's semantics, for each kind of client."""

import pytest
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from translate_world import ENVOY, GRPC, LIBRARY, destinations, fields, notes, routes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.base import StringMatch
from proxyless.control_plane.resources.virtual_service import HTTPMatchRequest
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.route_match import route_match
from proxyless.control_plane.translate.translator import Translator

HOST = "reviews.default.svc.cluster.local"
TARGET = f"{HOST}:80"


def cluster(subset: str = "", port: int = 80, host: str = HOST) -> str:
    return f"outbound|{port}|{subset}|{host}"


def translator(http: str, head: str = "hosts: [reviews]", *more: str) -> Translator:
    """A world with reviews, ratings and one VirtualService with these http routes (a flow sequence)."""
    rule = f"""
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {{name: reviews, namespace: default}}
            spec: {{{head}, http: {http}}}
    """
    return Translator(world("\n---\n".join([rule, *more]), workload("reviews", version="v1"), workload("ratings")))


TO_V1 = "route: [{destination: {host: reviews, subset: v1}}]"
TO_ALL = "route: [{destination: {host: reviews}}]"


def test_without_a_rule_everything_goes_to_the_service_with_istios_default_retries() -> None:
    (route,) = routes(Translator(world("", workload("reviews"))), TARGET)
    assert (route.match.prefix, destinations(route)) == ("/", {cluster(): 1})
    assert route.route.HasField("timeout")
    assert route.route.timeout.ToSeconds() == 0
    retry = route.route.retry_policy
    assert retry.num_retries.value == 2
    assert retry.retry_on == (
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,reset-idempotent"
    )
    assert retry.host_selection_retry_max_attempts == 5
    assert [one.name for one in retry.retry_host_predicate] == ["envoy.retry_host_predicates.previous_hosts"]


@pytest.mark.parametrize("client", [GRPC, ENVOY])
def test_the_librarys_own_retry_condition_is_sent_to_nobody_else(client: Client) -> None:
    (route,) = routes(Translator(world("", workload("reviews"))), TARGET, client)
    assert route.route.retry_policy.retry_on == (
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    )


def test_a_split_keeps_its_weights_and_drops_zeros() -> None:
    (route,) = routes(
        translator(
            """[{route: [{destination: {host: reviews, subset: v1}, weight: 90},
                         {destination: {host: reviews, subset: v2}, weight: 10},
                         {destination: {host: reviews, subset: v3}, weight: 0}]}]"""
        ),
        TARGET,
    )
    assert destinations(route) == {cluster("v1"): 90, cluster("v2"): 10}
    assert fields(route.metadata, "proxyless") == {"origin": "VirtualService default/reviews http[0]"}
    assert fields(route.metadata, "istio") == {
        "config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"
    }


def test_the_weight_of_an_only_destination_does_not_count() -> None:
    (route,) = routes(translator("[{route: [{destination: {host: reviews, subset: v1}, weight: 0}]}]"), TARGET)
    assert destinations(route) == {cluster("v1"): 1}


def test_or_over_the_match_list_and_order_and_nothing_after_a_catch_all() -> None:
    found = routes(
        translator(
            f"""[{{name: first, match: [{{name: a, uri: {{exact: /a}}}}, {{uri: {{prefix: /b}},
                   method: {{exact: GET}}}}],
                   {TO_V1}}},
                 {{name: second, match: [{{uri: {{prefix: /}}}}, {{uri: {{exact: /never}}}}], {TO_ALL}}},
                 {{name: never, {TO_V1}}}]"""
        ),
        TARGET,
    )
    assert [route.name for route in found] == ["first.a", "first", "second"]
    assert found[0].match.path == "/a"
    assert found[1].match.prefix == "/b"
    assert [(one.name, one.string_match.exact) for one in found[1].match.headers] == [(":method", "GET")]


def test_conditions() -> None:
    (route, *_) = routes(
        translator(
            f"""[{{match: [{{uri: {{regex: "/r/[0-9]+"}}, ignoreUriCase: true,
                   headers: {{X-B: {{exact: b}}, x-a: {{}}}},
                   withoutHeaders: {{x-no: {{prefix: p}}, x-none: {{}}}},
                   authority: {{exact: h}}, scheme: {{exact: https}},
                   queryParams: {{q: {{exact: "1"}}, p: {{}}}}}}], {TO_V1}}}]"""
        ),
        TARGET,
    )
    match = route.match
    assert match.safe_regex.regex == "/r/[0-9]+"
    assert not match.case_sensitive.value
    headers = {one.name: one for one in match.headers}
    assert list(headers) == ["x-a", "x-b", "x-no", "x-none", ":authority", ":scheme"]
    assert headers["x-a"].present_match
    assert headers["x-b"].string_match.exact == "b"
    assert headers["x-no"].invert_match
    assert headers["x-no"].treat_missing_header_as_empty
    assert headers["x-none"].invert_match
    assert not headers["x-none"].treat_missing_header_as_empty
    assert [(one.name, one.present_match, one.string_match.exact) for one in match.query_parameters] == [
        ("p", True, ""),
        ("q", False, "1"),
    ]


@pytest.mark.parametrize(
    ("condition", "client", "expected"),
    [
        ("port: 80", LIBRARY, True),
        ("port: 9080", LIBRARY, False),
        ("sourceNamespace: default", LIBRARY, True),
        ("sourceNamespace: other", LIBRARY, False),
        ("sourceLabels: {app: web}", Client(labels={"app": "web", "x": "y"}), True),
        ("sourceLabels: {app: web}", LIBRARY, False),
        ("gateways: [mesh, g]", LIBRARY, True),
        ("gateways: [g]", LIBRARY, False),
        ("gateways: [mesh], sourceNamespace: other", LIBRARY, True),  # gateways make the source irrelevant
        ("queryParams: {q: {exact: '1'}}", LIBRARY, True),
        ("queryParams: {q: {exact: '1'}}", GRPC, False),
    ],
)
def test_what_depends_on_the_client_is_decided_here(condition: str, client: Client, expected: bool) -> None:
    found = routes(
        translator(f"[{{name: it, match: [{{uri: {{exact: /it}}, {condition}}}], {TO_V1}}}, {{{TO_ALL}}}]"),
        TARGET,
        client,
    )
    assert [route.name for route in found] == (["it", ""] if expected else [""])


def test_a_condition_on_claims_cannot_be_met_without_a_gateway() -> None:
    said = Notes()
    claim = {"@request.auth.claims.sub": StringMatch(exact="me")}
    for match in (HTTPMatchRequest(headers=claim), HTTPMatchRequest(without_headers=claim)):
        assert route_match(match, LIBRARY.scope, said, "here") is None
    assert said.all == ("here: left out, @request.auth.claims.sub can be matched by gateways only",)


def test_a_rule_that_has_no_route_for_a_client_leaves_the_service_as_it_is() -> None:
    (route,) = routes(translator(f"[{{match: [{{sourceNamespace: other}}], {TO_V1}}}]"), TARGET)
    assert (route.name, destinations(route)) == ("default", {cluster(): 1})


def test_what_grpc_does_not_act_on_is_said() -> None:
    rule = f"""[{{headers: {{request: {{set: {{a: b}}}}}}, rewrite: {{uri: /x}}, {TO_V1}}}]"""
    said = notes(translator(rule), GRPC, type_urls.ROUTE, TARGET)
    assert [one.split(": ")[1].split()[0] for one in said] == ["headers", "rewrite"]
    assert notes(translator(rule), LIBRARY, type_urls.ROUTE, TARGET) == ()


@pytest.mark.parametrize(
    ("client", "timeout", "stream"),
    [
        (LIBRARY, 2.5, ""),
        # Beside it Envoy would not look at the timeout.
        (ENVOY, 2.5, ""),
        (ENVOY, 0, "grpc_timeout_header_max"),
        (GRPC, 2.5, "max_stream_duration"),
    ],
)
def test_timeouts(client: Client, timeout: float, stream: str) -> None:
    (route,) = routes(translator(f"[{{timeout: {timeout}s, {TO_V1}}}]"), TARGET, client)
    assert route.route.timeout.ToTimedelta().total_seconds() == timeout
    assert [field.name for field, _ in route.route.max_stream_duration.ListFields()] == ([stream] if stream else [])


@pytest.mark.parametrize(
    ("retries", "num", "retry_on", "codes"),
    [
        ("{attempts: 0}", None, "", []),
        (
            "{attempts: 4}",
            4,
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,reset-idempotent",
            [],
        ),
        ("{attempts: 1, retryOn: '5xx, reset'}", 1, "5xx,reset", []),
        ("{attempts: 1, retryOn: '503,reset,429'}", 1, "reset,retriable-status-codes", [503, 429]),
    ],
)
def test_retries(retries: str, num: int | None, retry_on: str, codes: list[int]) -> None:
    (route,) = routes(translator(f"[{{retries: {retries}, {TO_V1}}}]"), TARGET)
    assert route.route.HasField("retry_policy") is (num is not None)
    if num is not None:
        policy = route.route.retry_policy
        assert (policy.num_retries.value, policy.retry_on) == (num, retry_on)
        assert list(policy.retriable_status_codes) == codes


def test_retry_details() -> None:
    (route,) = routes(
        translator(
            f"""[{{retries: {{attempts: 1, perTryTimeout: 250ms, backoff: 1s, retryIgnorePreviousHosts: false}},
                   {TO_V1}}}]"""
        ),
        TARGET,
    )
    policy = route.route.retry_policy
    assert policy.per_try_timeout.nanos == 250_000_000
    assert policy.retry_back_off.base_interval.seconds == 1
    assert not policy.retry_host_predicate


HEDGED = "annotations: {proxyless.io/hedge-on-per-try-timeout: 'true'}"
PATIENT = "retries: {attempts: 1, perTryTimeout: 1s}"
ANNOTATED = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: NAME, namespace: default, ANNOTATIONS}
    spec: SPEC
"""


def annotated(name: str, annotations: str, spec: str) -> str:
    return ANNOTATED.replace("NAME", name).replace("ANNOTATIONS", annotations).replace("SPEC", spec)


@pytest.mark.parametrize("kind", [LIBRARY, ENVOY, GRPC])
@pytest.mark.parametrize("annotations", [HEDGED, HEDGED.replace("true", "false"), ""])
def test_hedging_is_the_routes_own_hedge_policy(kind: Client, annotations: str) -> None:
    hedged = annotations == HEDGED
    text = annotated("reviews", annotations, f"{{hosts: [reviews], http: [{{{PATIENT}, {TO_V1}}}]}}")
    decider = Translator(world(text, workload("reviews", version="v1")))
    (route,) = routes(decider, TARGET, kind)
    assert route.route.hedge_policy.hedge_on_per_try_timeout is hedged
    assert route.route.HasField("hedge_policy") is hedged
    told = [one for one in notes(decider, kind, type_urls.ROUTE, TARGET) if "hedge" in one]
    assert bool(told) is (hedged and kind is GRPC), told


def test_a_delegate_hedges_by_its_own_annotation() -> None:
    root = annotated("reviews", HEDGED, f"{{hosts: [reviews], http: [{{{PATIENT}, delegate: {{name: d}}}}]}}")
    for annotations, hedged in ((HEDGED, True), ("", False)):
        text = f"{root}---{annotated('d', annotations, f'{{http: [{{{TO_V1}}}]}}')}"
        (route,) = routes(Translator(world(text, workload("reviews", version="v1"))), TARGET)
        assert route.route.retry_policy.per_try_timeout.seconds == 1
        assert route.route.hedge_policy.hedge_on_per_try_timeout is hedged


@pytest.mark.parametrize(
    ("fault", "delay", "abort"),
    [
        ("{delay: {fixedDelay: 2s, percentage: {value: 100}}}", (2, 1_000_000), None),
        ("{delay: {fixedDelay: 2s, percent: 5}}", (2, 50_000), None),
        ("{delay: {fixedDelay: 2s, percentage: {value: 0.0001}}}", (2, 1), None),
        ("{delay: {fixedDelay: 2s}}", (2, 0), None),
        ("{abort: {httpStatus: 418, percentage: {value: 12.5}}}", None, ("http_status", 418, 125_000)),
        ("{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}", None, ("grpc_status", 14, 1_000_000)),
        ("{abort: {httpStatus: 500}}", None, ("http_status", 500, 0)),
    ],
)
def test_faults(fault: str, delay: tuple[int, int] | None, abort: tuple[str, int, int] | None) -> None:
    (route,) = routes(translator(f"[{{fault: {fault}, {TO_V1}}}]"), TARGET)
    found = fault_pb2.HTTPFault.FromString(route.typed_per_filter_config["envoy.filters.http.fault"].value)
    assert found.HasField("delay") is (delay is not None)
    assert found.HasField("abort") is (abort is not None)
    if delay is not None:
        assert (found.delay.fixed_delay.seconds, found.delay.percentage.numerator) == delay
    if abort is not None:
        kind = found.abort.WhichOneof("error_type")
        assert (kind, getattr(found.abort, kind), found.abort.percentage.numerator) == abort


def test_header_changes_of_the_route_and_of_its_destinations() -> None:
    http = """[{headers: {request: {set: {b: '1', a: '2'}, add: {c: '3'}, remove: [d]},
                          response: {set: {e: '4'}, remove: [f]}},
                route: [{destination: {host: reviews, subset: v1}, %s
                         headers: {request: {set: {Host: other, g: '5'}}}}%s]}]"""
    (single,) = routes(translator(http % ("", "")), TARGET)
    added = [(one.header.key, one.header.value, one.append_action) for one in single.request_headers_to_add]
    overwrite = 2
    assert added == [("a", "2", overwrite), ("b", "1", overwrite), ("c", "3", 0), ("g", "5", overwrite)]
    assert list(single.request_headers_to_remove) == ["d"]
    assert [one.header.key for one in single.response_headers_to_add] == ["e"]
    assert list(single.response_headers_to_remove) == ["f"]
    assert single.route.host_rewrite_literal == "other"
    second = ", {destination: {host: reviews, subset: v2}, weight: 1}"
    (split,) = routes(translator(http % ("weight: 1,", second)), TARGET)
    leg = split.route.weighted_clusters.clusters[0]
    assert [one.header.key for one in leg.request_headers_to_add] == ["g"]
    assert leg.host_rewrite_literal == "other"
    assert not split.route.host_rewrite_literal


def test_rewrites() -> None:
    (prefix,) = routes(translator(f"[{{rewrite: {{uri: /v2, authority: r.example.com}}, {TO_V1}}}]"), TARGET)
    assert (prefix.route.prefix_rewrite, prefix.route.host_rewrite_literal) == ("/v2", "r.example.com")
    (regex,) = routes(
        translator(
            f"[{{rewrite: {{uriRegexRewrite: {{match: '^/(.*)$', rewrite: '/x/\\1'}}}}, {TO_V1}}}]",
        ),
        TARGET,
    )
    assert regex.route.regex_rewrite.pattern.regex == "^/(.*)$"
    assert regex.route.regex_rewrite.substitution == r"/x/\1"


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        (
            "{uri: /new, authority: a.example.com}",
            ("/new", "a.example.com", "", 0, rc.RedirectAction.MOVED_PERMANENTLY),
        ),
        ("{scheme: https, redirectCode: 302}", ("", "", "https", 0, rc.RedirectAction.FOUND)),
        ("{port: 8080, redirectCode: 307}", ("", "", "", 8080, rc.RedirectAction.TEMPORARY_REDIRECT)),
        ("{derivePort: FROM_REQUEST_PORT}", ("", "", "", 0, rc.RedirectAction.MOVED_PERMANENTLY)),  # 80 is http's own
        ("{scheme: https, derivePort: FROM_REQUEST_PORT}", ("", "", "https", 80, rc.RedirectAction.MOVED_PERMANENTLY)),
    ],
)
def test_redirects(redirect: str, expected: tuple[object, ...]) -> None:
    (route,) = routes(translator(f"[{{redirect: {redirect}}}]"), TARGET)
    found = route.redirect
    assert expected == (
        found.path_redirect,
        found.host_redirect,
        found.scheme_redirect,
        found.port_redirect,
        found.response_code,
    )


def test_direct_responses() -> None:
    (text,) = routes(translator("[{directResponse: {status: 418, body: {string: tea}}}]"), TARGET)
    assert (text.direct_response.status, text.direct_response.body.inline_string) == (418, "tea")
    (data,) = routes(translator("[{directResponse: {status: 200, body: {bytes: aGk=}}}]"), TARGET)
    assert data.direct_response.body.inline_bytes == b"hi"


def test_mirrors_and_cors_go_to_who_knows_them_and_are_reported_for_others() -> None:
    rule = translator(
        f"""[{{mirror: {{host: ratings}}, mirrorPercentage: {{value: 10}},
               mirrors: [{{destination: {{host: reviews}}, percentage: {{value: 0}}}}],
               corsPolicy: {{allowOrigins: [{{exact: https://a}}], allowMethods: [GET, PUT], maxAge: 1h}}, {TO_V1}}}]"""
    )
    for client, lacks in ((ENVOY, 0), (LIBRARY, 1), (GRPC, 2)):
        (route,) = routes(rule, TARGET, client)
        mirrors = [
            (one.cluster, one.runtime_fraction.default_value.numerator) for one in route.route.request_mirror_policies
        ]
        assert all(one.disable_shadow_host_suffix_append for one in route.route.request_mirror_policies)
        assert mirrors == ([] if client is GRPC else [(cluster(host="ratings.default.svc.cluster.local"), 100_000)])
        assert ("envoy.filters.http.cors" in route.typed_per_filter_config) is (client is ENVOY)
        assert len(notes(rule, client, type_urls.ROUTE, TARGET)) == lacks


def test_a_missing_service_is_kept_as_a_destination_whose_share_is_503() -> None:
    rule = translator(
        """[{route: [{destination: {host: reviews}, weight: 3}, {destination: {host: nobody}, weight: 1}]}]"""
    )
    (route,) = routes(rule, TARGET)
    assert destinations(route) == {cluster(): 3, cluster(host="nobody.default.svc.cluster.local"): 1}
    assert route.route.cluster_not_found_response_code == rc.RouteAction.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("{host: ratings}", cluster(host="ratings.default.svc.cluster.local")),
        ("{host: ratings.default}", cluster(host="ratings.default.svc.cluster.local")),
        ("{host: ratings, port: {number: 9080}}", cluster(port=9080, host="ratings.default.svc.cluster.local")),
        ("{host: single.example.com}", cluster(port=8443, host="single.example.com")),  # its only port
        ("{host: nobody.example.com}", cluster(host="nobody.example.com")),
    ],
)
def test_which_cluster_a_destination_is(destination: str, expected: str) -> None:
    single = """
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: single}
            spec: {hosts: [single.example.com], resolution: DNS, ports: [{number: 8443, name: http}]}
    """
    found = translator(f"[{{route: [{{destination: {destination}}}]}}]", "hosts: [reviews]", single)
    assert destinations(routes(found, TARGET)[0]) == {expected: 1}


def rule(name: str, head: str, subset: str, created: int = 0, namespace: str = "default") -> str:
    return f"""
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {{name: {name}, namespace: {namespace},
                        creationTimestamp: "2026-01-01T00:00:{created:02}Z"}}
            spec: {{{head}, http: [{{route: [{{destination: {{host: {HOST}, subset: {subset}}}}}]}}]}}
    """


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule("a", "hosts: [reviews]", "a", 2), rule("b", "hosts: [reviews]", "b", 1)], "b"),  # the older
        ([rule("a", f"hosts: [{HOST}]", "a", 1), rule("b", "hosts: [reviews]", "b", 1)], "a"),  # then by name
        ([rule("a", "hosts: ['*.local']", "a", 1), rule("b", "hosts: [reviews]", "b", 2)], "b"),  # the more specific
        (
            [
                rule("a", "hosts: ['*.cluster.local']", "a", 1),
                rule("b", "hosts: ['*.default.svc.cluster.local']", "b", 2),
            ],
            "b",
        ),
        ([rule("a", "hosts: [reviews]", "a", 1), rule("b", "hosts: [reviews], exportTo: ['.']", "b", 2)], "b"),
        ([rule("a", f"hosts: [{HOST}], exportTo: ['.']", "a", 1, "other")], ""),  # not for this namespace
        ([rule("a", f"hosts: [{HOST}], exportTo: [default]", "a", 1, "other")], "a"),
        ([rule("a", "hosts: [reviews]", "a", 1, "other")], ""),  # other's reviews
        ([rule("a", "hosts: [reviews], gateways: [g]", "a")], ""),
        ([rule("a", "hosts: [reviews], gateways: [g, mesh]", "a")], "a"),
    ],
)
def test_which_rule_a_host_has(rules: list[str], expected: str) -> None:
    found = Translator(world("\n---\n".join(rules), workload("reviews")))
    assert destinations(routes(found, TARGET)[0]) == {cluster(expected): 1}


def test_a_host_that_is_no_service_is_routed_on_port_80() -> None:
    found = translator(f"[{{{TO_V1}}}]", "hosts: [shop.example.com]")
    assert destinations(routes(found, "shop.example.com:80")[0]) == {cluster("v1"): 1}
    assert routes(found, "shop.example.com:81") == []
    assert destinations(routes(found, TARGET)[0]) == {cluster(): 1}


def test_delegates() -> None:
    inner = """
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: inner, namespace: team}
            spec:
              http:
              - {match: [{uri: {prefix: /api/a}}], route: [{destination: {host: one}}]}
              - {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: two}}]}
              - {timeout: 1s, route: [{destination: {host: three}}]}
    """
    found = translator(
        """[{match: [{uri: {prefix: /api}, headers: {x: {exact: y}}}], timeout: 5s,
             delegate: {name: inner, namespace: team}},
            {delegate: {name: nobody}},
            {route: [{destination: {host: reviews}}]}]""",
        "hosts: [reviews]",
        inner,
    )
    first, second, last = routes(found, TARGET)
    assert (first.match.prefix, first.match.headers[0].name, first.route.timeout.seconds) == ("/api/a", "x", 5)
    assert destinations(first) == {cluster(host="one.team.svc.cluster.local"): 1}
    assert fields(first.metadata, "proxyless")["origin"] == "VirtualService team/inner http[0]"
    assert (second.match.prefix, second.route.timeout.seconds) == ("/api", 1)
    assert destinations(last) == {cluster(): 1}
    assert "no VirtualService default/nobody" in notes(found, LIBRARY, type_urls.ROUTE, TARGET)[0]


def test_consistent_hashing_puts_its_key_in_the_route_and_keeps_to_its_host() -> None:
    policy = """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: reviews}
            spec: {host: reviews, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}
    """
    found = Translator(world(policy, workload("reviews")))
    (envoy,) = routes(found, TARGET, ENVOY)
    assert [one.header.header_name for one in envoy.route.hash_policy] == ["x-user"]
    assert not envoy.route.retry_policy.retry_host_predicate
    (library,) = routes(found, TARGET, LIBRARY)
    assert library.route.hash_policy == envoy.route.hash_policy
    assert not library.route.retry_policy.retry_host_predicate


def test_a_client_is_read_from_its_node_whatever_that_says() -> None:
    from envoy.config.core.v3 import base_pb2

    node = base_pb2.Node(id="n", user_agent_name="proxyless")
    node.metadata.update({"NAMESPACE": "shop", "SERVICE": "web", "LABELS": {"a": "b", "n": 1}, "SERVICE_ACCOUNT": "sa"})
    client = Client.from_node(node)
    assert client == Client(ClientKind.PROXYLESS, "n", "shop", "sa", {"a": "b", "app": "web"})
    strange = base_pb2.Node(user_agent_name="gRPC C-core Linux")
    strange.metadata.update({"NAMESPACE": 1, "LABELS": "x"})
    assert Client.from_node(strange) == Client(ClientKind.GRPC)
    assert Client.from_node(base_pb2.Node(user_agent_name="envoy")).kind is ClientKind.ENVOY
    assert Client.from_node(base_pb2.Node()).kind is ClientKind.ENVOY


@pytest.mark.parametrize(("number", "expected"), [(1, 2), (4, 16), (5, 1)])
def test_grpc_is_told_of_missing_headers(number: int, expected: int) -> None:
    """As many routes as there are ways to lack some of them, unless these are too many."""
    without = ", ".join(f"h{index}: {{exact: x}}" for index in range(number))
    rule = f"[{{match: [{{withoutHeaders: {{{without}}}}}], {TO_V1}}}]"
    assert len(routes(translator(rule), TARGET, GRPC)) == expected
    assert len(routes(translator(rule), TARGET, LIBRARY)) == 1
    assert bool(notes(translator(rule), GRPC, type_urls.ROUTE, TARGET)) is (expected == 1)

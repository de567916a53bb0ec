"""Tables: RDS and LDS in, model out."""

from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from xds_resources import ROUTER, listener, manager, packed, route_configuration, text

from proxyless.model.matching import (
    NEVER,
    HeaderMatcher,
    IntRange,
    PathKind,
    PathMatcher,
    QueryMatcher,
    StringKind,
    StringMatcher,
)
from proxyless.model.route import (
    DirectResponse,
    Fault,
    FaultAbort,
    FaultDelay,
    Forward,
    HashCookie,
    HashHeader,
    HashQuery,
    HeaderAction,
    HeaderSet,
    Mirror,
    Redirect,
    Refused,
    Route,
)
from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.listener import compile_api_listener
from proxyless.xds_client.compile.matching import regex
from proxyless.xds_client.compile.route import RouteConfiguration, compile_route_configuration

FORWARD = 'route { cluster: "c" timeout {} }'


def configuration(routes: str, virtual_host: str = "", rest: str = "") -> RouteConfiguration:
    source = f'name: "r" {rest} virtual_hosts {{ name: "v" domains: "*" {virtual_host} {routes} }}'
    return compile_route_configuration(text(route_pb2.RouteConfiguration(), source))


def one(match: str = 'prefix: "/"', action: str = FORWARD, rest: str = "") -> Route:
    return configuration(f"routes {{ match {{ {match} }} {action} {rest} }}").virtual_hosts[0].routes[0]


def forward(source: str) -> Forward:
    action = one(action=f'route {{ cluster: "c" {source} }}').action
    assert isinstance(action, Forward)
    return action


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ('prefix: "/a"', PathMatcher(PathKind.PREFIX, "/a")),
        ('prefix: "/a" case_sensitive { value: false }', PathMatcher(PathKind.PREFIX, "/a", case_sensitive=False)),
        ('path: "/a"', PathMatcher(PathKind.EXACT, "/a")),
        ('path_separated_prefix: "/a"', PathMatcher(PathKind.SEPARATED_PREFIX, "/a")),
        ("connect_matcher {}", PathMatcher(PathKind.NEVER)),
        ("", PathMatcher(PathKind.NEVER)),
        ('prefix: "/" tls_context {}', PathMatcher(PathKind.NEVER)),
        ('prefix: "/" dynamic_metadata { filter: "x" }', PathMatcher(PathKind.NEVER)),
    ],
)
def test_paths(match: str, path: PathMatcher) -> None:
    assert one(match).match.path == path


def test_regex_paths_match_all_of_the_path() -> None:
    path = one('safe_regex { regex: "/v[0-9]+/.*" }').match.path
    assert path.kind is PathKind.REGEX
    assert path.regex is not None
    assert path.regex.fullmatch("/v12/x")
    assert not path.regex.fullmatch("/v12")
    assert not path.regex.fullmatch("a/v12/x")


HEADERS: list[tuple[str, StringMatcher | IntRange | None, bool]] = [
    ('string_match { exact: "x" }', StringMatcher(StringKind.EXACT, "x"), False),
    ('string_match { prefix: "x" ignore_case: true }', StringMatcher(StringKind.PREFIX, "x", True), False),
    ('string_match { suffix: "x" } invert_match: true', StringMatcher(StringKind.SUFFIX, "x"), True),
    ('string_match { contains: "x" }', StringMatcher(StringKind.CONTAINS, "x"), False),
    ('exact_match: "x"', StringMatcher(StringKind.EXACT, "x"), False),
    ('prefix_match: "x"', StringMatcher(StringKind.PREFIX, "x"), False),
    ('suffix_match: "x"', StringMatcher(StringKind.SUFFIX, "x"), False),
    ('contains_match: "x"', StringMatcher(StringKind.CONTAINS, "x"), False),
    ("range_match { start: 1 end: 5 }", IntRange(1, 5), False),
    ("present_match: true", None, False),
    ("present_match: true invert_match: true", None, True),
    ("present_match: false", None, True),
    ("present_match: false invert_match: true", None, False),
    ("", None, False),
    ("invert_match: true", None, True),
    # Unknown: it never matches, not even inverted.
    ("string_match {}", NEVER, False),
    ("string_match {} invert_match: true", NEVER, False),
    ('string_match { custom { name: "x" } } invert_match: true', NEVER, False),
]


@pytest.mark.parametrize(("source", "value", "invert"), HEADERS)
def test_headers(source: str, value: Any, invert: bool) -> None:
    route = one(f'prefix: "/" headers {{ name: "X-User" {source} }}')
    assert route.match.headers == (HeaderMatcher("x-user", value, invert),)
    assert (route.match.path.kind is PathKind.NEVER) is (value == NEVER)


def test_a_matcher_of_a_newer_api_never_matches() -> None:
    for message in (
        route_components_pb2.HeaderMatcher(name="x", present_match=True),
        route_components_pb2.QueryParameterMatcher(name="x"),
    ):
        message.MergeFromString(b"\xf2\x7f\x01A")  # field 2046
        route = route_configuration("r", "c")
        match = route.virtual_hosts[0].routes[0].match
        (match.headers if isinstance(message, route_components_pb2.HeaderMatcher) else match.query_parameters).append(
            message
        )
        compiled = compile_route_configuration(route)
        assert compiled.virtual_hosts[0].routes[0].match.path.kind is PathKind.NEVER
        assert "matches nothing" in compiled.ignored[0]


def test_query_parameters() -> None:
    route = one(
        'prefix: "/" query_parameters { name: "a" string_match { exact: "1" } } query_parameters { name: "b" } '
        'query_parameters { name: "c" present_match: true }'
    )
    assert route.match.query == (
        QueryMatcher("a", StringMatcher(StringKind.EXACT, "1")),
        QueryMatcher("b"),
        QueryMatcher("c"),
    )


def test_grpc_asks_for_the_content_type() -> None:
    (matcher,) = one('prefix: "/" grpc {}').match.headers
    assert matcher.name == "content-type"
    assert isinstance(matcher.value, StringMatcher)
    assert matcher.value.regex is not None
    for content_type, matches in (
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc-web", False),
    ):
        assert matcher.value.regex.fullmatch(content_type) is matches


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        ("numerator: 5", 50_000),
        ("numerator: 5 denominator: TEN_THOUSAND", 500),
        ("numerator: 5 denominator: MILLION", 5),
        ("numerator: 300", 1_000_000),  # grpc-go#9257: it must not wrap
        ("numerator: 4294967295", 1_000_000),
        ("", 0),
    ],
)
def test_fractions(fraction: str, expected: int) -> None:
    assert one(f'prefix: "/" runtime_fraction {{ default_value {{ {fraction} }} }}').match.fraction == expected


@pytest.mark.parametrize(
    ("source", "timeout"),
    [
        ("", 15.0),  # Envoy's default
        ("timeout {}", None),
        ("timeout { seconds: 2 nanos: 500000000 }", 2.5),
        ("max_stream_duration { max_stream_duration { seconds: 3 } }", 3.0),
        ("max_stream_duration { max_stream_duration {} }", None),
        ("max_stream_duration { max_stream_duration { seconds: 3 } grpc_timeout_header_max { seconds: 1 } }", 1.0),
        ("timeout { seconds: 2 } max_stream_duration { max_stream_duration { seconds: 3 } }", 2.0),
        ("timeout {} max_stream_duration { max_stream_duration { seconds: 3 } }", 3.0),
    ],
)
def test_timeouts(source: str, timeout: float | None) -> None:
    assert forward(source).timeout == timeout


def test_retries() -> None:
    policy = forward(
        'retry_policy { retry_on: "connect-failure,refused-stream,  5XX,made-up" num_retries { value: 2 } '
        "per_try_timeout { seconds: 1 } retriable_status_codes: 503 host_selection_retry_max_attempts: 5 "
        'retry_host_predicate { name: "envoy.retry_host_predicates.previous_hosts" } '
        "retry_back_off { base_interval { nanos: 25000000 } } }"
    ).retry
    assert policy is not None
    assert policy.conditions == {"connect-failure", "refused-stream", "5xx"}
    assert (policy.num_retries, policy.per_try_timeout, policy.host_selection_attempts) == (2, 1.0, 5)
    assert policy.retriable_status_codes == {503}
    assert policy.retry_other_host
    assert (policy.back_off_base, policy.back_off_max) == (0.025, 0.25)
    assert forward('retry_policy { retry_on: "5xx" num_retries {} }').retry.num_retries == 0  # type: ignore[union-attr]
    assert forward('retry_policy { retry_on: "5xx" retriable_request_headers { name: "x" } }').retry.conditions == set()  # type: ignore[union-attr]
    inherited = configuration(
        f'routes {{ match {{ prefix: "/" }} {FORWARD} }}', 'retry_policy { retry_on: "reset" num_retries { value: 3 } }'
    )
    action = inherited.virtual_hosts[0].routes[0].action
    assert isinstance(action, Forward)
    assert action.retry is not None
    assert action.retry.num_retries == 3


def test_weighted_clusters() -> None:
    action = one(
        action='route { weighted_clusters { clusters { name: "a" weight { value: 90 } host_rewrite_literal: "h" } '
        'clusters { name: "b" weight { value: 10 } request_headers_to_add { header { key: "X" value: "1" } } } '
        'clusters { name: "c" } } }'
    ).action
    assert isinstance(action, Forward)
    assert [(leg.cluster, leg.weight) for leg in action.clusters] == [("a", 90), ("b", 10), ("c", 0)]
    assert action.clusters[0].host_rewrite == "h"
    assert action.clusters[1].request_headers.sets == (HeaderSet("x", "1", HeaderAction.APPEND),)


def test_rewrites() -> None:
    assert forward('prefix_rewrite: "/new"').prefix_rewrite == "/new"
    assert forward('host_rewrite_literal: "h"').host_rewrite == "h"
    assert forward("auto_host_rewrite { value: true }").auto_host_rewrite
    assert not forward("auto_host_rewrite {}").auto_host_rewrite
    rewrite = forward('regex_rewrite { pattern { regex: "^/a/(.*)" } substitution: "/b/\\\\1\\\\\\\\" }').regex_rewrite
    assert rewrite is not None
    assert rewrite.regex.substitute is not None
    assert rewrite.regex.substitute(rewrite.substitution, "/a/x/y") == "/b/x/y\\"
    assert forward("cluster_not_found_response_code: INTERNAL_SERVER_ERROR").cluster_not_found_status == 500


def test_substitution_replaces_every_match_and_takes_any_text() -> None:
    pattern = regex("(a)(b)?", "x")
    assert pattern.substitute is not None
    assert pattern.substitute(r"<\0\2>", "ab-a-\udc80") == "<abb>-<a>-\udc80"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ('redirect { host_redirect: "h" }', Redirect(301, host="h")),
        (
            'redirect { path_redirect: "/p" response_code: TEMPORARY_REDIRECT strip_query: true }',
            Redirect(307, path="/p", strip_query=True),
        ),
        ('redirect { https_redirect: true prefix_rewrite: "/q" port_redirect: 8443 }',
         Redirect(301, https=True, prefix_rewrite="/q", port=8443)),
        ('redirect { scheme_redirect: "ftp" response_code: FOUND }', Redirect(302, scheme="ftp")),
        ("direct_response { status: 404 }", DirectResponse(404)),
        ('direct_response { status: 200 body { inline_string: "ok" } }', DirectResponse(200, b"ok")),
    ],
)  # fmt: skip
def test_other_actions(action: str, expected: Any) -> None:
    assert one(action=action).action == expected


@pytest.mark.parametrize(
    "action",
    [
        "filter_action {}",
        "non_forwarding_action {}",
        "",
        'route { cluster_header: "x" }',
        'route { cluster_specifier_plugin: "x" }',
        'route { cluster: "c" host_rewrite_header: "x" }',
        'route { cluster: "c" path_rewrite_policy { name: "x" } }',
        'route { weighted_clusters { clusters { cluster_header: "x" weight { value: 1 } } } }',
        'direct_response { status: 200 body { filename: "/etc/passwd" } }',
    ],
)
def test_actions_that_cannot_be_performed_are_refused_when_they_match(action: str) -> None:
    assert isinstance(one(action=action).action, Refused)


@pytest.mark.parametrize(
    ("routes", "virtual_host", "error"),
    [
        ('routes { match { safe_regex { regex: "(" } } }', "", "is not a valid RE2 expression"),
        (f'routes {{ match {{ safe_regex {{ regex: "{"a" * 5000}" }} }} }}', "", "at most 4096"),
        ('routes { match { safe_regex { regex: "((a{1,100}){1,100}){1,100}" } } }', "", "is not a valid RE2"),
        ('routes { match { prefix: "/" headers { name: "" } } }', "", "has no header name"),
        ('routes { match { prefix: "/" headers { name: "x" prefix_match: "" } } }', "", "empty prefix_match"),
        ('routes { match { path_separated_prefix: "/a/" } }', "", "must start with '/'"),
        ('routes { match { prefix: "/" } route { cluster: "" } }', "", "cluster is empty"),
        ('routes { match { prefix: "/" } route { weighted_clusters { clusters { name: "a" } } } }', "", "add up to"),
        ('routes { match { prefix: "/" } direct_response { status: 99 } }', "", "from 200 to 599"),
        (
            'routes { match { prefix: "/" } direct_response { status: 200 body { inline_string: "'
            + "x" * 5000
            + '" } } }',
            "",
            "at most 4096",
        ),
        ('routes { match { prefix: "/" } route { cluster: "c" timeout { seconds: -1 } } }', "", "must not be negative"),
        (
            'routes { match { prefix: "/" } route { cluster: "c" regex_rewrite { pattern { regex: "a" } substitution: '
            '"\\\\1" } } }',
            "",
            "names group 1",
        ),
        (
            f'routes {{ match {{ prefix: "/" }} {FORWARD} request_headers_to_remove: ":path" }}',
            "",
            "cannot be removed",
        ),
        (
            f'routes {{ match {{ prefix: "/" }} {FORWARD} '
            'request_headers_to_add { header { key: "a" value: "b\\r\\nc" } } }',
            "",
            "line break",
        ),
        ("", 'domains: "a*b"', "must be exact"),
        ("", 'domains: "*"', "is already taken"),
    ],
)
def test_refused_route_configurations(routes: str, virtual_host: str, error: str) -> None:
    with pytest.raises(InvalidResource, match=r"^r: ") as raised:
        configuration(routes, virtual_host)
    assert error in raised.value.message


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("", HeaderAction.APPEND),
        ("append_action: ADD_IF_ABSENT", HeaderAction.ADD_IF_ABSENT),
        ("append_action: OVERWRITE_IF_EXISTS_OR_ADD", HeaderAction.OVERWRITE),
        ("append_action: OVERWRITE_IF_EXISTS", HeaderAction.OVERWRITE_IF_EXISTS),
        ("append { value: true }", HeaderAction.APPEND),
        ("append {}", HeaderAction.OVERWRITE),
    ],
)
def test_header_mutations(option: str, expected: HeaderAction) -> None:
    route = one(
        rest=f'response_headers_to_add {{ header {{ key: "X-A" value: "100%%" }} {option} }} '
        'response_headers_to_remove: "X-B"'
    )
    assert route.response_headers.sets == (HeaderSet("x-a", "100%", expected),)
    assert route.response_headers.removes == ("x-b",)


def test_header_values_with_commands_are_reported_and_empty_ones_dropped() -> None:
    compiled = configuration(
        f'routes {{ match {{ prefix: "/" }} {FORWARD} '
        'request_headers_to_add { header { key: "a" value: "%DOWNSTREAM_REMOTE_ADDRESS%" } } '
        'request_headers_to_add { header { key: "b" } } '
        'request_headers_to_add { header { key: "c" } keep_empty_value: true } }'
    )
    sets = compiled.virtual_hosts[0].routes[0].request_headers.sets
    assert sets == (HeaderSet("c", "", HeaderAction.APPEND),)
    assert "a uses a command operator" in compiled.ignored[0]


M = 'request_mirror_policies { cluster: "m" %s }'


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (M % "", Mirror("m")),
        (M % "runtime_fraction { default_value { numerator: 5 } }", Mirror("m", 50_000)),
        (M % "trace_sampled { value: false }", Mirror("m", traced=False)),
        (M % "disable_shadow_host_suffix_append: true", Mirror("m", shadow_host=False)),
    ],
)
def test_mirrors(policy: str, expected: Mirror) -> None:
    assert forward(policy).mirrors == (expected,)


def test_the_most_specific_place_says_what_is_mirrored() -> None:
    host, whole = (M.replace('"m"', f'"{name}"') % "" for name in ("host", "whole"))
    found = [
        configuration(f'routes {{ match {{ prefix: "/" }} route {{ cluster: "c" {own} }} }}', virtual, rest)
        for own, virtual, rest in ((M % "", host, whole), ("", host, whole), ("", "", whole))
    ]
    assert [one.clusters for one in found] == [{"c", "m"}, {"c", "host"}, {"c", "whole"}]


ON = "hedge_policy { hedge_on_per_try_timeout: true }"


@pytest.mark.parametrize(
    ("route", "virtual_host", "hedge", "ignored"),
    [
        ("", "", False, []),
        (ON, "", True, []),
        ("", ON, True, []),
        ("hedge_policy {}", ON, False, []),
        ("hedge_policy { initial_requests { value: 1 } }", "", False, []),
        (
            "hedge_policy { initial_requests { value: 2 } }",
            "",
            False,
            ["routes[0].route.hedge_policy.initial_requests"],
        ),
        (
            "hedge_policy { additional_request_chance { numerator: 5 } hedge_on_per_try_timeout: true }",
            "",
            True,
            ["routes[0].route.hedge_policy.additional_request_chance"],
        ),
        ("", "hedge_policy { initial_requests { value: 2 } }", False, ["hedge_policy.initial_requests"]),
    ],
)
def test_hedging_as_far_as_envoy_does_it(route: str, virtual_host: str, hedge: bool, ignored: list[str]) -> None:
    compiled = configuration(f'routes {{ match {{ prefix: "/" }} route {{ cluster: "c" {route} }} }}', virtual_host)
    action = compiled.virtual_hosts[0].routes[0].action
    assert isinstance(action, Forward)
    assert action.hedge is hedge
    assert list(compiled.ignored) == [f"virtual_hosts[v].{field}" for field in ignored]


@pytest.mark.parametrize("field", ['host_rewrite_literal: "h"', "request_headers_mutations { remove: 'a' }"])
def test_a_mirror_that_we_cannot_do_is_left_out_and_reported(field: str) -> None:
    compiled = configuration(f'routes {{ match {{ prefix: "/" }} route {{ cluster: "c" {M % field} }} }}')
    assert compiled.clusters == {"c"}
    (told,) = compiled.ignored
    assert "request_mirror_policies[0]" in told


def test_what_is_not_acted_on_is_reported() -> None:
    compiled = configuration(
        'routes { name: "n" match { prefix: "/" } route { cluster: "c" '
        "hash_policy { connection_properties { source_ip: true } } "
        'request_mirror_policies { cluster_header: "m" } rate_limits {} } }',
        "virtual_clusters {} rate_limits {}",
    )
    assert compiled.clusters == {"c"}
    for field in ("hash_policy[0].connection_properties", "request_mirror_policies[0].cluster_header", "rate_limits"):
        assert f"virtual_hosts[v].routes[n].route.{field}" in compiled.ignored
    assert "virtual_hosts[v].virtual_clusters" in compiled.ignored


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            'filter_metadata { key: "istio" value { fields { key: "config" value { string_value: '
            '"/apis/networking.istio.io/v1/namespaces/ns/virtual-service/reviews" } } } }',
            "VirtualService ns/reviews",
        ),
        (
            'filter_metadata { key: "proxyless" value { fields { key: "origin" value { string_value: '
            '"VirtualService ns/reviews http[0]" } } } }',
            "VirtualService ns/reviews http[0]",
        ),
        ("", ""),
    ],
)
def test_where_a_route_was_written(metadata: str, expected: str) -> None:
    assert one(rest=f"metadata {{ {metadata} }}").origin == expected


def test_virtual_hosts_are_selected_as_envoy_does() -> None:
    source = route_pb2.RouteConfiguration(name="r")
    for name, *domains in (
        ("exact", "reviews", "reviews:80"),
        ("suffix", "*.example.com"),
        ("prefix", "re*"),
        ("any", "*"),
    ):
        source.virtual_hosts.add(name=name, domains=domains)
    compiled = compile_route_configuration(source)
    for target, expected in (
        ("reviews:80", "exact"),
        ("a.example.com:443", "suffix"),
        ("red:80", "prefix"),
        ("x:1", "any"),
    ):
        found = compiled.select(target)
        assert found is not None
        assert found.name == expected
    del source.virtual_hosts[3]
    assert compile_route_configuration(source).select("x:1") is None


# ---- faults


def fault(source: str) -> fault_pb2.HTTPFault:
    return text(fault_pb2.HTTPFault(), source)  # type: ignore[no-any-return]


ABORT = fault("abort { http_status: 503 percentage { numerator: 50 } }")
DELAY = fault(
    'delay { fixed_delay { seconds: 2 } percentage { numerator: 100 } } headers { name: "u" exact_match: "j" }'
)
ABORTED = Fault(abort=FaultAbort(500_000, http_status=503))
DELAYED = Fault(
    FaultDelay(2.0, 1_000_000), headers=(HeaderMatcher("u", StringMatcher(StringKind.EXACT, "j")),)
)  # fmt: skip


def test_the_most_specific_fault_wins() -> None:
    source = route_configuration("r", "a", "b")
    virtual_host = source.virtual_hosts[0]
    virtual_host.typed_per_filter_config["fault"].Pack(ABORT)
    virtual_host.routes[0].typed_per_filter_config["fault"].Pack(DELAY)
    leg = virtual_host.routes[1].route.weighted_clusters.clusters.add(name="b")
    leg.weight.value = 1
    leg.typed_per_filter_config["fault"].Pack(route_components_pb2.FilterConfig(disabled=True))
    first, second = compile_route_configuration(source).virtual_hosts[0].routes
    assert first.fault == DELAYED
    assert second.fault == ABORTED
    assert isinstance(second.action, Forward)
    assert second.action.clusters[0].fault == Fault()  # says: none


def test_a_fault_that_is_meant_for_few_is_not_injected_into_all() -> None:
    for narrowed in ('downstream_nodes: "n"', 'upstream_cluster: "c"'):
        source = route_configuration("r", "a")
        source.virtual_hosts[0].typed_per_filter_config["fault"].Pack(fault(f"abort {{ http_status: 503 }} {narrowed}"))
        compiled = compile_route_configuration(source)
        assert compiled.virtual_hosts[0].routes[0].fault == Fault()
        assert "not injected" in compiled.ignored[0]


# ---- listeners


def http_filter(name: str, config: Any, **fields: Any) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(config), **fields)


def test_listeners() -> None:
    by_name = compile_api_listener(listener("a:80", "r", filters=[http_filter("f", ABORT), ROUTER]))
    assert (by_name.route_name, by_name.routes, by_name.fault, by_name.fault_filter) == ("r", None, ABORTED, True)
    inline = compile_api_listener(listener("a:80", route_config=route_configuration("x", "c")))
    assert inline.route_name is None
    assert inline.routes is not None
    assert inline.routes.clusters == {"c"}
    unknown = [http_filter("cors", cors_pb2.Cors(), is_optional=True), ROUTER]
    assert compile_api_listener(listener("a:80", "r", filters=unknown)).ignored == (
        "http_filters[cors] (envoy.extensions.filters.http.cors.v3.Cors)",
    )


CORS = http_filter("cors", cors_pb2.Cors())
LISTENERS: list[tuple[Any, str]] = [
    (listener("n", "r", filters=[]), "http_filters is empty"),
    (listener("n", "r", filters=[ROUTER, ROUTER]), "must be the last one"),
    (listener("n", "r", filters=[http_filter("f", ABORT)]), "that must be the router"),
    (listener("n", "r", filters=[CORS, ROUTER]), "is not supported and not optional"),
    (listener("n", "r", filters=[http_filter("f", ABORT), http_filter("f", ABORT), ROUTER]), "a name of its own"),
    (listener("n"), "route specifier (missing)"),
    (listener("n", route_config=route_pb2.RouteConfiguration(virtual_hosts=[{"name": "v"}])), "has no domains"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("message", "error"), LISTENERS)
def test_refused_listeners(message: Any, error: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        compile_api_listener(message)
    assert error in raised.value.message


def test_only_ads_brings_routes() -> None:
    made = listener("n")
    hcm = manager("r")
    hcm.rds.config_source.path = "/etc/routes"
    made.api_listener.api_listener.Pack(hcm)
    with pytest.raises(InvalidResource, match="only ads and self"):
        compile_api_listener(made)
    made.api_listener.api_listener.CopyFrom(AnyMessage(type_url="type.googleapis.com/x.Y"))
    with pytest.raises(InvalidResource, match=r"is a type\.googleapis\.com/x\.Y"):
        compile_api_listener(made)


def test_hash_policies() -> None:
    compiled = configuration(
        'routes { match { prefix: "/" } route { cluster: "c" '
        'hash_policy { header { header_name: "X-User" } terminal: true } '
        'hash_policy { cookie { name: "c" ttl { seconds: 5 } path: "/" attributes { name: "a" value: "b" } } } '
        'hash_policy { cookie { name: "d" } } '
        'hash_policy { filter_state { key: "k" } } '
        'hash_policy { query_parameter { name: "q" } } } }'
    )
    action = compiled.virtual_hosts[0].routes[0].action
    assert isinstance(action, Forward)
    assert action.hash_policies == (
        HashHeader("x-user", terminal=True),
        HashCookie("c", 5.0, "/", (("a", "b"),)),
        HashCookie("d"),
        HashQuery("q"),
    )
    assert any("hash_policy[3].filter_state" in one for one in compiled.ignored)

"""Envoy's local rate limit filter, of clients and of servers: what is taken, refused, reported."""

from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as rl
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from xds_resources import ROUTER, downstream_tls, inbound, listener, packed, text

from proxyless.model.inbound import InboundListener
from proxyless.model.rate_limit import NO_LIMIT, RateLimit
from proxyless.model.route import Forward
from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.inbound import compile_inbound
from proxyless.xds_client.compile.listener import compile_api_listener
from proxyless.xds_client.compile.route import RouteConfiguration, compile_route_configuration

FILTER = "envoy.filters.http.local_ratelimit"
BUCKET = "token_bucket { max_tokens: 10 tokens_per_fill { value: 5 } fill_interval { seconds: 60 } }"
ALL = "filter_enabled { default_value { numerator: 100 } } filter_enforced { default_value { numerator: 100 } }"
SOURCE = f'stat_prefix: "s" {BUCKET} {ALL}'


def message(source: str = SOURCE) -> rl.LocalRateLimit:
    return text(rl.LocalRateLimit(), source)


def http_filter(source: str, **more: Any) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=packed(message(source)), **more)


def of_listener(*filters: hcm_pb2.HttpFilter) -> Any:
    return compile_api_listener(listener("t:80", "r", filters=[*filters, ROUTER]))


def configuration(**places: rl.LocalRateLimit | rc.FilterConfig) -> RouteConfiguration:
    """Two routes, the second with two legs."""
    source = (
        'name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/a" } route { cluster: "a" } } '
        'routes { match { prefix: "" } route { weighted_clusters { clusters { name: "a" weight { value: 1 } } '
        'clusters { name: "b" weight { value: 1 } } } } } }'
    )
    made = text(route_pb2.RouteConfiguration(), source)
    host = made.virtual_hosts[0]
    legs = host.routes[1].route.weighted_clusters.clusters
    for name, place in {"all": made, "host": host, "route": host.routes[1], "leg": legs[1]}.items():
        if name in places:
            place.typed_per_filter_config[FILTER].Pack(places[name])
    return compile_route_configuration(made)


@pytest.mark.parametrize(
    ("source", "expected", "ignored"),
    [
        (SOURCE, RateLimit("", "s", 10, 5, 60.0), []),
        (f"{SOURCE} status {{ code: ServiceUnavailable }}", RateLimit("", "s", 10, 5, 60.0, status=503), []),
        # Envoy: a status below 400 is not taken.
        (f"{SOURCE} status {{ code: OK }}", RateLimit("", "s", 10, 5, 60.0), []),
        (
            f"{SOURCE} rate_limited_as_resource_exhausted: true "
            'response_headers_to_add { header { key: "X-A" value: "1" } }',
            RateLimit("", "s", 10, 5, 60.0, headers=(("x-a", "1"),), exhausted=True),
            [],
        ),
        (
            f'stat_prefix: "s" {BUCKET} filter_enabled {{ default_value {{ numerator: 25 }} }}',
            RateLimit("", "s", 10, 5, 60.0, enabled=250_000, enforced=0),
            [],
        ),
        # Whatever else there is, requests take from the one bucket.
        (
            f"{SOURCE} descriptors {{ {BUCKET} }} local_rate_limit_per_downstream_connection: true",
            RateLimit("", "s", 10, 5, 60.0),
            ["descriptors", "local_rate_limit_per_downstream_connection"],
        ),
    ],
)
def test_fields(source: str, expected: RateLimit, ignored: list[str]) -> None:
    found = of_listener(http_filter(source))
    assert found.rate_limit is not None
    assert found.rate_limit == RateLimit(found.rate_limit.place, *[getattr(expected, f) for f in _FIELDS])
    assert [one.rpartition(".")[2] for one in found.ignored] == ignored


_FIELDS = ("name", "most", "tokens", "interval", "enabled", "enforced", "status", "headers", "exhausted")


@pytest.mark.parametrize("source", ['stat_prefix: "s"', f'stat_prefix: "s" {BUCKET}', f'stat_prefix: "s" {ALL}'])
def test_a_filter_that_limits_nothing_by_itself(source: str) -> None:
    found = of_listener(http_filter(source))
    assert (found.rate_limit, found.rate_limit_filter) == (None, True)
    found = of_listener(http_filter(SOURCE, disabled=True))
    assert (found.rate_limit, found.rate_limit_filter) == (None, True)
    assert not of_listener().rate_limit_filter


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("max_tokens: 0", "must be more than 0"),
        ("tokens_per_fill {}", "must be more than 0"),
        ("fill_interval { nanos: 49000000 }", "at least 50 ms"),
        ("fill_interval { seconds: -1 }", "negative"),
    ],
)
def test_what_envoy_refuses_is_refused(change: str, error: str) -> None:
    made = message()
    made.token_bucket.MergeFrom(text(type(made.token_bucket)(), change))
    if change == "max_tokens: 0":
        made.token_bucket.max_tokens = 0
    if change == "tokens_per_fill {}":
        made.token_bucket.tokens_per_fill.value = 0
    if change.startswith("fill"):
        made.token_bucket.fill_interval.CopyFrom(text(type(made.token_bucket)(), change).fill_interval)
    with pytest.raises(InvalidResource, match=error):
        configuration(host=made)


def limits(found: RouteConfiguration) -> list[RateLimit | None]:
    """Of the first route, the second, and its second leg."""
    first, second = found.virtual_hosts[0].routes
    assert isinstance(second.action, Forward)
    return [first.rate_limit, second.rate_limit, second.action.clusters[1].rate_limit]


def test_the_routes_of_a_place_share_its_bucket() -> None:
    of_host = limits(configuration(host=message()))
    assert of_host[0] is not None
    assert of_host[0] == of_host[1]
    assert of_host[2] is None
    assert limits(configuration(host=message())) == of_host
    kinds = ("all", "host", "route", "leg")
    everywhere, host, route, leg = [limits(configuration(**{place: message()})) for place in kinds]
    places = {one.place for one in (everywhere[0], host[0], route[1], leg[2]) if one}
    assert len(places) == 4
    off = limits(configuration(host=message(), route=rc.FilterConfig(disabled=True)))
    assert (off[0], off[1]) == (of_host[0], NO_LIMIT)


def test_routes_say_nothing_to_a_filter_that_is_not_there() -> None:
    found = configuration(host=message())
    assert limits(found.heeding(faults=True, rate_limits=False)) == [None, None, None]
    assert found.heeding(faults=False, rate_limits=True) is found


def server(*filters: hcm_pb2.HttpFilter, routes: route_pb2.RouteConfiguration | None = None) -> InboundListener:
    manager = hcm_pb2.HttpConnectionManager(http_filters=[*filters, ROUTER])
    if routes is not None:
        manager.route_config.CopyFrom(routes)
    made = inbound(8080, ("tls", downstream_tls()), ("raw_buffer", None))
    for chain in made.filter_chains:
        chain.filters.add(name="hcm").typed_config.CopyFrom(packed(manager))
    return compile_inbound(made)


def test_both_chains_of_a_server_share_a_bucket() -> None:
    found = server(http_filter(SOURCE))
    assert [type(one) for one in found.filters] == [RateLimit]
    assert found.ignored == ()
    assert server(http_filter('stat_prefix: "s"')).filters == ()


def test_what_a_servers_routes_say_limits_nothing_and_is_reported() -> None:
    routes = route_pb2.RouteConfiguration(virtual_hosts=[rc.VirtualHost(name="v", domains=["*"])])
    routes.virtual_hosts[0].typed_per_filter_config[FILTER].Pack(message())
    for filters in ([http_filter('stat_prefix: "s"')], [http_filter(SOURCE, disabled=True)]):
        found = server(*filters, routes=routes)
        assert found.filters == ()
        assert any("typed_per_filter_config" in one for one in found.ignored)

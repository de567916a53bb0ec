"""From the annotation to Envoy's filter: which servers and which routes have it, and who is told that he does not."""

from typing import Any

import pytest
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as rl
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from translate_world import ENVOY, GRPC, LIBRARY, get, manager, notes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.inbound import PREFIX
from proxyless.control_plane.translate.rate_limit import FILTER
from proxyless.control_plane.translate.sidecar_ports import InboundPort, SidecarPorts
from proxyless.control_plane.translate.translator import Translator

TARGET = "reviews.default.svc.cluster.local:80"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews, annotations: {proxyless.io/rate-limit: "%s"}}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}, {name: grpc, port: 81, targetPort: 9090}]}
"""
PLAIN = SERVICE.replace("proxyless.io/rate-limit", "a")
RULE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, annotations: {proxyless.io/rate-limit: "10/m; burst=3"}}
spec:
  hosts: [reviews]
  http:
  - {match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}
  - {route: [{destination: {host: reviews}}]}
"""
ROUTE = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, annotations: {%s: 10/s}}
spec:
  parentRefs: [{kind: Service, group: "", name: reviews, port: 80}]
  rules: [{backendRefs: [{name: reviews, port: 80}], matches: [{path: {value: /%s}}]}]
"""
OURS = {"app": "reviews"}


def limit(packed: Any) -> rl.LocalRateLimit:
    return rl.LocalRateLimit.FromString(packed.value)


def rate(packed: Any) -> tuple[int, int, int]:
    bucket = limit(packed).token_bucket
    return bucket.max_tokens, bucket.tokens_per_fill.value, bucket.fill_interval.seconds


def filters(translator: Translator, port: int, labels: dict[str, str] | None = None) -> list[Any]:
    """Of the plaintext chain of a server of the library; the other has the same."""
    client = Client(labels=OURS if labels is None else labels)
    found = get(translator, client, type_urls.LISTENER, f"{PREFIX}0.0.0.0:{port}")
    configs = [chain.filters[-1].typed_config.value for chain in found.filter_chains]
    chains = [hcm_pb2.HttpConnectionManager.FromString(one) for one in configs]
    assert all(one.http_filters == chains[0].http_filters for one in chains)
    return list(chains[0].http_filters)


def rates(translator: Translator, port: int, labels: dict[str, str] | None = None) -> list[tuple[int, int, int]]:
    return [rate(one.typed_config) for one in filters(translator, port, labels) if one.name.startswith(FILTER)]


@pytest.mark.parametrize(
    ("annotation", "ports"),
    [
        ("100/s", {9080: [(100, 100, 1)], 9090: [(100, 100, 1)], 7000: []}),
        ("100/s; burst=7", {9080: [(7, 100, 1)]}),
        ("http=5/m, 81=9/h", {9080: [(5, 5, 60)], 9090: [(9, 9, 3600)], 7000: []}),
        ("grpc = 5 / m", {9080: [], 9090: [(5, 5, 60)]}),
    ],
)
def test_the_ports_of_a_server(annotation: str, ports: dict[int, list[tuple[int, int, int]]]) -> None:
    translator = Translator(world(SERVICE % annotation, workload("reviews", ports={"http": 9080, "admin": 7000})))
    assert {port: rates(translator, port) for port in ports} == ports
    assert rates(translator, 9080, {"app": "ratings"}) == []


def test_a_port_that_nobody_has_told_of_yet_is_limited() -> None:
    translator = Translator(world(SERVICE % "http=5/s"))
    assert rates(translator, 9080) == [(5, 5, 1)]


def test_every_service_of_a_workload_limits_it() -> None:
    second = (SERVICE % "7/s").replace("name: reviews,", "name: other,")
    translator = Translator(world(SERVICE % "5/s" + "\n---\n" + second, workload("reviews")))
    assert rates(translator, 9080) == [(7, 7, 1), (5, 5, 1)]
    assert rates(Translator(world(PLAIN % "5/s", workload("reviews"))), 9080) == []


def test_the_filter_is_the_last_before_the_router_and_says_what_it_answers() -> None:
    denied = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a}
spec: {}
"""
    translator = Translator(world(SERVICE % "5/s" + denied, workload("reviews")))
    found = filters(translator, 9080)
    names = ["envoy.filters.http.rbac", f"{FILTER}.reviews", "envoy.filters.http.router"]
    assert [one.name for one in found] == names
    made = limit(found[1].typed_config)
    assert made.stat_prefix == "Service default/reviews"
    assert made.rate_limited_as_resource_exhausted
    assert [(one.header.key, one.header.value) for one in made.response_headers_to_add] == [
        ("x-envoy-ratelimited", "true")
    ]
    assert made.filter_enabled.default_value.numerator == made.filter_enforced.default_value.numerator > 0


def test_a_sidecar_limits_its_port() -> None:
    translator = Translator(world(SERVICE % "http=5/s", workload("reviews")))
    for port, expected in ((9080, 1), (9999, 0)):
        inbound = InboundPort("0.0.0.0", port, 8000)
        client = Client(kind=ClientKind.ENVOY, labels=OURS, ports=SidecarPorts(0, inbound))
        found = get(translator, client, type_urls.LISTENER, inbound.listener)
        for chain in found.filter_chains:
            made = hcm_pb2.HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)
            assert sum(one.name.startswith(FILTER) for one in made.http_filters) == expected


def test_what_grpc_cannot_do_it_is_not_sent() -> None:
    translator = Translator(world(SERVICE % "5/s" + RULE, workload("reviews")))
    name = f"{PREFIX}0.0.0.0:9080"
    client = Client(kind=ClientKind.GRPC, labels=OURS)
    found = get(translator, client, type_urls.LISTENER, name)
    assert FILTER not in str(found)
    assert "Service default/reviews: rate limit left out, grpc servers have none" in notes(
        translator, client, type_urls.LISTENER, name
    )
    routes = get(translator, GRPC, type_urls.ROUTE, TARGET)
    assert not routes.virtual_hosts[0].typed_per_filter_config
    told = "VirtualService default/reviews: rate limit left out, grpc clients have none"
    assert told in notes(translator, GRPC, type_urls.ROUTE, TARGET)
    assert FILTER not in str(manager(get(translator, GRPC, type_urls.LISTENER, "reviews:80")))


@pytest.mark.parametrize("client", [LIBRARY, ENVOY])
def test_the_routes_of_a_rule_share_one_bucket(client: Client) -> None:
    translator = Translator(world(PLAIN % "" + RULE, workload("reviews")))
    (host,) = get(translator, client, type_urls.ROUTE, TARGET).virtual_hosts
    assert rate(host.typed_per_filter_config[FILTER]) == (3, 10, 60)
    assert not any(route.typed_per_filter_config for route in host.routes)
    proxied = get(translator, ENVOY, type_urls.ROUTE, "http_proxy")
    limited = {one.name for one in proxied.virtual_hosts if FILTER in one.typed_per_filter_config}
    # Another port is another virtual host, and has a bucket of its own.
    assert limited == {TARGET, TARGET.replace(":80", ":81")}


def test_attached_routes_share_one_bucket_or_have_their_own() -> None:
    ours, other = ROUTE % ("one", "proxyless.io/rate-limit", "a"), ROUTE % ("two", "x", "b")
    (host,) = get(Translator(world(PLAIN % "" + ours)), LIBRARY, type_urls.ROUTE, TARGET).virtual_hosts
    assert rate(host.typed_per_filter_config[FILTER]) == (10, 10, 1)
    (host,) = get(Translator(world(PLAIN % "" + ours + other)), LIBRARY, type_urls.ROUTE, TARGET).virtual_hosts
    assert not host.typed_per_filter_config
    assert {one.match.path_separated_prefix: FILTER in one.typed_per_filter_config for one in host.routes} == {
        "/a": True,
        "/b": False,
    }


def test_a_change_of_a_limit_reaches_those_it_is_for() -> None:
    before = Translator(world(SERVICE % "5/s", workload("reviews")))
    assert rates(before, 9080) == [(5, 5, 1)]
    after = Translator(world(SERVICE % "6/s", workload("reviews")), before)
    assert rates(after, 9080) == [(6, 6, 1)]
    without = Translator(world(PLAIN % "6/s", workload("reviews")), after)
    assert rates(without, 9080) == []
    again = Translator(world(SERVICE % "7/s", workload("reviews")), without)
    assert rates(again, 9080) == [(7, 7, 1)]

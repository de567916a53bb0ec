"""Tables: CDS, EDS and a server's LDS in, model out."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from xds_resources import assignment, cluster, downstream_tls, inbound, packed, text, upstream_tls

from proxyless.model.cluster import (
    ClusterKind,
    ConnectionOptions,
    DropOverload,
    Health,
    LoadBalancer,
    LoadWeighting,
    Locality,
    OutlierDetection,
    Protocol,
    RetryBudget,
    TcpKeepalive,
    UpstreamTls,
)
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import NEVER, StringKind, StringMatcher
from proxyless.xds_client.compile.cluster import HTTP_OPTIONS, NO_IDLE_TIMEOUT, ClusterSpec, compile_cluster
from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.endpoint import LoadAssignment, compile_load_assignment
from proxyless.xds_client.compile.inbound import compile_inbound

PEER = "spiffe://td/ns/a/sa/b"
EXACT = (StringMatcher(StringKind.EXACT, PEER),)
MTLS = UpstreamTls(san=EXACT)


def compiled(source: str) -> ClusterSpec:
    made = cluster("c")
    made.MergeFrom(text(cluster_pb2.Cluster(), source))
    return compile_cluster(made)


def endpoints(source: str) -> LoadAssignment:
    return compile_load_assignment(text(endpoint_pb2.ClusterLoadAssignment(cluster_name="c"), source))


def lb(address: str = "10.0.0.1", port: int = 80, rest: str = "") -> str:
    socket = f'socket_address {{ address: "{address}" port_value: {port} }}'
    return f"lb_endpoints {{ endpoint {{ address {{ {socket} }} }} {rest} }}"


# ---- clusters


@pytest.mark.parametrize(
    ("source", "balancer", "reported"),
    [
        ("", LoadBalancer.ROUND_ROBIN, False),
        ("lb_policy: LEAST_REQUEST", LoadBalancer.LEAST_REQUEST, False),
        ("lb_policy: RANDOM", LoadBalancer.RANDOM, False),
        ("lb_policy: RING_HASH", LoadBalancer.RING_HASH, False),
        ("lb_policy: MAGLEV", LoadBalancer.MAGLEV, False),
        ("lb_policy: RING_HASH ring_hash_lb_config { hash_function: MURMUR_HASH_2 }", LoadBalancer.RING_HASH, True),
        (
            "lb_policy: RING_HASH ring_hash_lb_config { minimum_ring_size { value: 100000 } }",
            LoadBalancer.RING_HASH,
            True,
        ),
        ("lb_policy: MAGLEV maglev_lb_config { table_size { value: 5000011 } }", LoadBalancer.MAGLEV, True),
        (
            "lb_policy: MAGLEV "
            "common_lb_config { consistent_hashing_lb_config { hash_balance_factor { value: 150 } } }",
            LoadBalancer.MAGLEV,
            True,
        ),
        ("lb_policy: 77", LoadBalancer.ROUND_ROBIN, True),
        ("load_balancing_policy {}", LoadBalancer.ROUND_ROBIN, True),
    ],
)
def test_load_balancers(source: str, balancer: LoadBalancer, reported: bool) -> None:
    found = compiled(source).cluster
    assert found.load_balancer is balancer
    assert bool(found.ignored) is reported


def test_the_first_known_policy_wins_inside_its_wrapper_too() -> None:
    prefix = "type.googleapis.com/envoy.extensions.load_balancing_policies"
    policy = 'policies { typed_extension_config { name: "x" typed_config { type_url: "%s" } } }'
    least = policy % f"{prefix}.least_request.v3.LeastRequest"
    unknown = policy % f"{prefix}.subset.v3.Subset"
    found = compiled(f"load_balancing_policy {{ {unknown} {least} }} lb_policy: RANDOM")
    assert found.cluster.load_balancer is LoadBalancer.LEAST_REQUEST
    wrapped = cluster_pb2.LoadBalancingPolicy()
    text(wrapped, least)
    from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2

    outer = cluster("c")
    extension = outer.load_balancing_policy.policies.add().typed_extension_config
    extension.typed_config.Pack(wrr_locality_pb2.WrrLocality(endpoint_picking_policy=wrapped))
    assert compile_cluster(outer).cluster.load_balancer is LoadBalancer.LEAST_REQUEST


BY_LOAD = (
    'load_balancing_policy { policies { typed_extension_config { name: "x" typed_config { '
    "[type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3."
    "ClientSideWeightedRoundRobin] { %s } } } } }"
)


@pytest.mark.parametrize(
    ("source", "expected", "ignored"),
    [
        ("", LoadWeighting(10.0, 180.0, 1.0, 1.0, ()), ()),
        (
            "blackout_period { seconds: 3 } weight_expiration_period { seconds: 60 } "
            "weight_update_period { nanos: 500000000 } error_utilization_penalty { value: 0 } "
            'metric_names_for_computing_utilization: ["named_metrics.a", "mem_utilization"]',
            LoadWeighting(3.0, 60.0, 0.5, 0.0, ("named_metrics.a", "mem_utilization")),
            (),
        ),
        ("blackout_period {} weight_update_period {}", LoadWeighting(0.0, 180.0, 0.1, 1.0, ()), ()),
        (
            "enable_oob_load_report { value: true } slow_start_config {}",
            LoadWeighting(),
            (
                "ClientSideWeightedRoundRobin.slow_start_config",
                "ClientSideWeightedRoundRobin.enable_oob_load_report: what answers tell is used",
            ),
        ),
    ],
)
def test_balancing_by_load(source: str, expected: LoadWeighting, ignored: tuple[str, ...]) -> None:
    found = compiled(BY_LOAD % source).cluster
    assert found.load_balancer is LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN
    assert (found.load_weighting, found.hashing, found.ignored) == (expected, None, ignored)


def test_fields() -> None:
    found = compiled(
        "connect_timeout { nanos: 250000000 } max_requests_per_connection { value: 7 } "
        'metadata { filter_metadata { key: "istio" value { fields { key: "services" value { list_value { values { '
        'struct_value { fields { key: "host" value { string_value: "reviews.ns.svc.cluster.local" } } '
        'fields { key: "name" value { string_value: "reviews" } } '
        'fields { key: "namespace" value { string_value: "ns" } } } } } } } } } }'
    ).cluster
    assert (found.connect_timeout, found.max_requests_per_connection, found.idle_timeout) == (0.25, 7, None)
    assert (found.service, found.service_namespace, found.service_host) == (
        "reviews",
        "ns",
        "reviews.ns.svc.cluster.local",
    )
    assert compiled("").cluster.connect_timeout == 5.0


@pytest.mark.parametrize(
    ("source", "protocol", "requests", "idle"),
    [
        ("explicit_http_config { http2_protocol_options {} }", Protocol.HTTP2, 0, None),
        ("explicit_http_config { http_protocol_options {} }", Protocol.HTTP1, 0, None),
        ("auto_config {}", Protocol.AUTO, 0, None),
        ("use_downstream_protocol_config { http2_protocol_options {} }", Protocol.HTTP1, 0, None),
        ("common_http_protocol_options { max_requests_per_connection { value: 3 } }", Protocol.HTTP1, 3, None),
        ("common_http_protocol_options { idle_timeout { seconds: 9 } }", Protocol.HTTP1, 0, 9.0),
        ("common_http_protocol_options { idle_timeout {} }", Protocol.HTTP1, 0, NO_IDLE_TIMEOUT),
    ],
)
def test_http_options(source: str, protocol: Protocol, requests: int, idle: float | None) -> None:
    made = cluster("c")
    options = text(http_protocol_options_pb2.HttpProtocolOptions(), source)
    made.typed_extension_protocol_options[HTTP_OPTIONS].Pack(options)
    found = compile_cluster(made).cluster
    assert (found.protocol, found.max_requests_per_connection, found.idle_timeout) == (protocol, requests, idle)


@pytest.mark.parametrize(
    ("options", "connection", "expected"),
    [
        ("", "", None),
        ("", "tcp_keepalive {}", ConnectionOptions(TcpKeepalive())),
        (
            "",
            "tcp_keepalive { keepalive_probes { value: 999 } keepalive_time { value: 99999 } "
            "keepalive_interval { value: 7 } }",
            ConnectionOptions(TcpKeepalive(127, 32_767, 7)),  # what Linux takes
        ),
        (
            "common_http_protocol_options { max_connection_duration { seconds: 9 } }",
            "",
            ConnectionOptions(max_duration=9.0),
        ),
        (
            "explicit_http_config { http2_protocol_options { max_concurrent_streams { value: 5 } } }",
            "",
            ConnectionOptions(max_streams=5),
        ),
        (
            "auto_config { http2_protocol_options { max_concurrent_streams { value: 6 } } }",
            "",
            ConnectionOptions(max_streams=6),
        ),
    ],
)
def test_connection_options(options: str, connection: str, expected: ConnectionOptions | None) -> None:
    made = text(cluster("c"), f"upstream_connection_options {{ {connection} }}")
    made.typed_extension_protocol_options[HTTP_OPTIONS].Pack(
        text(http_protocol_options_pb2.HttpProtocolOptions(), options)
    )
    found = compile_cluster(made).cluster
    assert found.connection_options == expected
    assert found.ignored == ()


def test_no_streams_at_all_are_refused() -> None:
    with pytest.raises(InvalidResource, match="max_concurrent_streams must be more than 0"):
        compiled("http2_protocol_options { max_concurrent_streams {} }")


def test_deprecated_http2_options() -> None:
    assert compiled("http2_protocol_options {}").cluster.protocol is Protocol.HTTP2


@pytest.mark.parametrize(
    ("source", "kind", "addresses"),
    [
        ("type: STATIC", ClusterKind.ENDPOINTS, ["10.0.0.1:80"]),
        ("type: STRICT_DNS", ClusterKind.DNS, ["db.example.com:80"]),
        ("type: LOGICAL_DNS", ClusterKind.DNS, ["db.example.com:80"]),
        ("type: ORIGINAL_DST", ClusterKind.PASSTHROUGH, []),
    ],
)
def test_kinds(source: str, kind: ClusterKind, addresses: list[str]) -> None:
    address = addresses[0].rpartition(":")[0] if addresses else "10.0.0.1"
    spec = compile_cluster(
        text(
            cluster_pb2.Cluster(name="c"),
            f'{source} load_assignment {{ cluster_name: "c" endpoints {{ {lb(address)} }} }}',
        )
    )
    assert spec.eds_name is None
    joined = spec.join(None)
    assert joined.kind is kind
    assert [str(one) for one in joined.endpoints] == addresses


def test_the_eds_name() -> None:
    assert compiled("").eds_name == "c"
    assert compiled('eds_cluster_config { service_name: "s" }').eds_name == "s"


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("outlier_detection {}", "outlier_detection.success_rate"),
        (
            "circuit_breakers { thresholds { max_connection_pools { value: 7 } } }",
            "circuit_breakers.max_connection_pools",
        ),
        ("circuit_breakers { thresholds { priority: HIGH } }", "circuit_breakers.thresholds of priority HIGH"),
        ("circuit_breakers { per_host_thresholds {} }", "circuit_breakers.per_host_thresholds"),
        ("common_lb_config { zone_aware_lb_config {} }", "common_lb_config.zone_aware_lb_config"),
        (
            "health_checks { timeout { seconds: 1 } interval { seconds: 1 } tcp_health_check {} "
            "healthy_threshold {} unhealthy_threshold {} }",
            "health_checks",
        ),
        ("lb_subset_config {}", "lb_subset_config"),
        ("track_timeout_budgets: true", "track_timeout_budgets"),
        ("circuit_breakers { thresholds { max_requests { value: 4294967295 } max_retries { value: 3 } } }", ""),
    ],
)
def test_what_is_not_acted_on_is_reported(source: str, field: str) -> None:
    assert compiled(source).cluster.ignored == ((field,) if field else ())


@pytest.mark.parametrize(
    ("thresholds", "limits", "budget"),
    [
        ("", (None, None, None, None), None),
        ("thresholds {}", (None, None, None, None), None),
        (
            "thresholds { max_connections { value: 1 } max_pending_requests { value: 2 } "
            "max_requests { value: 3 } max_retries { value: 0 } }",
            (1, 2, 3, 0),
            None,
        ),
        ("thresholds { max_connections { value: 4294967295 } max_requests { value: 5 } }", (None, None, 5, None), None),
        (
            "thresholds { priority: HIGH max_requests { value: 1 } } thresholds { max_requests { value: 2 } } "
            "thresholds { max_requests { value: 3 } }",
            (None, None, 2, None),
            None,
        ),
        ("thresholds { retry_budget {} }", (None, None, None, None), RetryBudget(20.0, 3)),
        (
            "thresholds { retry_budget { budget_percent { value: 0 } min_retry_concurrency { value: 9 } } }",
            (None, None, None, None),
            RetryBudget(0.0, 9),
        ),
    ],
)
def test_limits_are_those_of_the_default_priority(
    thresholds: str, limits: tuple[int | None, ...], budget: RetryBudget | None
) -> None:
    found = compiled(f"circuit_breakers {{ {thresholds} }}").cluster
    told = (found.max_connections, found.max_pending_requests, found.max_requests, found.max_retries)
    assert told == limits
    assert found.retry_budget == budget


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "circuit_breakers { thresholds { retry_budget { budget_percent { value: 101 } } } }",
            "from 0 to 100, not 101",
        ),
        ("lb_policy: RING_HASH ring_hash_lb_config { minimum_ring_size { value: 9000000 } }", "ring sizes must be"),
        (
            "lb_policy: RING_HASH "
            "ring_hash_lb_config { minimum_ring_size { value: 9 } maximum_ring_size { value: 8 } }",
            "ring sizes must be",
        ),
        ("lb_policy: MAGLEV maglev_lb_config { table_size { value: 100 } }", "must be a prime"),
        (BY_LOAD % "error_utilization_penalty { value: -1 }", "must not be negative, but is -1"),
        (BY_LOAD % "error_utilization_penalty { value: nan }", "must not be negative, but is nan"),
        ('cluster_type { name: "envoy.clusters.aggregate" }', "cluster_type envoy.clusters.aggregate is not supported"),
        ("type: 99", "type 99 is not supported"),
        ('eds_cluster_config { eds_config { path: "/x" } }', "eds_config is path: only ads and self"),
        ("connect_timeout {}", "connect_timeout must be more than 0"),
        (f"type: STATIC load_assignment {{ endpoints {{ {lb('db.example.com')} }} }}", "is not an IP address"),
        ("type: LOGICAL_DNS", "exactly one endpoint"),
        ('transport_socket { name: "x" typed_config { type_url: "t/x.Y" } }', "where only envoy.extensions"),
        (
            'transport_socket_matches { name: "m" match { fields { key: "a" value { number_value: 1 } } } }',
            "only text values",
        ),
    ],
)
def test_refused_clusters(source: str, error: str) -> None:
    with pytest.raises(InvalidResource, match=r"^c: ") as raised:
        compiled(source)
    assert error in raised.value.message


# ---- TLS


@pytest.mark.parametrize(
    ("socket", "expected"),
    [
        (upstream_tls(PEER), MTLS),
        (upstream_tls(), UpstreamTls()),
        (upstream_tls(identity=False), UpstreamTls(identity=False)),
        (upstream_tls(identity=False, roots="system", sni="x.com"), UpstreamTls((), "x.com", False, False)),
        (upstream_tls(identity=False, roots=""), UpstreamTls((), "", False, False)),
        (base_pb2.TransportSocket(name="raw", typed_config=packed(raw_buffer_pb2.RawBuffer())), None),
    ],
)
def test_upstream_tls(socket: Any, expected: UpstreamTls | None) -> None:
    made = cluster("c")
    made.transport_socket.CopyFrom(socket)
    joined = compile_cluster(made).join(compile_load_assignment(assignment("c", "10.0.0.1:80")))
    assert joined.tls == expected
    assert joined.endpoints[0].tls == expected


COMMON = "common_tls_context"
CONTEXTS: list[tuple[str, UpstreamTls | str]] = [
    # Istio's form for Envoy: SDS, with the names beside it.
    (
        'tls_certificate_sds_secret_configs { name: "default" } combined_validation_context { '
        f'default_validation_context {{ match_subject_alt_names {{ exact: "{PEER}" }} }} '
        'validation_context_sds_secret_config { name: "ROOTCA" } }',
        MTLS,
    ),
    ('validation_context_sds_secret_config { name: "file-root:system" }', UpstreamTls((), "", False, False)),
    ('validation_context_certificate_provider_instance { instance_name: "default" }', UpstreamTls((), "", False)),
    (
        'validation_context { ca_certificate_provider_instance { instance_name: "d" } match_typed_subject_alt_names '
        '{ san_type: EMAIL matcher { exact: "a@b" } } }',
        UpstreamTls((NEVER,), "", False),
    ),
    ('alpn_protocols: "h2"', UpstreamTls((), "", False, False, ("h2",))),
    ('tls_certificate_sds_secret_configs { name: "other" }', "is not served here"),
    ('validation_context_sds_secret_config { name: "other" }', "are not served here"),
    ('tls_certificates { certificate_chain { filename: "x" } }', "certificate provider instance"),
    ('validation_context { trusted_ca { filename: "x" } }', "trusted_ca is not supported"),
    ('validation_context { verify_certificate_hash: "x" }', "verify_certificate_hash is not supported"),
    ("validation_context { crl {} }", "crl is not supported"),
    ("validation_context { trust_chain_verification: ACCEPT_UNTRUSTED }", "always verified"),
]


@pytest.mark.parametrize(("source", "expected"), CONTEXTS)
def test_tls_contexts(source: str, expected: UpstreamTls | str) -> None:
    context = text(tls_pb2.UpstreamTlsContext(), f"common_tls_context {{ {source} }}")
    made = cluster("c")
    made.transport_socket.CopyFrom(base_pb2.TransportSocket(name="tls", typed_config=packed(context)))
    if isinstance(expected, UpstreamTls):
        assert compile_cluster(made).cluster.tls == expected
    else:
        with pytest.raises(InvalidResource, match=expected):
            compile_cluster(made)


def test_every_endpoint_gets_the_tls_that_its_metadata_asks_for() -> None:
    made = cluster("c")
    first = made.transport_socket_matches.add(name="mtls")
    first.match["tlsMode"] = "istio"
    first.transport_socket.CopyFrom(upstream_tls(PEER))
    rest = made.transport_socket_matches.add(name="plain")
    rest.transport_socket.typed_config.Pack(raw_buffer_pb2.RawBuffer())
    key, field = 'key: "envoy.transport_socket_match"', 'fields { key: "tlsMode" value { string_value: "%s" } }'
    asking = f"metadata {{ filter_metadata {{ {key} value {{ {field} }} }} }}"
    found = endpoints(
        f"endpoints {{ {lb('10.0.0.1', rest=asking % 'istio')} {lb('10.0.0.2', rest=asking % 'disabled')} "
        f"{lb('10.0.0.3')} }}"
    )
    assert [one.tls for one in compile_cluster(made).join(found).endpoints] == [MTLS, None, None]
    # Without a match that takes everything, the cluster's own socket is for the rest.
    del made.transport_socket_matches[1]
    made.transport_socket.CopyFrom(upstream_tls(sni="own"))
    own = UpstreamTls(sni="own")
    assert [one.tls for one in compile_cluster(made).join(found).endpoints] == [MTLS, own, own]


# ---- endpoints


def test_endpoints() -> None:
    found = endpoints(
        'endpoints { locality { region: "r" zone: "z" sub_zone: "s" } load_balancing_weight { value: 3 } priority: 1 '
        f"{lb(rest='load_balancing_weight { value: 5 } health_status: DEGRADED')} }} "
        f"endpoints {{ load_balancing_weight {{ value: 1 }} {lb('::1', 8080)} }} "
        'policy { drop_overloads { category: "c" drop_percentage { numerator: 50 } } }'
    )
    first, second = found.localities
    assert (first.locality, first.weight, first.priority) == (Locality("r", "z", "s"), 3, 1)
    one = first.endpoints[0].endpoint
    assert (str(one), one.weight, one.health) == ("10.0.0.1:80", 5, Health.DEGRADED)
    assert str(second.endpoints[0].endpoint) == "[::1]:8080"
    assert found.drops == (DropOverload("c", 500_000),)


@pytest.mark.parametrize(
    ("status", "health", "usable"),
    [
        ("UNKNOWN", Health.HEALTHY, 1),
        ("HEALTHY", Health.HEALTHY, 1),
        ("DEGRADED", Health.DEGRADED, 1),
        ("DRAINING", Health.DRAINING, 0),
        ("UNHEALTHY", Health.UNHEALTHY, 0),
        ("TIMEOUT", Health.UNHEALTHY, 0),
        ("99", Health.UNHEALTHY, 0),
    ],
)
def test_health(status: str, health: Health, usable: int) -> None:
    found = endpoints(f"endpoints {{ {lb(rest=f'health_status: {status}')} }}")
    assert found.localities[0].endpoints[0].endpoint.health is health
    assert found.usable == usable


WEIGHT = "load_balancing_weight { value: %d }"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["", ""], [0, 0]),  # nobody is weighted
        ([WEIGHT % 2, ""], [2]),  # gRPC: a locality without weight beside weighted ones gets nothing
        ([WEIGHT % 2, WEIGHT % 0], [2]),
        ([WEIGHT % 0], []),
    ],
)
def test_locality_weights(weights: list[str], expected: list[int]) -> None:
    source = " ".join(
        f'endpoints {{ locality {{ zone: "{i}" }} {weight} {lb(f"10.0.0.{i}")} }}' for i, weight in enumerate(weights)
    )
    assert [group.weight for group in endpoints(source).localities] == expected


def test_labels_for_telemetry() -> None:
    metadata = (
        'metadata { filter_metadata { key: "istio" value { fields { key: "workload" value { string_value: '
        '"reviews-v1;ns;reviews;v1;Kubernetes" } } } } filter_metadata { key: "proxyless" value { fields { key: '
        '"labels" value { struct_value { fields { key: "version" value { string_value: "v1" } } } } } } } }'
    )
    found = endpoints(f"endpoints {{ {lb(rest=metadata)} }}").localities[0].endpoints[0].endpoint
    assert found.labels == {
        "version": "v1",
        "workload": "reviews-v1",
        "namespace": "ns",
        "canonical_service": "reviews",
        "canonical_revision": "v1",
        "cluster": "Kubernetes",
    }


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (f"endpoints {{ {lb()} {lb()} }}", "10.0.0.1:80 is listed twice"),
        (f"endpoints {{ {lb('::1')} {lb('0:0:0:0:0:0:0:1')} }}", "is listed twice"),
        (f"endpoints {{ priority: 1 {lb()} }}", "must start at 0"),
        (f"endpoints {{ {lb('10.0.0.1')} }} endpoints {{ priority: 2 {lb('10.0.0.2')} }}", "leave none out"),
        ('endpoints { locality { zone: "z" } } endpoints { locality { zone: "z" } }', "is listed twice in priority 0"),
        (f"endpoints {{ {lb(rest='load_balancing_weight {}')} }}", "must be more than 0"),
        (f"endpoints {{ {lb('not-an-ip')} }}", "is not an IP address"),
        (f"endpoints {{ {lb(port=0)} }}", "has no port"),
        (f"endpoints {{ {lb(port=70000)} }}", "up to 65535"),
        ('endpoints { lb_endpoints { endpoint { address { pipe { path: "/x" } } } } }', "only a TCP socket_address"),
        ('endpoints { lb_endpoints { endpoint_name: "x" } }', "only an inline endpoint"),
        ("endpoints { leds_cluster_locality_config {} }", "leds_cluster_locality_config is not supported"),
        ("policy { drop_overloads {} }", "has no category"),
    ],
)
def test_refused_endpoints(source: str, error: str) -> None:
    with pytest.raises(InvalidResource, match=r"^c: ") as raised:
        endpoints(source)
    assert error in raised.value.message


# ---- servers

TLS, PLAIN = ("tls", downstream_tls(PEER)), ("raw_buffer", None)


@pytest.mark.parametrize(
    ("chains", "mode", "san"),
    [
        ([TLS, PLAIN], MutualTls.PERMISSIVE, EXACT),
        ([TLS], MutualTls.STRICT, EXACT),
        ([("", downstream_tls())], MutualTls.STRICT, ()),
        ([PLAIN], MutualTls.DISABLE, ()),
        ([("", None)], MutualTls.DISABLE, ()),
    ],
)
def test_inbound_modes(chains: list[Any], mode: MutualTls, san: tuple[StringMatcher, ...]) -> None:
    found = compile_inbound(inbound(8080, *chains))
    assert (found.port, found.mutual_tls, found.san) == (8080, mode, san)


def test_a_chain_for_some_callers_is_left_out_and_reported() -> None:
    made = inbound(8080, TLS, PLAIN)
    made.filter_chains[1].filter_chain_match.source_prefix_ranges.add(address_prefix="10.0.0.0")
    found = compile_inbound(made)
    assert found.mutual_tls is MutualTls.STRICT
    assert "for some connections only" in found.ignored[0]


@pytest.mark.parametrize(
    ("chains", "error"),
    [
        ([], "no filter chain serves this port"),
        ([("tls", None)], "no filter chain serves this port"),
        ([("tls", downstream_tls(require=False))], "only mutual TLS is"),
        ([("tls", downstream_tls(PEER)), ("", downstream_tls())], "accept different peers"),
    ],
)
def test_refused_inbound_listeners(chains: list[Any], error: str) -> None:
    with pytest.raises(InvalidResource, match=error):
        compile_inbound(inbound(8080, *chains))


OFF = "enforcing_success_rate {} "


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", OutlierDetection()),
        (
            "consecutive_5xx { value: 3 } enforcing_consecutive_5xx { value: 50 } "
            "consecutive_gateway_failure { value: 2 } "
            "enforcing_consecutive_gateway_failure { value: 100 } split_external_local_origin_errors: true "
            "consecutive_local_origin_failure { value: 4 } enforcing_consecutive_local_origin_failure { value: 7 }",
            OutlierDetection(3, 50, 2, 100, True, 4, 7),
        ),
        (
            "interval { seconds: 1 } base_ejection_time { seconds: 400 } max_ejection_percent { value: 0 } "
            "always_eject_one_host { value: true }",
            OutlierDetection(
                interval=1.0,
                base_ejection_time=400.0,
                max_ejection_time=400.0,
                max_ejection_percent=0,
                always_eject_one=True,
            ),
        ),
    ],
)
def test_outlier_detection(source: str, expected: OutlierDetection) -> None:
    found = compiled(f"outlier_detection {{ {OFF}{source} }}").cluster
    assert found.outlier_detection == expected
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("interval {}", "interval must be more than 0"),
        ("max_ejection_percent { value: 101 }", "at most 100"),
        ("max_ejection_time { seconds: 1 }", "must not be less than base_ejection_time"),
    ],
)
def test_refused_outlier_detection(source: str, error: str) -> None:
    with pytest.raises(InvalidResource, match=error):
        compiled(f"outlier_detection {{ {source} }}")


def test_the_panic_threshold_is_off_unless_said() -> None:
    assert compiled("").cluster.panic_threshold == 0.0
    assert compiled("common_lb_config { healthy_panic_threshold { value: 30 } }").cluster.panic_threshold == 30.0

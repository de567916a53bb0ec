"""Clusters and endpoints: DestinationRules, TLS, DNS, and what is wrong with a destination."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2 import WrrLocality
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from translate_world import ENVOY, GRPC, GRPC_TLS, LIBRARY, addresses, cluster, fields, get, notes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator
from proxyless.model.workload import Workload

HOST = "reviews.default.svc.cluster.local"
NAME = f"outbound|80||{HOST}"
Cluster = cluster_pb2.Cluster


def ruled(spec: str, *workloads: Workload, host: str = "reviews", more: str = "") -> Translator:
    rule = f"""
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {{name: rule, namespace: default}}
            spec: {{host: {host}{"," if spec else ""} {spec}}}
            {more}
    """
    return Translator(world(rule, *(workloads or (workload("reviews"),))))


def policy(text: str) -> str:
    return f"trafficPolicy: {{{text}}}" if text else ""


def tls_of(socket: Any) -> Any:
    return tls_pb2.UpstreamTlsContext.FromString(socket.typed_config.value)


def http_of(found: Any) -> Any:
    options = found.typed_extension_protocol_options
    packed = options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].value
    return http_protocol_options_pb2.HttpProtocolOptions.FromString(packed)


def test_a_plain_cluster() -> None:
    found = cluster(Translator(world("", workload("reviews"))), NAME)
    assert (found.type, found.eds_cluster_config.service_name) == (Cluster.EDS, NAME)
    assert found.connect_timeout.seconds == 10
    assert found.lb_policy == Cluster.LEAST_REQUEST
    assert not found.HasField("outlier_detection")
    services = fields(found.metadata, "istio")["services"]
    assert [dict(one) for one in services] == [{"host": HOST, "name": "reviews", "namespace": "default"}]


@pytest.mark.parametrize(
    ("asked", "library", "grpc"),
    [
        ("", Cluster.LEAST_REQUEST, Cluster.ROUND_ROBIN),
        ("loadBalancer: {simple: ROUND_ROBIN}", Cluster.ROUND_ROBIN, Cluster.ROUND_ROBIN),
        ("loadBalancer: {simple: LEAST_REQUEST}", Cluster.LEAST_REQUEST, Cluster.ROUND_ROBIN),
        ("loadBalancer: {simple: LEAST_CONN}", Cluster.LEAST_REQUEST, Cluster.ROUND_ROBIN),
        ("loadBalancer: {simple: RANDOM}", Cluster.RANDOM, Cluster.ROUND_ROBIN),
        ("loadBalancer: {consistentHash: {useSourceIp: true}}", Cluster.LEAST_REQUEST, Cluster.RING_HASH),
        ("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}", Cluster.LEAST_REQUEST, Cluster.RING_HASH),
        ("loadBalancer: {consistentHash: {httpHeaderName: x}}", Cluster.RING_HASH, Cluster.RING_HASH),
        ("loadBalancer: {consistentHash: {httpHeaderName: x, maglev: {}}}", Cluster.MAGLEV, Cluster.RING_HASH),
        ("loadBalancer: {consistentHash: {httpQueryParameterName: x}}", Cluster.RING_HASH, Cluster.RING_HASH),
    ],
)
def test_load_balancers(asked: str, library: int, grpc: int) -> None:
    translator = ruled(policy(asked))
    assert cluster(translator, NAME).lb_policy == library
    assert cluster(translator, NAME, GRPC).lb_policy == grpc
    differs = asked and "ROUND_ROBIN" not in asked and grpc != Cluster.RING_HASH
    said = [one for one in notes(translator, GRPC, type_urls.CLUSTER, NAME) if one.startswith("loadBalancer")]
    assert bool(said) is bool(differs or "maglev" in asked or ("consistentHash" in asked and "httpHeader" not in asked))
    assert bool(notes(translator, LIBRARY, type_urls.CLUSTER, NAME)) is ("useSourceIp" in asked)


BY_LOAD = "annotations: {proxyless.io/load-balancing: client_side_weighted_round_robin}"


def policies_of(found: Any) -> list[str]:
    """The names of a cluster's policy and of those within it."""
    names = []
    policies = found.load_balancing_policy.policies
    while policies:
        extension = policies[0].typed_extension_config
        names.append(extension.name.removeprefix("envoy.load_balancing_policies."))
        policies = []
        if extension.typed_config.Is(WrrLocality.DESCRIPTOR):
            policies = WrrLocality.FromString(extension.typed_config.value).endpoint_picking_policy.policies
    return names


@pytest.mark.parametrize("spec", ["", ", trafficPolicy: {outlierDetection: {}}", ", trafficPolicy: {loadBalancer: {}}"])
def test_balancing_by_load(spec: str) -> None:
    rule = f"""
        apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {{name: rule, {BY_LOAD}}}
        spec:
          host: reviews
          {spec.removeprefix(", ")}
          subsets:
          - {{name: same, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}}}}}}}
          - {{name: own, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}
    """
    translator = Translator(world(rule, workload("reviews")))
    for client in (LIBRARY, GRPC, ENVOY):
        for name in (NAME, NAME.replace("||", "|same|")):
            found = cluster(translator, name, client)
            wrapper = [] if client is ENVOY else ["wrr_locality"]
            assert policies_of(found) == [*wrapper, "client_side_weighted_round_robin"]
            assert not [one for one in notes(translator, client, type_urls.CLUSTER, name) if "oadBalancer" in one]
        assert policies_of(cluster(translator, NAME.replace("||", "|own|"), client)) == []


def test_balancing_by_load_keeps_the_rest_of_a_balancer() -> None:
    locality = "localityLbSetting: {distribute: [{from: '*', to: {'*': 100}}]}"
    rule = f"""
        apiVersion: networking.istio.io/v1
        kind: DestinationRule
        metadata: {{name: rule, {BY_LOAD}}}
        spec: {{host: reviews, trafficPolicy: {{loadBalancer: {{{locality}, warmup: {{duration: 10s}}}}}}}}
    """
    translator = Translator(world(rule, workload("reviews")))
    found = cluster(translator, NAME, ENVOY)
    # Envoy does not take locality_weighted_lb_config beside a load_balancing_policy.
    assert policies_of(found) == ["wrr_locality", "client_side_weighted_round_robin"]
    assert not found.common_lb_config.HasField("locality_weighted_lb_config")
    (note,) = notes(translator, ENVOY, type_urls.CLUSTER, NAME)
    assert note.startswith("loadBalancer.warmup left out")


def test_ring_sizes() -> None:
    for asked, size in (("", 1024), (", minimumRingSize: 7", 7), (", ringHash: {minimumRingSize: 9}", 9)):
        translator = ruled(policy(f"loadBalancer: {{consistentHash: {{httpHeaderName: x{asked}}}}}"))
        assert cluster(translator, NAME, ENVOY).ring_hash_lb_config.minimum_ring_size.value == size


TOP = "connectionPool: {tcp: {connectTimeout: 1s}}, outlierDetection: {interval: 1s}"
TOP_PORT = "portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 2s}}}]"
SUBSET = "connectionPool: {tcp: {connectTimeout: 3s}}"
SUBSET_PORT = "portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 4s}}}]"


@pytest.mark.parametrize(
    ("top", "subset", "timeout", "outlier"),
    [
        ("", "", 10, False),
        (TOP, "", 1, True),
        # A port level inherits nothing from its rule: outlier detection is off again.
        (f"{TOP}, {TOP_PORT}", "", 2, False),
        (f"{TOP}, {TOP_PORT.replace('80', '81')}", "", 1, True),
        (f"{TOP}, {TOP_PORT}", SUBSET, 3, False),
        (TOP, SUBSET, 3, True),
        (TOP, f"{SUBSET}, {SUBSET_PORT}", 4, False),
        (f"{TOP}, {TOP_PORT}", SUBSET_PORT, 4, False),
    ],
)
def test_precedence_of_traffic_policies(top: str, subset: str, timeout: int, outlier: bool) -> None:
    parts = ["name: v1", "labels: {version: v1}", policy(subset)]
    subsets = f"subsets: [{{{', '.join(part for part in parts if part)}}}]"
    translator = ruled(", ".join(part for part in (policy(top), subsets) if part))
    found = cluster(translator, f"outbound|80|v1|{HOST}")
    assert found.connect_timeout.seconds == timeout
    assert found.HasField("outlier_detection") is outlier


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ("", None),
        ("connectionPool: {tcp: {maxConnections: 0}}", None),  # protobuf's 0 is unset
        ("connectionPool: {tcp: {maxConnections: 5}}", (5, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
        (
            "connectionPool: {http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 3}}",
            (2**32 - 1, 1, 2, 3),
        ),
    ],
)
def test_limits(asked: str, limits: tuple[int, ...] | None) -> None:
    for client in (LIBRARY, ENVOY, GRPC):
        thresholds = cluster(ruled(policy(asked)), NAME, client).circuit_breakers.thresholds
        if limits is None and client is LIBRARY:
            assert not thresholds  # a library client has no limits to lift
            continue
        (one,) = thresholds
        found = (one.max_connections, one.max_pending_requests, one.max_requests, one.max_retries)
        assert tuple(value.value for value in found) == (limits or (2**32 - 1,) * 4)


def test_a_retry_budget_survives_a_subset_without_one() -> None:
    translator = ruled(
        f"{policy('retryBudget: {}')}, subsets: [{{name: v1, {policy('loadBalancer: {simple: RANDOM}')}}}]"
    )
    (threshold,) = cluster(translator, f"outbound|80|v1|{HOST}").circuit_breakers.thresholds
    assert threshold.retry_budget.budget_percent.value == 20.0


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ("{}", "consecutive_5xx", None),  # Envoy's default of 5 stays
        ("{consecutive5xxErrors: 0}", "enforcing_consecutive_5xx", 0),
        ("{consecutive5xxErrors: 7}", "consecutive_5xx", 7),
        ("{consecutive5xxErrors: 7}", "enforcing_consecutive_5xx", 100),
        ("{consecutiveGatewayErrors: 0}", "enforcing_consecutive_gateway_failure", 0),
        ("{consecutiveGatewayErrors: 3}", "enforcing_consecutive_gateway_failure", 100),
        ("{maxEjectionPercent: 0}", "max_ejection_percent", None),
        ("{maxEjectionPercent: 50}", "max_ejection_percent", 50),
        ("{}", "enforcing_success_rate", 0),
    ],
)
def test_outlier_detection_unset_and_zero(asked: str, field: str, value: int | None) -> None:
    found = cluster(ruled(policy(f"outlierDetection: {asked}")), NAME)
    assert found.outlier_detection.HasField(field) is (value is not None)
    if value is not None:
        assert getattr(found.outlier_detection, field).value == value
    assert found.common_lb_config.healthy_panic_threshold.value == 0


def test_rules_for_one_host_join_and_the_first_subset_of_a_name_counts() -> None:
    second = """
            ---
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: second, namespace: default}
            spec: {host: reviews.default, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}},
                   subsets: [{name: v1, labels: {version: wrong}}, {name: v2, labels: {version: v2}}]}
    """
    translator = ruled(
        "subsets: [{name: v1, labels: {version: v1}}]",
        workload("reviews", version="v1", port=1),
        workload("reviews", version="v2", port=2),
        more=second,
    )
    assert addresses(translator, f"outbound|80|v1|{HOST}") == ["127.0.0.1:1"]
    assert addresses(translator, f"outbound|80|v2|{HOST}") == ["127.0.0.1:2"]
    found = cluster(translator, NAME)
    assert found.connect_timeout.seconds == 7
    assert fields(found.metadata, "proxyless")["policy"] == (
        "DestinationRule default/rule, DestinationRule default/second"
    )


def test_where_a_destination_rule_is_looked_for() -> None:
    def one(namespace: str, seconds: int, host: str = HOST, more: str = "") -> str:
        return f"""
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {{name: rule, namespace: {namespace}}}
            spec: {{host: "{host}", trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}{more}}}
        """

    rules = [one("istio-system", 1, "*"), one("default", 2), one("shop", 3, "*.default.svc.cluster.local")]
    translator = Translator(world("\n---\n".join(rules), workload("reviews"), workload("x", namespace="other")))

    def timeout(namespace: str, name: str = NAME, labels: dict[str, str] | None = None) -> int:
        found = cluster(translator, name, Client(namespace=namespace, labels=labels or {}))
        return int(found.connect_timeout.seconds)

    assert timeout("shop") == 3  # the caller's namespace
    assert timeout("third") == 2  # the service's
    assert timeout("third", "outbound|80||x.other.svc.cluster.local") == 1  # the root namespace
    rules[1] = one("default", 2, more=", exportTo: ['.']")
    rules.append(one("shop", 4, more=", workloadSelector: {matchLabels: {app: web}}").replace("name: rule", "name: w"))
    translator = Translator(world("\n---\n".join(rules), workload("reviews")))
    assert timeout("third") == 1
    assert timeout("shop", labels={"app": "web"}) == 4
    assert timeout("shop", labels={"app": "db"}) == 3


def test_what_is_wrong_with_a_destination_is_said_in_its_cluster() -> None:
    translator = ruled("subsets: [{name: v1}]")
    for name, text in (
        ("outbound|80||nobody.default.svc.cluster.local", "no service nobody"),
        (f"outbound|81||{HOST}", "has no port 81"),
        (f"outbound|80|v9|{HOST}", "no DestinationRule defines subset 'v9'"),
    ):
        own = fields(cluster(translator, name).metadata, "proxyless")
        assert text in own["problem"]
        assert addresses(translator, name) == []
        assert cluster(translator, name, GRPC).type == Cluster.EDS
    assert "problem" not in fields(cluster(translator, NAME).metadata, "proxyless")
    for name in ("x", "outbound|80|x", "outbound|http||h", "inbound|80||h", "outbound|80||", ""):
        assert cluster(translator, name) is None
        assert get(translator, LIBRARY, type_urls.ENDPOINT, name) is None


# ---- mutual TLS


def identities(context: Any) -> list[str]:
    common = context.common_tls_context
    found = (
        common.validation_context
        if common.HasField("validation_context")
        else common.combined_validation_context.default_validation_context
    )
    names = [*found.match_subject_alt_names, *(one.matcher for one in found.match_typed_subject_alt_names)]
    return [one.exact or f"{one.prefix}*" for one in names]


def test_mutual_tls_where_the_endpoint_can() -> None:
    translator = Translator(
        world(
            "",
            workload("reviews", id="a", port=1, service_account="one"),
            workload("reviews", id="b", port=2, service_account="two"),
            workload("reviews", id="c", port=3, service_account="two", mutual_tls=False),
        )
    )
    names = [f"spiffe://cluster.local/ns/default/sa/{one}" for one in ("one", "two")]
    for client in (LIBRARY, ENVOY):
        found = cluster(translator, NAME, client)
        assert [one.name for one in found.transport_socket_matches] == ["tlsMode-istio", "tlsMode-disabled"]
        assert dict(found.transport_socket_matches[0].match) == {"tlsMode": "istio"}
        assert identities(tls_of(found.transport_socket_matches[0].transport_socket)) == names
        endpoints = get(translator, client, type_urls.ENDPOINT, NAME).endpoints[0].lb_endpoints
        modes = [fields(one.metadata, "envoy.transport_socket_match") for one in endpoints]
        assert modes == [{"tlsMode": "istio"}, {"tlsMode": "istio"}, {}]
    grpc = cluster(translator, NAME, GRPC_TLS)
    assert not grpc.HasField("transport_socket")
    assert "some of its endpoints have no mutual TLS" in notes(translator, GRPC_TLS, type_urls.CLUSTER, NAME)[0]


def test_grpc_gets_mutual_tls_when_all_endpoints_have_it() -> None:
    found = cluster(Translator(world("", workload("reviews"))), NAME, GRPC_TLS)
    context = tls_of(found.transport_socket)
    common = context.common_tls_context
    assert common.tls_certificate_provider_instance.instance_name == "default"
    assert common.validation_context.ca_certificate_provider_instance.instance_name == "default"
    assert not common.HasField("tls_params")  # gRPC refuses it
    assert identities(context) == ["spiffe://cluster.local/ns/default/sa/reviews"]


def test_a_grpc_client_without_a_certificate_provider_is_not_sent_what_it_would_refuse() -> None:
    translator = Translator(world("", workload("reviews")))
    assert not cluster(translator, NAME, GRPC).HasField("transport_socket")
    assert "security.istio.io/tlsMode: istio" in notes(translator, GRPC, type_urls.CLUSTER, NAME)[0]


def test_a_service_without_workloads_accepts_nobody_from_elsewhere() -> None:
    service = """
            apiVersion: v1
            kind: Service
            metadata: {name: reviews}
            spec: {ports: [{port: 80}]}
    """
    found = cluster(Translator(world(service)), NAME)
    context = tls_of(found.transport_socket_matches[0].transport_socket)
    assert identities(context) == ["spiffe://cluster.local/ns/default/sa/*"]


def test_no_mutual_tls_where_peer_authentication_switches_it_off() -> None:
    peers = """
            apiVersion: security.istio.io/v1
            kind: PeerAuthentication
            metadata: {name: peers, namespace: default}
            spec: {mtls: {mode: DISABLE}}
    """
    translator = Translator(world(peers, workload("reviews")))
    endpoint = get(translator, LIBRARY, type_urls.ENDPOINT, NAME).endpoints[0].lb_endpoints[0]
    assert fields(endpoint.metadata, "envoy.transport_socket_match") == {}
    assert not cluster(translator, NAME, GRPC_TLS).HasField("transport_socket")


@pytest.mark.parametrize("client", [LIBRARY, ENVOY, GRPC])
def test_destination_rules_decide_on_tls(client: Client) -> None:
    off = cluster(ruled(policy("tls: {mode: DISABLE}")), NAME, client)
    assert not off.HasField("transport_socket")
    assert not off.transport_socket_matches
    on = cluster(ruled(policy("tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://x/y]}")), NAME, client)
    assert not on.transport_socket_matches
    assert identities(tls_of(on.transport_socket)) == ["spiffe://x/y"]


EXTERNAL = """
            ---
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: api, namespace: default}
            spec:
              hosts: [api.example.com]
              location: MESH_EXTERNAL
              resolution: DNS
              ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
              %s
"""
API = "outbound|80||api.example.com"


def external(tls: str, more: str = "") -> Translator:
    return ruled(policy(f"tls: {{{tls}}}") if tls else "", host="api.example.com", more=EXTERNAL % more)


def test_an_external_service_is_plaintext_unless_a_rule_says_tls() -> None:
    found = cluster(external(""), API)
    assert found.type == Cluster.STRICT_DNS
    assert not found.transport_socket_matches
    assert not found.HasField("transport_socket")
    (endpoint,) = found.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "api.example.com"
    assert endpoint.endpoint.address.socket_address.port_value == 443
    assert cluster(external(""), API, GRPC).type == Cluster.LOGICAL_DNS


def test_simple_tls_verifies_against_the_systems_roots() -> None:
    context = tls_of(cluster(external("mode: SIMPLE"), API).transport_socket)
    assert context.sni == "api.example.com"
    assert context.common_tls_context.validation_context.HasField("system_root_certs")
    assert not context.common_tls_context.HasField("tls_certificate_provider_instance")
    named = tls_of(cluster(external("mode: SIMPLE, sni: s.example.com, subjectAltNames: [a]"), API).transport_socket)
    assert (named.sni, identities(named)) == ("s.example.com", ["a"])
    envoy = cluster(external("mode: SIMPLE"), API, ENVOY)
    secret = tls_of(
        envoy.transport_socket
    ).common_tls_context.combined_validation_context.validation_context_sds_secret_config
    assert secret.name == "file-root:system"
    assert http_of(envoy).upstream_http_protocol_options.auto_sni
    assert http_of(envoy).upstream_http_protocol_options.auto_san_validation


@pytest.mark.parametrize(
    ("tls", "client"),
    [
        ("mode: SIMPLE", GRPC),
        ("mode: MUTUAL, clientCertificate: /c, privateKey: /k", LIBRARY),
        ("mode: SIMPLE, caCertificates: /ca", LIBRARY),
        ("mode: SIMPLE, credentialName: c", LIBRARY),
        ("mode: SIMPLE, credentialName: c", ENVOY),
    ],
)
def test_tls_that_a_client_cannot_do_never_becomes_plaintext(tls: str, client: Client) -> None:
    own = fields(cluster(external(tls), API, client).metadata, "proxyless")
    assert own["problem"]


def test_files_of_mutual_tls_are_named_to_envoy_as_istios_agent_serves_them() -> None:
    translator = external("mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, sni: s")
    common = tls_of(cluster(translator, API, ENVOY).transport_socket).common_tls_context
    assert [one.name for one in common.tls_certificate_sds_secret_configs] == ["file-cert:/c~/k"]
    assert common.combined_validation_context.validation_context_sds_secret_config.name == "file-root:/ca"


# ---- protocols, addresses, endpoints


def test_http2_where_the_port_says_so() -> None:
    translator = Translator(world("", workload("reviews", ports={"grpc": 50051})))
    for client in (LIBRARY, ENVOY):
        options = http_of(cluster(translator, NAME, client))
        assert options.explicit_http_config.HasField("http2_protocol_options")
    context = tls_of(cluster(translator, NAME).transport_socket_matches[0].transport_socket)
    assert list(context.common_tls_context.alpn_protocols) == ["h2", "http/1.1"]
    context = tls_of(cluster(translator, NAME, ENVOY).transport_socket_matches[0].transport_socket)
    assert list(context.common_tls_context.alpn_protocols) == ["h2"]


def test_connection_settings() -> None:
    translator = ruled(policy("connectionPool: {http: {idleTimeout: 30s, maxRequestsPerConnection: 9}}"))
    options = http_of(cluster(translator, NAME))
    assert options.common_http_protocol_options.idle_timeout.seconds == 30
    assert options.common_http_protocol_options.max_requests_per_connection.value == 9
    assert options.explicit_http_config.HasField("http_protocol_options")
    upgraded = http_of(cluster(ruled(policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE}}")), NAME))
    assert upgraded.explicit_http_config.HasField("http2_protocol_options")


def test_connections_themselves() -> None:
    pool = (
        "connectionPool: {tcp: {tcpKeepalive: {probes: 3, time: 60s, interval: 1500ms}, maxConnectionDuration: 1h}, "
        "http: {%s, maxConcurrentStreams: 5}}"
    )
    for client in (LIBRARY, ENVOY):
        found = cluster(ruled(policy(pool % "h2UpgradePolicy: UPGRADE")), NAME, client)
        keepalive = found.upstream_connection_options.tcp_keepalive
        asked = (keepalive.keepalive_probes, keepalive.keepalive_time, keepalive.keepalive_interval)
        assert [one.value for one in asked] == [3, 60, 2]
        options = http_of(found)
        assert options.common_http_protocol_options.max_connection_duration.seconds == 3600
        assert options.explicit_http_config.http2_protocol_options.max_concurrent_streams.value == 5
    followed = http_of(cluster(ruled(policy(pool % "useClientProtocol: true")), NAME, ENVOY))
    assert followed.use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams.value == 5
    assert not cluster(ruled(policy("")), NAME).HasField("upstream_connection_options")


def test_endpoints_by_locality_with_health_and_what_is_known_of_the_workload() -> None:
    translator = Translator(
        world(
            "",
            workload("reviews", id="a", version="v1", port=1, zone="z1"),
            workload("reviews", id="b", version="v2", port=2, zone="z2", draining=True),
            workload("reviews", id="c", version="v2", port=3, zone="z2"),
        )
    )
    found = get(translator, LIBRARY, type_urls.ENDPOINT, NAME)
    assert found.cluster_name == NAME
    assert [(one.locality.zone, one.load_balancing_weight.value) for one in found.endpoints] == [("z1", 1), ("z2", 2)]
    health = [one.health_status for group in found.endpoints for one in group.lb_endpoints]
    assert health == [health_check_pb2.HEALTHY, health_check_pb2.DRAINING, health_check_pb2.HEALTHY]
    metadata = found.endpoints[0].lb_endpoints[0].metadata
    assert fields(metadata, "istio") == {"workload": "reviews-v1;default;reviews;v1;Kubernetes"}
    own = fields(metadata, "proxyless")
    assert (own["id"], own["service_account"], dict(own["labels"])) == (
        "a",
        "reviews",
        {"app": "reviews", "version": "v1"},
    )


def test_grpc_and_envoy_are_not_sent_endpoints_without_an_ip_address() -> None:
    translator = Translator(
        world("", workload("reviews", port=1, address="box.local"), workload("reviews", port=2, address="::1"))
    )
    assert addresses(translator, NAME) == ["::1:2", "box.local:1"]
    for client in (GRPC, ENVOY):
        assert addresses(translator, NAME, client) == ["::1:2"]
        assert notes(translator, client, type_urls.ENDPOINT, NAME)


def test_an_external_name_is_resolved() -> None:
    service = """
            apiVersion: v1
            kind: Service
            metadata: {name: reviews}
            spec: {type: ExternalName, externalName: r.example.com, ports: [{port: 80, targetPort: 8080}]}
    """
    found = cluster(Translator(world(service)), NAME)
    assert found.type == Cluster.STRICT_DNS
    (endpoint,) = found.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "r.example.com"
    assert endpoint.endpoint.address.socket_address.port_value == 8080


def test_pass_through() -> None:
    wild = EXTERNAL.replace("api.example.com", "'*.example.com'").replace("DNS", "NONE") % ""
    translator = ruled("", more=wild)
    name = "outbound|80||some.example.com"
    assert cluster(translator, name).type == Cluster.ORIGINAL_DST
    assert cluster(translator, name).lb_policy == Cluster.CLUSTER_PROVIDED
    assert cluster(translator, name, GRPC).type == Cluster.EDS
    assert fields(cluster(translator, name, GRPC).metadata, "proxyless")["problem"]
    assert cluster(translator, "PassthroughCluster").type == Cluster.ORIGINAL_DST
    asked = ruled(policy("loadBalancer: {simple: PASSTHROUGH}"))
    assert cluster(asked, NAME).type == Cluster.ORIGINAL_DST


def test_an_envoy_may_ask_for_every_cluster() -> None:
    translator = ruled("subsets: [{name: v1}]", workload("reviews", port=80))
    names = translator.resources(ENVOY, type_urls.CLUSTER, ["*"])
    assert list(names) == ["PassthroughCluster", "BlackHoleCluster", NAME, f"outbound|80|v1|{HOST}"]
    assert list(translator.resources(ENVOY, type_urls.CLUSTER, ["*"])) == list(names)
    assert translator.resources(LIBRARY, type_urls.CLUSTER, ["*"]) == {}
    assert translator.resources(ENVOY, "type.googleapis.com/unknown", ["x"]) == {}


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        (NAME, False),
        (f"outbound|80|v1|{HOST}", False),  # a subset without members is one all the same
        (f"outbound|80|v2|{HOST}", True),
        (f"outbound|81||{HOST}", True),
        ("outbound|80||nobody.default.svc.cluster.local", True),
    ],
)
@pytest.mark.parametrize("type_url", [type_urls.CLUSTER, type_urls.ENDPOINT])
def test_what_stands_for_something_that_does_not_exist_says_so(type_url: str, name: str, stand_in: bool) -> None:
    translator = ruled("subsets: [{name: v1, labels: {version: v1}}]")
    assert translator.resources(LIBRARY, type_url, [name])[name].stand_in is stand_in


@pytest.mark.parametrize(
    ("tls", "sockets"),
    [
        ("", ["envoy.transport_sockets.tls", "envoy.transport_sockets.raw_buffer"]),
        (", tls: {mode: DISABLE}", ["envoy.transport_sockets.raw_buffer"]),
        (", tls: {mode: ISTIO_MUTUAL}", ["envoy.transport_sockets.tls"]),
    ],
)
def test_the_proxy_protocol_goes_around_whatever_socket_there_is(tls: str, sockets: list[str]) -> None:
    translator = ruled(policy(f"proxyProtocol: {{version: V2}}{tls}"))
    found = cluster(translator, NAME, ENVOY)
    made = [one.transport_socket for one in found.transport_socket_matches] or [found.transport_socket]
    inner = []
    for one in made:
        transport = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport()
        assert one.typed_config.Unpack(transport)
        assert transport.config.version == 1
        inner.append(transport.transport_socket.name)
    assert inner == sockets
    for client in (LIBRARY, GRPC):
        assert "proxyProtocol left out" in " ".join(notes(translator, client, type_urls.CLUSTER, NAME))


def test_an_envoy_has_clusters_of_hosts_that_only_a_wildcard_declares() -> None:
    wildcard = """
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: all}
    spec: {hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: ruled}
    spec: {hosts: [ruled.example.com], http: [{route: [{destination: {host: sent.example.com}}]}]}
    """
    found = Translator(world(wildcard)).resources(ENVOY, type_urls.CLUSTER, ["*"])
    hosts = ("*", "ruled", "sent")
    assert {name for name in found if "|" in name} == {f"outbound|80||{host}.example.com" for host in hosts}

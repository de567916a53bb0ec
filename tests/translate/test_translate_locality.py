"""Locality load balancing: who is asked first, by where the client runs."""

from dataclasses import replace

import pytest
from envoy.config.core.v3 import base_pb2
from translate_world import ENVOY, GRPC, LIBRARY, get, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.configuration import mesh_settings
from proxyless.control_plane.resources.coverage import not_acted_on
from proxyless.control_plane.resources.destination_rule import LocalityLoadBalancerSetting
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings
from proxyless.model.cluster import Locality

HOST = "reviews.default.svc.cluster.local"
NAME = f"outbound|80||{HOST}"
HOME = Locality("eu", "eu-a", "rack1")
PLACES = {
    "eu/eu-a/rack1": 9001,
    "eu/eu-a/rack2": 9002,
    "eu/eu-b": 9003,
    "us/us-a": 9004,
    "asia/asia-a": 9005,
}


def servers() -> list[object]:
    found = []
    for place, port in PLACES.items():
        region, zone, sub_zone = (place + "/").split("/")[:3]
        more = {"region": region, "zone": zone, "sub_zone": sub_zone, "labels": {"tier": f"t{port % 2}"}}
        found.append(workload("reviews", id=place, port=port, **more))
    return found


def rule(policy: str) -> str:
    return f"""
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {{name: reviews}}
    spec:
      host: reviews
      trafficPolicy: {{{policy}}}
    """


def assigned(translator: Translator, client: Client = LIBRARY) -> dict[int, tuple[int, int]]:
    """Port -> (priority, weight of its locality)."""
    found = get(translator, client, type_urls.ENDPOINT, NAME)
    return {
        one.endpoint.address.socket_address.port_value: (group.priority, group.load_balancing_weight.value)
        for group in found.endpoints
        for one in group.lb_endpoints
    }


def priorities(policy: str, client: Client) -> dict[int, int]:
    translator = Translator(world(rule(policy), *servers()))
    return {port: priority for port, (priority, _) in assigned(translator, client).items()}


def at(place: Locality, client: Client = LIBRARY, **labels: str) -> Client:
    return replace(client, locality=place, labels=labels)


OUTLIERS = "outlierDetection: {interval: 10s}"
FLAT = dict.fromkeys(PLACES.values(), 0)


@pytest.mark.parametrize("kind", [LIBRARY, GRPC, ENVOY])
@pytest.mark.parametrize(
    ("policy", "place", "expected"),
    [
        # Failover acts only with outlier detection, and then without being asked for (Istio's default).
        ("loadBalancer: {localityLbSetting: {enabled: true}}", HOME, FLAT),
        (OUTLIERS, HOME, {9001: 0, 9002: 1, 9003: 2, 9004: 3, 9005: 3}),
        (OUTLIERS, Locality("us", "us-z"), {9001: 1, 9002: 1, 9003: 1, 9004: 0, 9005: 1}),
        (OUTLIERS, Locality(), FLAT),
        (f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}", HOME, FLAT),
        (
            f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failover: [{{from: eu, to: asia}}]}}}}",
            HOME,
            {9001: 0, 9002: 1, 9003: 2, 9004: 4, 9005: 3},
        ),
        (
            f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failover: [{{from: us, to: asia}}]}}}}",
            HOME,
            {9001: 0, 9002: 1, 9003: 2, 9004: 3, 9005: 3},
        ),
        (
            f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: [topology.kubernetes.io/region]}}}}",
            HOME,
            {9001: 0, 9002: 0, 9003: 0, 9004: 1, 9005: 1},
        ),
        (
            f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: "
            "[topology.kubernetes.io/region, topology.kubernetes.io/zone]}}",
            HOME,
            {9001: 0, 9002: 0, 9003: 1, 9004: 2, 9005: 2},
        ),
        (f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: [tier=t1]}}}}", HOME,
         {9001: 0, 9002: 1, 9003: 0, 9004: 1, 9005: 0}),
        (
            f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: [tier=t1], "
            "failover: [{from: eu, to: asia}]}}",
            HOME,
            {9001: 0, 9003: 1, 9005: 2, 9002: 3, 9004: 4},
        ),
    ],
)  # fmt: skip
def test_failover(kind: Client, policy: str, place: Locality, expected: dict[int, int]) -> None:
    assert priorities(policy, at(place, kind)) == expected


def test_failover_priority_compares_the_clients_own_labels() -> None:
    policy = f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: [tier]}}}}"
    expected = {9001: 1, 9002: 0, 9003: 1, 9004: 0, 9005: 1}
    assert priorities(policy, at(HOME, tier="t0")) == expected
    # The same from the mesh's settings.
    settings = MeshSettings(locality_lb=LocalityLoadBalancerSetting(failover_priority=("tier",)))
    found = assigned(Translator(world(rule(OUTLIERS), *servers(), settings=settings)), at(HOME, tier="t0"))
    assert {port: priority for port, (priority, _) in found.items()} == expected


@pytest.mark.parametrize(
    ("to", "place", "expected"),
    [
        ("{eu/*: 80, us/*: 20}", HOME, {9001: 27, 9002: 27, 9003: 27, 9004: 20}),
        ("{eu/eu-a/*: 70, '*': 30}", HOME, {9001: 35, 9002: 35, 9003: 10, 9004: 10, 9005: 10}),
        ("{us/us-a: 100}", HOME, {9004: 100}),
        ("{us/us-a: 100}", Locality("asia"), dict.fromkeys(PLACES.values(), 1)),
    ],
)
def test_distribute(to: str, place: Locality, expected: dict[int, int]) -> None:
    policy = f"loadBalancer: {{localityLbSetting: {{distribute: [{{from: eu/eu-a/*, to: {to}}}]}}}}"
    translator = Translator(world(rule(policy), *servers()))
    found = assigned(translator, at(place))
    assert {port: weight for port, (_, weight) in found.items()} == expected
    assert {priority for priority, _ in found.values()} == {0}


def test_envoy_is_told_to_heed_the_weights_where_a_rule_sets_them() -> None:
    for policy, weighted in (
        ("loadBalancer: {localityLbSetting: {distribute: [{from: '*', to: {eu/*: 100}}]}}", True),
        (OUTLIERS, False),
        (f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failover: [{{from: eu, to: us}}]}}}}", True),
        ("loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}", False),
    ):
        translator = Translator(world(rule(policy), *servers()))
        found = get(translator, at(HOME, ENVOY), type_urls.CLUSTER, NAME)
        assert found.common_lb_config.HasField("locality_weighted_lb_config") is weighted, policy


def test_the_mesh_wide_default() -> None:
    config = """
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: istio, namespace: istio-system}
    data:
      mesh: |
        localityLbSetting:
          %s
    """
    for setting, expected in (
        ("enabled: false", FLAT),
        ("failover: [{from: eu, to: us}]", {9001: 0, 9002: 1, 9003: 2, 9004: 3, 9005: 4}),
    ):
        made = world(rule(OUTLIERS) + "\n    ---\n" + config % setting, *servers())
        settings = mesh_settings(made.resources, MeshSettings())
        assert settings.locality_lb is not None
        found = assigned(Translator(replace(made, settings=settings)), at(HOME))
        assert {port: priority for port, (priority, _) in found.items()} == expected
        for resource in made.resources.values():
            assert not [problem for problem in not_acted_on(resource) if "ocality" in problem.field]


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone"])
def test_a_service_may_prefer_what_is_close(distribution: str) -> None:
    service = f"""
    apiVersion: v1
    kind: Service
    metadata: {{name: reviews}}
    spec: {{ports: [{{port: 80, name: http}}], selector: {{app: reviews}}, trafficDistribution: {distribution}}}
    """
    found = assigned(Translator(world(service, *servers())), at(HOME))
    assert {port: priority for port, (priority, _) in found.items()} == {9001: 0, 9002: 1, 9003: 2, 9004: 3, 9005: 3}


def test_an_endpoint_slice_knows_its_zone_only() -> None:
    yaml = f"""
    apiVersion: v1
    kind: Service
    metadata: {{name: reviews}}
    spec: {{ports: [{{port: 80, name: http}}]}}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {{name: reviews-1, labels: {{kubernetes.io/service-name: reviews}}}}
    addressType: IPv4
    ports: [{{name: http, port: 9001}}]
    endpoints:
    - {{addresses: [10.0.0.1], zone: eu-b}}
    - {{addresses: [10.0.0.2], zone: eu-a}}
    ---
    {rule(OUTLIERS)}
    """
    found = get(Translator(world(yaml)), at(Locality("eu", "eu-a")), type_urls.ENDPOINT, NAME)
    first = {
        one.endpoint.address.socket_address.address: group.priority
        for group in found.endpoints
        for one in group.lb_endpoints
    }
    assert first == {"10.0.0.1": 1, "10.0.0.2": 0}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (base_pb2.Locality(region="eu", zone="eu-a"), Locality("eu", "eu-a")),
        (base_pb2.Locality(), Locality("us", "us-a", "r")),
    ],
)
def test_where_a_client_is(node: base_pb2.Locality, expected: Locality) -> None:
    message = base_pb2.Node(id="x", locality=node)
    message.metadata.update({"LABELS": {"istio-locality": "us.us-a.r"}})
    assert Client.from_node(message).locality == expected


def test_labels_of_kubernetes_tell_where_a_client_and_a_workload_are() -> None:
    labels = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-a"}
    message = base_pb2.Node(id="x")
    message.metadata.update({"LABELS": labels})
    client = Client.from_node(message)
    assert client.locality == Locality("eu", "eu-a")
    near = workload("reviews", id="near", port=1, labels=labels)
    far = workload("reviews", id="far", port=2, labels={"istio-locality": "eu.eu-b"})
    found = assigned(Translator(world(rule(OUTLIERS), near, far)), client)
    assert found == {1: (0, 1), 2: (1, 1)}


def test_clients_of_all_places_share_resources_where_no_rule_is_about_places() -> None:
    here, there = at(HOME), at(Locality("us"))
    plain = Translator(world(rule("loadBalancer: {simple: RANDOM}"), *servers()))
    local = Translator(world(rule(OUTLIERS), *servers()))
    for type_url, name, shared in (
        (type_urls.ENDPOINT, NAME, False),
        (type_urls.CLUSTER, NAME, False),
        (type_urls.ROUTE, f"{HOST}:80", True),
    ):
        one, other = (plain.resources(client, type_url, [name])[name] for client in (here, there))
        assert one is other
        one, other = (local.resources(client, type_url, [name])[name] for client in (here, there))
        assert (one is other) is shared

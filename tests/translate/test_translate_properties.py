"""What holds for every world: the order of what is in it does not matter, bytes repeat, weights are kept."""

import random
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from translate_world import ENVOY, GRPC, LIBRARY, decode, destinations, routes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.virtual_service import (
    Destination,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualServiceSpec,
)
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import World

HOST = "reviews.default.svc.cluster.local"

MIXED = """
    apiVersion: v1
    kind: Service
    metadata: {name: reviews}
    spec: {selector: {app: reviews}, ports: [{name: http, port: 80}, {name: grpc, port: 81}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: one}
    spec:
      hosts: [reviews]
      http:
      - match: [{headers: {b: {exact: x}, a: {prefix: y}}, queryParams: {q: {}, p: {}}}, {uri: {exact: /x}}]
        headers: {request: {set: {z: '1', y: '2'}, add: {x: '3'}}}
        fault: {abort: {httpStatus: 500, percentage: {value: 10}}}
        route: [{destination: {host: reviews, subset: v1}, weight: 1}, {destination: {host: nobody}, weight: 2}]
      - route: [{destination: {host: ratings}}]
    ---
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: two}
    spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: one}
    spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: two}
    spec: {host: reviews, trafficPolicy: {outlierDetection: {}}}
    ---
    apiVersion: networking.istio.io/v1
    kind: WorkloadEntry
    metadata: {name: vm}
    spec: {address: 10.0.0.1, labels: {app: reviews, version: v2}}
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: api}
    spec: {hosts: [b.example.com, a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
WORKLOADS = [
    workload("reviews", version="v1", port=1, zone="a", region="r"),
    workload("reviews", version="v2", port=2, zone="b", region="r", draining=True),
    workload("ratings", port=3, labels={"b": "1", "a": "2", "c": "3"}),
]
NAMES = {
    type_urls.LISTENER: ["reviews:80", "ratings:80", "a.example.com:80", "xds.istio.io/grpc/lds/inbound/0.0.0.0:1"],
    type_urls.ROUTE: [f"{HOST}:80", f"{HOST}:81", "b.example.com:80"],
    type_urls.CLUSTER: [f"outbound|80||{HOST}", f"outbound|80|v2|{HOST}", "outbound|80||a.example.com"],
    type_urls.ENDPOINT: [f"outbound|80||{HOST}", f"outbound|81|v1|{HOST}"],
}


def everything(translator: Translator, client: Client) -> dict[tuple[str, str], tuple[str, bytes, Any]]:
    return {
        (url, name): (resource.version, resource.any.SerializeToString(), resource.notes)
        for url, names in NAMES.items()
        for name, resource in translator.resources(client, url, names).items()
    }


def test_the_order_of_the_world_does_not_matter() -> None:
    original = world(MIXED, *WORKLOADS)
    for client in (LIBRARY, GRPC, ENVOY):
        expected = everything(Translator(original), client)
        assert len(expected) >= 11
        for seed in range(5):
            rng = random.Random(seed)
            resources = list(original.resources.items())
            workloads = list(original.workloads.items())
            rng.shuffle(resources)
            rng.shuffle(workloads)
            shuffled = World(MappingProxyType(dict(resources)), MappingProxyType(dict(workloads)), generation=seed)
            assert everything(Translator(shuffled), client) == expected


def test_every_resource_parses_back_to_the_same_bytes() -> None:
    translator = Translator(world(MIXED, *WORKLOADS))
    for client in (LIBRARY, GRPC, ENVOY):
        for url, names in NAMES.items():
            for resource in translator.resources(client, url, names).values():
                again = decode(url, resource).SerializeToString(deterministic=True)
                assert again == resource.any.value


def test_what_one_client_was_given_says_nothing_about_another() -> None:
    """Same translator, same names: a cached answer must not leak between namespaces, labels or kinds."""
    translator = Translator(world(MIXED, *WORKLOADS))
    clients = [LIBRARY, GRPC, ENVOY, Client(namespace="other"), Client(labels={"a": "b"})]
    first = [everything(translator, client) for client in clients]
    fresh = [everything(Translator(translator.world), client) for client in reversed(clients)]
    assert first == list(reversed(fresh))
    assert everything(translator, Client(node_id="another", service_account="x")) == first[0]


def test_a_version_changes_with_the_content_and_only_then() -> None:
    before = everything(Translator(world(MIXED, *WORKLOADS)), LIBRARY)
    after = everything(Translator(world(MIXED, *WORKLOADS, workload("reviews", version="v3", port=9))), LIBRARY)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {(type_urls.ENDPOINT, f"outbound|80||{HOST}")}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_weights_are_kept(weights: list[int]) -> None:
    legs = tuple(
        HTTPRouteDestination(destination=Destination(host="reviews", subset=f"v{index}"), weight=weight)
        for index, weight in enumerate(weights)
    )
    key = Key("VirtualService", "default", "split")
    spec = VirtualServiceSpec(hosts=("reviews",), http=(HTTPRoute(route=legs),))
    base = world("", workload("reviews"))
    translator = Translator(World({key: Resource(key, "networking.istio.io/v1", spec)}, base.workloads))
    (route,) = routes(translator, f"{HOST}:80")
    found = destinations(route)
    if len(weights) == 1:
        assert found == {f"outbound|80|v0|{HOST}": 1}
    elif not any(weights):
        assert found == {}
        assert route.direct_response.status == 500
    else:
        assert found == {f"outbound|80|v{i}|{HOST}": weight for i, weight in enumerate(weights) if weight}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_no_name_that_a_client_sends_breaks_anything(name: str) -> None:
    translator = Translator(world("", workload("reviews")))
    for url in type_urls.PUSH_ORDER:
        for text in (
            name,
            f"{name}:80",
            f"outbound|80||{name}",
            f"outbound|{name}||x",
            f"xds.istio.io/grpc/lds/inbound/{name}:1",
        ):
            translator.resources(LIBRARY, url, [text])


@given(
    st.integers(1, 65535),
    st.from_regex(r"[a-z0-9-]{0,9}", fullmatch=True),
    st.from_regex(r"[a-z.]{1,9}", fullmatch=True),
)
def test_cluster_names_read_back(port: int, subset: str, host: str) -> None:
    name = ClusterName(port, subset, host)
    assert ClusterName.parse(str(name)) == name

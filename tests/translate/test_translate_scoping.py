"""Sidecar: what of the mesh each client sees."""

from dataclasses import replace
from typing import Any

import pytest
from translate_world import (
    ENVOY,
    GRPC,
    LIBRARY,
    addresses,
    cluster,
    destinations,
    get,
    manager,
    routes,
    workload,
    world,
)

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings

DOMAIN = "svc.cluster.local"
REVIEWS = workload("reviews")
DETAILS = workload("details")
RATINGS = workload("ratings", namespace="other")
KINDS = pytest.mark.parametrize("client", [LIBRARY, GRPC, ENVOY])
DEFAULT = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: %s}
spec: %s
"""


def sidecar(spec: str, namespace: str = "default") -> str:
    return DEFAULT % (namespace, spec)


def made(*documents: str, **settings: Any) -> Translator:
    return Translator(world("\n---\n".join(documents), REVIEWS, DETAILS, RATINGS, settings=MeshSettings(**settings)))


def dialled(translator: Translator, client: Client) -> set[str]:
    """The hosts a client can dial by name, shortened."""
    return {target.host.replace(f".{DOMAIN}", "") for target in translator.targets(client)}


def clusters(translator: Translator, client: Client) -> set[str]:
    return set(translator.resources(client, type_urls.CLUSTER, ["*"]))


ALL = {"reviews.default", "details.default", "ratings.other"}


@KINDS
@pytest.mark.parametrize(
    ("hosts", "seen"),
    [
        ('["*/*"]', ALL),
        ('["./*"]', {"reviews.default", "details.default"}),
        ('["other/*"]', {"ratings.other"}),
        ('["~/*"]', set()),
        (f'["./reviews.default.{DOMAIN}"]', {"reviews.default"}),
        (f'["*/reviews.default.{DOMAIN}"]', {"reviews.default"}),
        (f'["other/reviews.default.{DOMAIN}"]', set()),
        (f'["*/*.other.{DOMAIN}"]', {"ratings.other"}),
        (f'["./reviews.default.{DOMAIN}", "other/*"]', {"reviews.default", "ratings.other"}),
        ('["./reviews"]', set()),
    ],
)
def test_hosts_are_what_a_client_sees(client: Client, hosts: str, seen: set[str]) -> None:
    translator = made(sidecar(f"{{egress: [{{hosts: {hosts}}}]}}"))
    assert dialled(translator, client) == seen
    for name in ALL:
        target = f"{name}.{DOMAIN}:80"
        if client.kind is not ENVOY.kind:
            assert (get(translator, client, type_urls.LISTENER, target) is not None) is (name in seen)
        assert (get(translator, client, type_urls.ROUTE, target) is not None) is (name in seen)
    if client is ENVOY:
        named = {name.split("|")[3].replace(f".{DOMAIN}", "") for name in clusters(translator, client) if "|" in name}
        assert named == seen
        virtual_hosts = get(translator, client, type_urls.ROUTE, "http_proxy").virtual_hosts
        shortened = {one.name.split(":")[0].replace(f".{DOMAIN}", "") for one in virtual_hosts}
        assert shortened == seen | {"allow_any"}


@pytest.mark.parametrize(
    ("labels", "namespace", "seen"),
    [
        ({"app": "a"}, "default", {"details.default"}),
        ({"app": "b"}, "default", {"reviews.default"}),
        ({}, "default", {"reviews.default"}),
        ({}, "third", {"ratings.other"}),
        ({"app": "a"}, "third", {"ratings.other"}),
        ({}, "other", {"ratings.other"}),
    ],
)
def test_which_sidecar_counts(labels: dict[str, str], namespace: str, seen: set[str]) -> None:
    translator = made(
        sidecar(
            f"{{workloadSelector: {{labels: {{app: a}}}}, egress: [{{hosts: [./details.default.{DOMAIN}]}}]}}"
        ).replace("name: default", "name: selecting"),
        sidecar(f"{{egress: [{{hosts: [./reviews.default.{DOMAIN}]}}]}}"),
        # "." is the client's namespace here, too: other sees itself, and everybody sees what other exports.
        sidecar("{egress: [{hosts: [./*, other/*]}]}", "istio-system"),
    )
    assert dialled(translator, replace(LIBRARY, labels=labels, namespace=namespace)) == seen


def test_without_one_and_without_egress_everything_is_seen() -> None:
    assert dialled(made(), LIBRARY) == ALL
    assert dialled(made(sidecar("{outboundTrafficPolicy: {mode: ALLOW_ANY}}")), LIBRARY) == ALL


def test_export_to_keeps_applying() -> None:
    private = """
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {name: mine, namespace: other}
        spec:
          hosts: [mine.example.com]
          exportTo: ["."]
          resolution: STATIC
          ports: [{number: 80, name: http, protocol: HTTP}]
    """
    translator = Translator(world(private + "\n---\n" + sidecar('{egress: [{hosts: ["*/*"]}]}'), REVIEWS))
    assert dialled(translator, LIBRARY) == {"reviews.default"}


RULE = f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: %s}}
spec: {{hosts: [reviews.default.{DOMAIN}], http: [{{route: [{{destination: {{host: ratings.other.{DOMAIN}}}}}]}}]}}
"""


@KINDS
def test_what_an_imported_rule_sends_to_is_reached_but_not_dialled(client: Client) -> None:
    translator = made(RULE % "default", sidecar("{egress: [{hosts: [./*]}]}"))
    (route,) = routes(translator, f"reviews.default.{DOMAIN}:80", client)
    name = f"outbound|80||ratings.other.{DOMAIN}"
    assert destinations(route) == {name: 1}
    assert addresses(translator, name, client) == ["127.0.0.1:9080"]
    assert "ratings.other" not in dialled(translator, client)
    assert get(translator, client, type_urls.ROUTE, f"ratings.other.{DOMAIN}:80") is None
    if client is ENVOY:
        assert name in clusters(translator, client)


@KINDS
def test_rules_are_imported_as_services_are(client: Client) -> None:
    rule = RULE % "other"
    to_itself = {f"outbound|80||reviews.default.{DOMAIN}": 1}
    own, both = sidecar("{egress: [{hosts: [./*]}]}"), sidecar('{egress: [{hosts: [./*, "other/*"]}]}')
    (route,) = routes(made(rule, own), f"reviews.default.{DOMAIN}:80", client)
    assert destinations(route) == to_itself
    (route,) = routes(made(rule, both), f"reviews.default.{DOMAIN}:80", client)
    assert destinations(route) == {f"outbound|80||ratings.other.{DOMAIN}": 1}


@pytest.mark.parametrize(
    ("policy", "mesh_allows", "blocked"),
    [
        ("{mode: REGISTRY_ONLY}", True, True),
        ("{}", True, True),
        ("{mode: ALLOW_ANY}", False, False),
        (None, False, True),
        (None, True, False),
    ],
)
def test_a_sidecar_overrides_the_outbound_policy(policy: str | None, mesh_allows: bool, blocked: bool) -> None:
    said = "" if policy is None else f", outboundTrafficPolicy: {policy}"
    translator = made(sidecar(f"{{egress: [{{hosts: [./*]}}]{said}}}"), outbound_allow_any=mesh_allows)
    found = get(translator, LIBRARY, type_urls.LISTENER, f"ratings.other.{DOMAIN}:80")
    assert (found is not None) is blocked
    if blocked:
        assert manager(found).route_config.virtual_hosts[0].routes[0].direct_response.status == 502
    # Another namespace has the mesh's.
    elsewhere = get(translator, replace(LIBRARY, namespace="third"), type_urls.LISTENER, "unknown.example.com:80")
    assert (elsewhere is not None) is not mesh_allows
    last = get(translator, ENVOY, type_urls.ROUTE, "http_proxy").virtual_hosts[-1]
    assert last.name == ("block_all" if blocked else "allow_any")


@KINDS
def test_an_egress_proxy_takes_what_is_unknown(client: Client) -> None:
    policy = f"{{mode: ALLOW_ANY, egressProxy: {{host: ratings.other.{DOMAIN}, port: {{number: 80}}}}}}"
    translator = made(sidecar(f"{{egress: [{{hosts: [./*]}}], outboundTrafficPolicy: {policy}}}"))
    name = f"outbound|80||ratings.other.{DOMAIN}"
    found = get(translator, client, type_urls.LISTENER, "unknown.example.com:80")
    (route,) = manager(found).route_config.virtual_hosts[0].routes
    assert destinations(route) == {name: 1}
    assert addresses(translator, name, client) == ["127.0.0.1:9080"]
    if client is ENVOY:
        last = get(translator, client, type_urls.ROUTE, "http_proxy").virtual_hosts[-1]
        assert [route.route.cluster for route in last.routes] == [name, name]
        assert name in clusters(translator, client)


def test_a_listener_with_a_port_imports_that_port() -> None:
    two = """
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {name: two}
        spec:
          hosts: [two.example.com]
          resolution: STATIC
          ports: [{number: 80, name: http, protocol: HTTP}, {number: 90, name: more, protocol: HTTP}]
          endpoints: [{address: 10.0.0.1}]
    """
    scoped = made(two, sidecar("{egress: [{port: {number: 90, protocol: HTTP}, hosts: [./*]}]}"))
    assert {target.name for target in scoped.targets(LIBRARY)} == {"two.example.com:90"}
    assert cluster(scoped, "outbound|90||two.example.com").name
    assert not addresses(scoped, "outbound|80||two.example.com")


def test_clients_of_one_namespace_with_other_sidecars_do_not_share_resources() -> None:
    translator = made(
        sidecar("{workloadSelector: {labels: {app: a}}, egress: [{hosts: [~/*]}]}").replace("name: default", "name: a")
    )
    target = f"reviews.default.{DOMAIN}:80"
    for _ in range(2):
        assert get(translator, replace(LIBRARY, labels={"app": "a"}), type_urls.LISTENER, target) is None
        assert get(translator, replace(LIBRARY, labels={"app": "b"}), type_urls.LISTENER, target) is not None

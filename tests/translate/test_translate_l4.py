"""A Sidecar's listeners and VirtualService tls and tcp routes, as an Envoy is sent them."""

from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from translate_world import ENVOY, GRPC, LIBRARY, get, notes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator

SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  egress:
  - {port: {number: 9000, protocol: %s, name: x}, hosts: ["./*"]%s}
  - {hosts: ["./*"]}
  outboundTrafficPolicy: {mode: %s}
"""
ENTRY = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec:
  hosts: ["%s"]
  %s
  ports: [{number: 9000, name: tcp, protocol: %s}]
"""
RULE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rule}
spec: {hosts: ["%s"], %s: %s}
"""
STATIC = "resolution: STATIC"
NAME = "127.0.0.1_9000"


def made(*parts: str, protocol: str = "TCP", more: str = "", mode: str = "REGISTRY_ONLY") -> Translator:
    return Translator(world(SIDECAR % (protocol, more, mode) + "".join(parts), workload("reviews")))


def entry(host: str, day: int = 1, *, resolution: str = STATIC, protocol: str = "TCP") -> str:
    return ENTRY % (host.replace("*", "any"), day, host, resolution, protocol)


def listener(translator: Translator, name: str = NAME, client: Client = ENVOY) -> Any:
    return get(translator, client, type_urls.LISTENER, name)


def proxy(chain: Any) -> Any:
    return tcp_proxy_pb2.TcpProxy.FromString(chain.filters[-1].typed_config.value)


def clusters(chain: Any) -> dict[str, int]:
    """Short cluster names and weights."""
    found = proxy(chain)
    weighted = {one.name: one.weight for one in found.weighted_clusters.clusters} or {found.cluster: 1}
    return {name.replace("outbound|9000||", ""): weight for name, weight in weighted.items()}


def chains(translator: Translator, name: str = NAME) -> list[tuple[list[str], list[str], dict[str, int]]]:
    """Server names, subnets and clusters of each filter chain."""
    return [
        (
            list(chain.filter_chain_match.server_names),
            [f"{one.address_prefix}/{one.prefix_len.value}" for one in chain.filter_chain_match.prefix_ranges],
            clusters(chain),
        )
        for chain in listener(translator, name).filter_chains
    ]


def to(*hosts: str) -> str:
    return (
        "route: ["
        + ", ".join(f"{{destination: {{host: {host}}}, weight: {40 + i}}}" for i, host in enumerate(hosts))
        + "]"
    )


def test_a_port_goes_to_its_service() -> None:
    translator = made(entry("a.test"))
    assert chains(translator) == [([], [], {"a.test": 1})]
    found: listener_pb2.Listener = listener(translator)
    address = found.address.socket_address
    assert (address.address, address.port_value) == ("127.0.0.1", 9000)
    assert not found.listener_filters
    # Two Envoys of one machine do not share a port, each has an identity of its own.
    assert found.HasField("enable_reuse_port")
    assert not found.enable_reuse_port.value
    assert NAME in translator.resources(ENVOY, type_urls.LISTENER, ["*"])


def test_only_envoys_listen() -> None:
    translator = made(entry("a.test"))
    for client in (LIBRARY, GRPC):
        assert listener(translator, client=client) is None
    assert listener(translator, client=Client(kind=ClientKind.ENVOY, namespace="other")) is None


def test_of_two_services_on_one_port_the_older_has_it() -> None:
    translator = made(entry("a.test", 2), entry("b.test", 1))
    assert chains(translator) == [([], [], {"b.test": 1})]
    assert "a.test left out" in notes(translator, ENVOY, type_urls.LISTENER, NAME)[0]


@pytest.mark.parametrize(
    ("tcp", "expected"),
    [
        (f"[{{{to('b.test')}}}]", [([], {"b.test": 1})]),
        (f"[{{{to('b.test', 'c.test')}}}]", [([], {"b.test": 40, "c.test": 41})]),
        (f"[{{match: [{{port: 9000}}], {to('b.test')}}}]", [([], {"b.test": 1})]),
        (f"[{{match: [{{port: 9001}}], {to('b.test')}}}]", [([], {"a.test": 1})]),
        (f"[{{match: [{{gateways: [gw]}}], {to('b.test')}}}]", [([], {"a.test": 1})]),
        (f"[{{match: [{{sourceLabels: {{app: x}}}}], {to('b.test')}}}]", [([], {"a.test": 1})]),
        (f"[{{match: [{{sourceNamespace: default, gateways: [mesh]}}], {to('b.test')}}}]", [([], {"b.test": 1})]),
        (
            f"[{{match: [{{destinationSubnets: [10.0.0.0/8, 192.168.0.1]}}], {to('b.test')}}}]",
            [(["10.0.0.0/8", "192.168.0.1/32"], {"b.test": 1}), ([], {"a.test": 1})],
        ),
        (
            f"[{{match: [{{destinationSubnets: [10.0.0.0/8]}}, {{port: 9000}}], {to('b.test')}}}, {{{to('c.test')}}}]",
            [([], {"b.test": 1})],
        ),
    ],
)
def test_tcp_routes(tcp: str, expected: list[Any]) -> None:
    translator = made(entry("a.test"), RULE % ("a.test", "tcp", tcp))
    assert [(subnets, targets) for _, subnets, targets in chains(translator)] == expected


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("[]", [(["a.test"], {"a.test": 1}), (["*.w.test"], {"*.w.test": 1})]),
        (
            f"[{{match: [{{sniHosts: [a.test]}}], {to('b.test', 'c.test')}}}]",
            [(["a.test"], {"b.test": 40, "c.test": 41}), (["*.w.test"], {"*.w.test": 1})],
        ),
        (
            f"[{{match: [{{sniHosts: [x.w.test]}}], {to('b.test')}}}]",
            [(["a.test"], {"a.test": 1}), (["x.w.test"], {"b.test": 1}), (["*.w.test"], {"*.w.test": 1})],
        ),
        (
            f"[{{match: [{{sniHosts: [a.test], sourceNamespace: x}}], {to('b.test')}}}, "
            f"{{match: [{{sniHosts: [a.test]}}, {{sniHosts: [a.test], port: 9000}}], {to('c.test')}}}]",
            [(["a.test"], {"c.test": 1}), (["*.w.test"], {"*.w.test": 1})],
        ),
    ],
)
def test_tls_routes(tls: str, expected: list[Any]) -> None:
    rule = "" if tls == "[]" else (RULE % ('a.test", "*.w.test', "tls", tls))
    translator = made(entry("a.test", protocol="TLS"), entry("*.w.test", 2, protocol="HTTPS"), rule, protocol="HTTPS")
    assert sorted(((names, targets) for names, _, targets in chains(translator)), key=str) == sorted(expected, key=str)
    assert not notes(translator, ENVOY, type_urls.LISTENER, NAME)
    found = listener(translator)
    assert [one.name for one in found.listener_filters] == ["envoy.filters.listener.tls_inspector"]
    assert not found.HasField("default_filter_chain")


def test_unknown_server_names_follow_the_policy() -> None:
    found = listener(made(entry("a.test", protocol="TLS"), protocol="TLS", mode="ALLOW_ANY"))
    assert clusters(found.default_filter_chain) == {"PassthroughCluster": 1}
    names = [one.name for one in found.default_filter_chain.filters]
    assert names == ["envoy.filters.network.sni_dynamic_forward_proxy", "envoy.filters.network.tcp_proxy"]


def test_hosts_known_by_name_only_need_a_server_name() -> None:
    tls = made(entry("*.w.test", resolution="resolution: NONE", protocol="TLS"), protocol="TLS")
    (chain,) = listener(tls).filter_chains
    assert chain.filters[0].name == "envoy.filters.network.sni_dynamic_forward_proxy"
    tcp = made(entry("*.w.test", resolution="resolution: NONE"))
    assert chains(tcp) == [([], [], {"BlackHoleCluster": 1})]
    assert "does not say which of its hosts" in notes(tcp, ENVOY, type_urls.LISTENER, NAME)[0]


def test_addresses_count_where_every_address_is_listened_on() -> None:
    addressed = f"addresses: [10.1.0.1, 10.2.0.0/16]\n  {STATIC}"
    everywhere = made(entry("a.test", resolution=addressed), entry("b.test", 2), more=", bind: 0.0.0.0")
    assert chains(everywhere, "0.0.0.0_9000") == [
        ([], ["10.1.0.1/32", "10.2.0.0/16"], {"a.test": 1}),
        ([], [], {"b.test": 1}),
    ]
    assert chains(made(entry("a.test", resolution=addressed))) == [([], [], {"a.test": 1})]


def test_settings_of_connections() -> None:
    policy = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a.test
  trafficPolicy:
    connectionPool: {tcp: {idleTimeout: 7s, maxConnectionDuration: 9s}}
    loadBalancer: {consistentHash: {useSourceIp: true}}
"""
    (chain,) = listener(made(entry("a.test"), policy)).filter_chains
    found = proxy(chain)
    assert (found.idle_timeout.seconds, found.max_downstream_connection_duration.seconds) == (7, 9)
    assert len(found.hash_policy) == 1


@pytest.mark.parametrize("protocol", ["UDP", "HBONE"])
def test_what_nothing_listens_for(protocol: str) -> None:
    assert listener(made(entry("a.test"), protocol=protocol)) is None


def test_an_http_port_has_routes_of_its_own() -> None:
    translator = made(entry("a.test", protocol="HTTP"), protocol="HTTP")
    routes = get(translator, ENVOY, type_urls.ROUTE, NAME)
    assert [(one.name, list(one.domains)) for one in routes.virtual_hosts] == [
        ("a.test:9000", ["a.test", "a.test:9000", "a.test.", "a.test.:9000"]),
        ("block_all", ["*"]),
    ]
    assert get(translator, ENVOY, type_urls.ROUTE, "127.0.0.1_9001") is None


def test_an_http_proxy_port_has_every_port_of_its_hosts() -> None:
    translator = made(entry("a.test", protocol="HTTP"), protocol="HTTP_PROXY")
    names = [one.name for one in get(translator, ENVOY, type_urls.ROUTE, NAME).virtual_hosts]
    assert "a.test:9000" in names
    assert "reviews.default.svc.cluster.local:80" in names

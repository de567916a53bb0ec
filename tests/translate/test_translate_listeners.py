"""Listeners: what can be dialled, and what a server asks of its callers."""

from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from translate_world import ENVOY, GRPC, LIBRARY, fields, get, manager, notes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.reachability import Reach
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings

FQDN = "reviews.default.svc.cluster.local"
REGISTRY_ONLY = MeshSettings(outbound_allow_any=False)
INBOUND = "xds.istio.io/grpc/lds/inbound/0.0.0.0:9080"

WORLD = """
            apiVersion: v1
            kind: Service
            metadata: {name: db}
            spec: {ports: [{name: tcp-db, port: 5432}, {name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
            ---
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: api}
            spec:
              hosts: [api.example.com]
              resolution: DNS
              ports: [{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP}]
            ---
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: wild}
            spec:
              hosts: ["*.wild.example.com"]
              resolution: STATIC
              ports: [{number: 80, name: http, protocol: HTTP}]
              endpoints: [{address: 10.0.0.1}]
"""


def listener(translator: Translator, name: str, client: Client = LIBRARY) -> Any:
    return get(translator, client, type_urls.LISTENER, name)


@pytest.mark.parametrize(
    ("dialled", "namespace", "route"),
    [
        ("reviews:80", "default", f"{FQDN}:80"),
        ("reviews:9080", "default", f"{FQDN}:9080"),
        ("REVIEWS:80", "default", f"{FQDN}:80"),
        (f"{FQDN}:80", "other", f"{FQDN}:80"),
        ("reviews.default:80", "other", f"{FQDN}:80"),
        ("reviews.default.svc:80", "other", f"{FQDN}:80"),
        ("reviews:80", "other", None),
        ("reviews:81", "default", None),
        ("api.example.com:80", "default", "api.example.com:80"),
        ("a.wild.example.com:80", "default", "a.wild.example.com:80"),
        ("www.example.org:80", "default", None),
        ("reviews", "default", None),
        ("", "default", None),
    ],
)
def test_targets(dialled: str, namespace: str, route: str | None) -> None:
    translator = Translator(world(WORLD, workload("reviews")))
    found = listener(translator, dialled, Client(namespace=namespace))
    if route is None:
        assert found is None
        return
    assert found.name == dialled
    assert manager(found).rds.route_config_name == route
    assert [one.name for one in manager(found).http_filters] == [
        "envoy.filters.http.fault",
        "envoy.filters.http.local_ratelimit",
        "envoy.filters.http.router",
    ]
    # The name in the listener is one that routes are served for.
    assert get(translator, Client(namespace=namespace), type_urls.ROUTE, route) is not None


@pytest.mark.parametrize("dialled", ["db:5432", "api.example.com:443"])
def test_ports_without_http_are_left_to_the_client_or_passed_through(dialled: str) -> None:
    assert listener(Translator(world(WORLD)), dialled) is None
    inline = manager(listener(Translator(world(WORLD, settings=REGISTRY_ONLY)), dialled)).route_config
    (route,) = inline.virtual_hosts[0].routes
    assert route.route.cluster == "PassthroughCluster"


@pytest.mark.parametrize("dialled", ["www.example.org:80", "reviews:81", "db:53", "10.0.0.1:80"])
def test_registry_only_answers_for_what_it_does_not_know(dialled: str) -> None:
    translator = Translator(world(WORLD, workload("reviews"), settings=REGISTRY_ONLY))
    inline = manager(listener(translator, dialled)).route_config
    assert inline.virtual_hosts[0].name == "block_all"
    assert inline.virtual_hosts[0].routes[0].direct_response.status == 502
    assert listener(translator, dialled, GRPC) is None


def test_the_dialable_targets() -> None:
    rule = """
            apiVersion: networking.istio.io/v1
            kind: VirtualService
            metadata: {name: shop}
            spec: {hosts: [shop.example.com], http: [{route: [{destination: {host: reviews}}]}]}
    """
    translator = Translator(world(f"{WORLD}            ---{rule}", workload("reviews")))
    found = {target.name: target.reach for target in translator.targets(LIBRARY)}
    assert found == {
        "api.example.com:80": Reach.ROUTED,
        "api.example.com:443": Reach.OPAQUE,
        "db.default.svc.cluster.local:80": Reach.ROUTED,
        "db.default.svc.cluster.local:5432": Reach.OPAQUE,
        f"{FQDN}:80": Reach.ROUTED,
        f"{FQDN}:9080": Reach.ROUTED,
        "shop.example.com:80": Reach.ROUTED,
    }
    for name, reach in found.items():
        assert (listener(translator, name) is not None) is (reach is Reach.ROUTED)


def peers(mode: str) -> str:
    return f"""
            apiVersion: security.istio.io/v1
            kind: PeerAuthentication
            metadata: {{name: mode, namespace: default}}
            spec: {{mtls: {{mode: {mode}}}}}
    """


@pytest.mark.parametrize(
    ("yaml", "chains"),
    [
        ("", [("tls", True), ("raw_buffer", False)]),
        (peers("PERMISSIVE"), [("tls", True), ("raw_buffer", False)]),
        (peers("STRICT"), [("", True)]),
        (peers("DISABLE"), [("", False)]),
    ],
)
def test_inbound(yaml: str, chains: list[tuple[str, bool]]) -> None:
    found = listener(Translator(world(yaml)), INBOUND)
    assert (found.name, found.address.socket_address.address) == (INBOUND, "0.0.0.0")
    assert found.address.socket_address.port_value == 9080
    assert chains == [
        (chain.filter_chain_match.transport_protocol, chain.HasField("transport_socket"))
        for chain in found.filter_chains
    ]
    for chain in found.filter_chains:
        if chain.HasField("transport_socket"):
            context = tls_pb2.DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
            assert context.require_client_certificate.value
            assert context.common_tls_context.tls_certificate_provider_instance.instance_name == "default"


@pytest.mark.parametrize(("labels", "tls"), [({}, False), ({"security.istio.io/tlsMode": "istio"}, True)])
def test_grpc_servers_cannot_be_permissive(labels: dict[str, str], tls: bool) -> None:
    client = Client(kind=ClientKind.GRPC, labels=labels)
    translator = Translator(world())
    (chain,) = listener(translator, INBOUND, client).filter_chains
    assert chain.HasField("transport_socket") is tls
    assert "PERMISSIVE is not possible" in notes(translator, client, type_urls.LISTENER, INBOUND)[0]


def test_inbound_names_that_are_none() -> None:
    translator = Translator(world())
    for name in ("xds.istio.io/grpc/lds/inbound/", "xds.istio.io/grpc/lds/inbound/x", INBOUND[:-4] + "0"):
        assert listener(translator, name) is None
    assert listener(translator, INBOUND, ENVOY) is None
    six = listener(translator, "xds.istio.io/grpc/lds/inbound/[::]:80")
    assert six.address.socket_address.address == "::"
    assert fields(six.metadata, "proxyless") == {"origin": "default", "mutual_tls": "PERMISSIVE"}

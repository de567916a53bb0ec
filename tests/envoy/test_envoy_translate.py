"""What an Envoy sidecar is sent: listeners, its application's cluster, a virtual host for every host it may call."""

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf import json_format

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.connection_pool import HTTP_OPTIONS
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings, World
from proxyless.envoy.binary import find_envoy
from proxyless.model.workload import Workload

Manager = hcm_pb2.HttpConnectionManager
PORTS = {
    "PROXYLESS_OUTBOUND_PORT": 15001,
    "PROXYLESS_INBOUND_PORT": 15006,
    "PROXYLESS_INBOUND_ADDRESS": "10.0.0.1",
    "PROXYLESS_APP_PORT": 8080,
}
EVERYTHING = """
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: wild}
    spec:
      hosts: ["*.wild.example.com"]
      resolution: STATIC
      ports: [{number: 80, name: http, protocol: HTTP}, {number: 8443, name: tls, protocol: TLS}]
      endpoints: [{address: 10.0.0.1}]
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: any}
    spec:
      hosts: ["*.any.example.com", any.example.org]
      location: MESH_EXTERNAL
      resolution: NONE
      ports: [{number: 80, name: http, protocol: HTTP}]
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: any}
    spec: {host: any.example.org, trafficPolicy: {tls: {mode: SIMPLE}}}
    ---
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: one}
    spec: {hosts: [one.wild.example.com], http: [{timeout: 1s, route: [{destination: {host: one.wild.example.com}}]}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: shop}
    spec:
      hosts: [shop.example.com, "*.shop.example.com"]
      http:
      - match: [{uri: {prefix: /long}}]
        directResponse: {status: 200, body: {string: "%s"}}
      - fault: {abort: {httpStatus: 418, percentage: {value: 1}}}
        corsPolicy: {allowOrigins: [{exact: "https://a"}]}
        route: [{destination: {host: reviews}}]
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: clash}
    spec: {hosts: [reviews.default], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: db, namespace: data}
    spec: {ports: [{name: tcp-db, port: 5432}, {name: dns, port: 53, protocol: UDP}]}
""" % ("x" * 5000)


def client(namespace: str = "default", **metadata: Any) -> Client:
    node = base_pb2.Node(id="envoy", user_agent_name="envoy")
    node.metadata.update({"NAMESPACE": namespace, **PORTS, **metadata})
    return Client.from_node(node)


def world(yaml: str = "", *, registry_only: bool = False) -> World:
    resources, problems = parse(textwrap.dedent(yaml), "test.yaml")
    assert not [problem for problem in problems if problem.level is Level.ERROR]
    workload = Workload("reviews-1", "default", "reviews", "reviews", "10.0.0.2", {"http": 9080})
    return World(
        resources={resource.key: resource for resource in resources},
        workloads={workload.id: workload},
        settings=MeshSettings(outbound_allow_any=not registry_only),
    )


def listeners(found: World, asking: Client) -> dict[str, Any]:
    resources = Translator(found).resources(asking, type_urls.LISTENER, ["*"])
    return {name: listener_pb2.Listener.FromString(one.any.value) for name, one in resources.items()}


def routes(found: World, asking: Client) -> Any:
    resources = Translator(found).resources(asking, type_urls.ROUTE, ["http_proxy"])
    return route_pb2.RouteConfiguration.FromString(resources["http_proxy"].any.value)


def clusters(found: World, asking: Client) -> dict[str, Any]:
    resources = Translator(found).resources(asking, type_urls.CLUSTER, ["*"])
    return {name: cluster_pb2.Cluster.FromString(one.any.value) for name, one in resources.items()}


def domains(found: World, asking: Client) -> dict[str, str]:
    """Virtual host by domain; no domain may be there twice."""
    pairs = [(domain, one.name) for one in routes(found, asking).virtual_hosts for domain in one.domains]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def manager(chain: Any) -> Any:
    return Manager.FromString(chain.filters[0].typed_config.value)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["outbound|15001", "inbound|10.0.0.1|15006|8080"]),
        ({"PROXYLESS_OUTBOUND_PORT": 0}, ["inbound|10.0.0.1|15006|8080"]),
        ({"PROXYLESS_APP_PORT": 65536}, ["outbound|15001"]),
        ({"PROXYLESS_INBOUND_PORT": 1.5}, ["outbound|15001"]),
        ({"PROXYLESS_INBOUND_PORT": float("nan")}, ["outbound|15001"]),
        ({"PROXYLESS_INBOUND_PORT": "15006"}, ["outbound|15001"]),
        ({"PROXYLESS_INBOUND_ADDRESS": "|"}, ["outbound|15001"]),
        ({"PROXYLESS_INBOUND_ADDRESS": "::"}, ["outbound|15001", "inbound|::|15006|8080"]),
        ({"PROXYLESS_INBOUND_NAME": "any|thing"}, ["outbound|15001", "inbound|10.0.0.1|15006|8080"]),
    ],
)
def test_the_node_says_where_it_listens(changes: dict[str, Any], names: list[str]) -> None:
    asking = client(**changes)
    assert list(listeners(world(), asking)) == names
    assert ("inbound|8080||" in clusters(world(), asking)) is (len(names) == 2 or "inbound" in names[0])


SERVES = """
    apiVersion: v1
    kind: Service
    metadata: {name: %s}
    spec: {%s, ports: [%s]}
"""
HTTP1, HTTP2, CALLERS = "HTTP/1.1", "HTTP/2", "as the caller"


@pytest.mark.parametrize(
    ("name", "declared", "spoken"),
    [
        ("", "", CALLERS),
        ("strange", "", CALLERS),
        ("http", "", HTTP1),
        ("http-web", "", HTTP1),
        ("grpc", "", HTTP2),
        ("h2c", "", HTTP2),
        ("tcp", "", CALLERS),
        # What a service of the workload says comes first, as long as it speaks with one tongue.
        ("", SERVES % ("any", "selector: {app: me}", "{name: http, port: 80}"), HTTP1),
        ("http", SERVES % ("any", "selector: {app: me}", "{port: 80, appProtocol: kubernetes.io/h2c}"), HTTP2),
        ("", SERVES % ("me", "clusterIP: None", "{name: http2, port: 80}"), HTTP2),
        ("grpc", SERVES % ("any", "selector: {app: me}", "{port: 80}"), HTTP2),
        ("", SERVES % ("any", "selector: {app: me}", "{name: http, port: 80}, {name: grpc, port: 81}"), CALLERS),
        ("", SERVES % ("any", "selector: {app: me}", "{name: http, port: 80}, {name: tcp, port: 81}"), HTTP1),
        ("", SERVES % ("any", "selector: {app: other}", "{name: http, port: 80}"), CALLERS),
    ],
)
def test_an_application_is_spoken_to_as_its_port_says(name: str, declared: str, spoken: str) -> None:
    asking = client(SERVICE="me", PROXYLESS_INBOUND_NAME=name)
    (listener,) = [one for key, one in listeners(world(declared), asking).items() if key.startswith("inbound")]
    (route,) = manager(listener.filter_chains[0]).route_config.virtual_hosts[0].routes
    found = clusters(world(declared), asking)[route.route.cluster]
    options = HttpProtocolOptions.FromString(found.typed_extension_protocol_options[HTTP_OPTIONS].value)
    assert options.HasField("use_downstream_protocol_config") is (spoken == CALLERS)
    # Envoy speaks HTTP/1.1 unless it is told otherwise.
    assert options.explicit_http_config.HasField("http2_protocol_options") is (spoken == HTTP2)


def test_only_sidecars_have_these_listeners() -> None:
    for kind in (ClientKind.PROXYLESS, ClientKind.GRPC):
        translator = Translator(world())
        for type_url, name in (
            (type_urls.LISTENER, "outbound|15001"),
            (type_urls.ROUTE, "http_proxy"),
            (type_urls.CLUSTER, "inbound|8080||"),
        ):
            assert translator.resources(Client(kind=kind), type_url, [name]) == {}
    assert Translator(world()).resources(Client(kind=ClientKind.ENVOY), type_urls.LISTENER, ["*"]) == {}


def test_the_outbound_port_is_on_loopback() -> None:
    found = listeners(world(), client())["outbound|15001"]
    assert found.address.socket_address.address == "127.0.0.1"
    assert found.traffic_direction == base_pb2.OUTBOUND
    connections = manager(found.filter_chains[0])
    assert connections.rds.route_config_name == "http_proxy"
    assert connections.forward_client_cert_details == Manager.SANITIZE


@pytest.mark.parametrize(
    ("mode", "chains"),
    [("PERMISSIVE", ["tls", "raw_buffer"]), ("STRICT", ["tls"]), ("DISABLE", ["raw_buffer"])],
)
def test_inbound_follows_peer_authentication(mode: str, chains: list[str]) -> None:
    yaml = f"""
        apiVersion: security.istio.io/v1
        kind: PeerAuthentication
        metadata: {{name: mode, namespace: default}}
        spec: {{mtls: {{mode: {mode}}}}}
    """
    found = listeners(world(yaml), client())["inbound|10.0.0.1|15006|8080"]
    assert [one.name for one in found.listener_filters] == ["envoy.filters.listener.tls_inspector"]
    assert [chain.filter_chain_match.transport_protocol for chain in found.filter_chains] == chains
    for chain in found.filter_chains:
        secure = chain.filter_chain_match.transport_protocol == "tls"
        details = manager(chain).forward_client_cert_details
        assert details == (Manager.APPEND_FORWARD if secure else Manager.SANITIZE)
        if not secure:
            assert not chain.HasField("transport_socket")
            continue
        context = tls_pb2.DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
        assert context.require_client_certificate.value
        validation = context.common_tls_context.combined_validation_context.default_validation_context
        assert [one.matcher.prefix for one in validation.match_typed_subject_alt_names] == ["spiffe://cluster.local/"]


def test_a_virtual_host_for_every_name() -> None:
    full = "reviews.default.svc.cluster.local"
    here, there = domains(world(EVERYTHING), client()), domains(world(EVERYTHING), client("other"))
    for name in ("reviews", "reviews.default.svc", full):
        assert here[name] == here[f"{name}:80"] == f"{full}:80"
        assert here[f"{name}:9080"] == f"{full}:9080"
    # Another namespace means its own by a short name, and a ServiceEntry means what it says.
    assert "reviews" not in there
    assert there["reviews.default.svc"] == f"{full}:80"
    assert here["reviews.default"] == "reviews.default:80"
    assert here["db.data:5432"] == "db.data.svc.cluster.local:5432"
    assert not [domain for domain in here if domain.endswith(":53") or domain in {"db.data", "db"}]
    assert here["*.wild.example.com"] == here["*.wild.example.com:80"] == "*.wild.example.com:80"
    assert here["one.wild.example.com"] == "one.wild.example.com:80"
    assert here["shop.example.com"] == "shop.example.com:80"
    assert here["*.shop.example.com"] == "*.shop.example.com:80"
    assert here["*"] == "allow_any"


def test_every_cluster_of_a_route_is_there() -> None:
    for namespace in ("default", "other"):
        known = clusters(world(EVERYTHING), client(namespace))
        for virtual_host in routes(world(EVERYTHING), client(namespace)).virtual_hosts:
            for route in virtual_host.routes:
                assert not route.route.cluster or route.route.cluster in known, virtual_host.name


def test_hosts_nobody_knows() -> None:
    (anybody,) = [one for one in routes(world(), client()).virtual_hosts if one.domains == ["*"]]
    assert {route.route.cluster for route in anybody.routes} == {"PassthroughCluster"}
    (nobody,) = [one for one in routes(world(registry_only=True), client()).virtual_hosts if one.domains == ["*"]]
    assert (nobody.name, {route.direct_response.status for route in nobody.routes}) == ("block_all", {502})
    # What is no HTTP can be reached by a tunnel, and its tunnel alone.
    (db,) = [one for one in routes(world(EVERYTHING), client()).virtual_hosts if "db.data:5432" in one.domains]
    assert [route.route.cluster for route in db.routes] == [
        "outbound|5432||db.data.svc.cluster.local",
        "PassthroughCluster",
    ]


def test_an_explicit_proxy_has_no_original_destination() -> None:
    for name, cluster in clusters(world(EVERYTHING), client()).items():
        assert cluster.type != cluster_pb2.Cluster.ORIGINAL_DST, name


def test_envoy_accepts_all_of_it(tmp_path: Path) -> None:
    found, asking = world(EVERYTHING), client()
    configuration = json_format.MessageToDict(routes(found, asking), preserving_proto_field_name=True)
    made = [
        json_format.MessageToDict(one, preserving_proto_field_name=True) for one in listeners(found, asking).values()
    ]
    for listener in made:
        for chain in listener["filter_chains"]:
            connections = chain["filters"][0]["typed_config"]
            if connections.pop("rds", None):
                connections["route_config"] = {**configuration, "validate_clusters": False}
    pipes = [{"name": name, "load_assignment": {"cluster_name": name}} for name in ("xds-grpc", "sds-grpc")]
    bootstrap = {
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            }
        },
        "static_resources": {
            "listeners": made,
            "clusters": [
                *pipes,
                *(
                    json_format.MessageToDict(one, preserving_proto_field_name=True)
                    for one in clusters(found, asking).values()
                ),
            ],
        },
    }
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", path, "--log-level", "warning"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Deprecated" not in done.stdout + done.stderr

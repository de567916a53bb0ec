"""Which services a world has, what serves their ports, and who may see them."""

import pytest
from translate_world import workload, world

from proxyless.control_plane.discovery import protocol
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.discovery.visibility import visibility
from proxyless.control_plane.resources import names
from proxyless.model.cluster import Health
from proxyless.model.inbound import MutualTls

HELLO = "hello.default.svc.cluster.local"


def served(catalog: Catalog, host: str, port: int, namespace: str = "default") -> list[tuple[str, int]]:
    service = catalog.service(host, namespace)
    assert service is not None
    declared = service.port(port)
    assert declared is not None
    return [(one.address, one.port) for one in catalog.endpoints(service, declared)]


@pytest.mark.parametrize(
    ("name", "app_protocol", "transport", "expected"),
    [
        ("http", "", "TCP", PortProtocol.HTTP),
        ("http-web", "", "TCP", PortProtocol.HTTP),
        ("http2", "", "TCP", PortProtocol.HTTP2),
        ("grpc-api", "", "TCP", PortProtocol.GRPC),
        ("grpc-web", "", "TCP", PortProtocol.GRPC_WEB),
        ("https-x", "", "TCP", PortProtocol.HTTPS),
        ("tls", "", "TCP", PortProtocol.TLS),
        ("tcp-db", "", "TCP", PortProtocol.TCP),
        ("metrics", "", "TCP", PortProtocol.UNSET),
        ("httpx", "", "TCP", PortProtocol.UNSET),
        ("", "", "TCP", PortProtocol.UNSET),
        ("tcp-web", "http", "TCP", PortProtocol.HTTP),
        ("http", "kubernetes.io/h2c", "TCP", PortProtocol.HTTP2),
        ("http", "example.com/own", "TCP", PortProtocol.HTTP),
        ("http", "", "UDP", PortProtocol.UDP),
    ],
)
def test_protocol_selection(name: str, app_protocol: str, transport: str, expected: PortProtocol) -> None:
    assert protocol.select(name, app_protocol, transport) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews", ("reviews.shop.svc.cluster.local", "reviews")),
        ("Reviews.", ("reviews.shop.svc.cluster.local", "reviews")),
        ("reviews.bar", ("reviews.bar", "reviews.bar.svc.cluster.local")),
        ("reviews.bar.svc", ("reviews.bar.svc", "reviews.bar.svc.cluster.local")),
        ("reviews.bar.svc.cluster.local", ("reviews.bar.svc.cluster.local",)),
    ],
)
def test_names_are_completed_as_in_kubernetes(name: str, expected: tuple[str, ...]) -> None:
    assert names.candidates(name, "shop", "cluster.local") == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a:80", ("a", 80)),
        ("[::1]:80", ("[::1]", 80)),
        ("a", None),
        (":80", None),
        ("a:", None),
        ("a:0", None),
        ("a:65536", None),
        ("a:８０", None),
        ("a:-1", None),
        ("a:99999999999999", None),
    ],
)
def test_targets_are_split(target: str, expected: object) -> None:
    assert names.split_target(target) == expected


def test_the_most_specific_pattern_covers_a_host() -> None:
    patterns = ["*", "*.example.com", "*.api.example.com", "v1.api.example.com"]
    for host, expected in [
        ("v1.api.example.com", "v1.api.example.com"),
        ("v2.api.example.com", "*.api.example.com"),
        ("www.example.com", "*.example.com"),
        ("example.com", "*"),
        (".example.com", "*"),
    ]:
        assert names.most_specific(patterns, host) == expected
    assert names.most_specific(["*.example.com"], "example.org") is None


def test_workloads_imply_a_service_with_their_ports_and_80() -> None:
    catalog = Catalog(world("", workload("hello", version="v1", port=9080), workload("hello", version="v2", port=9081)))
    service = catalog.service(HELLO, "elsewhere")
    assert service is not None
    assert [port.number for port in service.ports] == [80, 9080, 9081]
    both = [("127.0.0.1", 9080), ("127.0.0.1", 9081)]
    assert served(catalog, HELLO, 80) == served(catalog, HELLO, 9080) == both


def test_port_80_of_an_implied_service_goes_to_the_port_called_http() -> None:
    catalog = Catalog(world("", workload("hello", ports={"http": 9080, "metrics": 9090})))
    assert served(catalog, HELLO, 80) == [("127.0.0.1", 9080)]
    assert served(catalog, HELLO, 9090) == [("127.0.0.1", 9090)]
    nameless = Catalog(world("", workload("hello", ports={"web": 9080, "metrics": 9090})))
    assert served(nameless, HELLO, 80) == []


def test_an_only_port_tells_what_port_80_speaks() -> None:
    service = Catalog(world("", workload("hello", ports={"grpc": 50051}))).service(HELLO, "default")
    assert service is not None
    assert {port.number: port.protocol for port in service.ports} == {
        80: PortProtocol.GRPC,
        50051: PortProtocol.GRPC,
    }


SERVICE = """
    apiVersion: v1
    kind: Service
    metadata: {name: hello, namespace: default}
    spec:
      selector: {app: hello}
      ports:
      - {name: web, port: 80, targetPort: main}
      - {name: metrics, port: 9000}
      - {name: admin, port: 9001, targetPort: 7001}
      - {name: other, port: 9002}
"""


def test_a_configured_service_wins_over_an_implied_one() -> None:
    catalog = Catalog(world(SERVICE, workload("hello", ports={"main": 1, "metrics": 2, "x": 7001})))
    service = catalog.service(HELLO, "default")
    assert service is not None
    assert service.origin == "Service default/hello"
    assert [port.number for port in service.ports] == [80, 9000, 9001, 9002]


@pytest.mark.parametrize(
    ("port", "ports", "expected"),
    [
        (80, {"main": 1, "other": 2}, 1),  # targetPort's name
        (9000, {"metrics": 2, "other": 3}, 2),  # its own name
        (9001, {"a": 7001, "b": 3}, 7001),  # targetPort's number
        (9002, {"a": 9002, "b": 3}, 9002),  # its own number
        (9002, {"a": 5}, 5),  # the only port
        (9002, {"": 5}, 5),
        (9002, {"a": 5, "b": 6}, None),  # nobody listens
    ],
)
def test_which_port_a_service_port_goes_to(port: int, ports: dict[str, int], expected: int | None) -> None:
    catalog = Catalog(world(SERVICE, workload("hello", ports=ports)))
    assert served(catalog, HELLO, port) == ([("127.0.0.1", expected)] if expected else [])


def test_a_service_has_the_workloads_it_selects_and_those_that_name_it() -> None:
    catalog = Catalog(
        world(
            SERVICE,
            workload("hello", id="a", port=1, labels={"app": "not-selected"}),  # names it
            workload("other", id="b", port=2, labels={"app": "hello"}),  # selected
            workload("hello", id="c", port=3),  # both: app=hello is implied
            workload("other", id="d", port=4),
            workload("hello", id="e", port=5, namespace="elsewhere"),
        )
    )
    assert served(catalog, HELLO, 9002) == [("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)]


def test_a_draining_workload_stays_as_draining() -> None:
    catalog = Catalog(world("", workload("hello", id="a", port=1), workload("hello", id="b", port=2, draining=True)))
    service = catalog.service(HELLO, "default")
    assert service is not None
    health = [one.health for one in catalog.endpoints(service, service.ports[-1])]
    assert health == [Health.HEALTHY, Health.DRAINING]


def test_a_process_that_restarts_on_its_port_is_not_held_back_by_its_predecessor() -> None:
    for ids in (("a", "b"), ("b", "a")):
        catalog = Catalog(world("", workload("hello", id=ids[0], draining=True), workload("hello", id=ids[1])))
        service = catalog.service(HELLO, "default")
        assert service is not None
        (endpoint,) = catalog.endpoints(service, service.ports[0])
        assert (endpoint.id, endpoint.health) == (ids[1], Health.HEALTHY)


def test_endpoint_slices_follow_the_name_of_the_port() -> None:
    catalog = Catalog(
        world(
            SERVICE
            + """
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: hello-1, namespace: default, labels: {kubernetes.io/service-name: hello}}
    addressType: IPv4
    ports: [{name: web, port: 8080}, {name: metrics, port: 8081}]
    endpoints:
    - {addresses: [10.0.0.1]}
    - {addresses: [10.0.0.2], conditions: {ready: false}}
    - {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}
    - {addresses: [10.0.0.4], conditions: {ready: false, serving: false, terminating: true}}
    """
        )
    )
    assert served(catalog, HELLO, 80) == [("10.0.0.1", 8080), ("10.0.0.3", 8080)]
    assert served(catalog, HELLO, 9000) == [("10.0.0.1", 8081), ("10.0.0.3", 8081)]
    assert served(catalog, HELLO, 9001) == []


def test_workload_entries_are_selected_by_services_and_service_entries() -> None:
    catalog = Catalog(
        world(
            SERVICE
            + """
    ---
    apiVersion: networking.istio.io/v1
    kind: WorkloadEntry
    metadata: {name: vm, namespace: default}
    spec: {address: 10.0.0.9, ports: {web: 8888}, labels: {app: hello, kind: vm}, serviceAccount: vm, weight: 3,
           locality: eu/eu-1/a}
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: vms, namespace: default}
    spec:
      hosts: [vms.example.com]
      location: MESH_INTERNAL
      resolution: STATIC
      ports: [{number: 80, name: web, protocol: HTTP}, {number: 81, name: more, protocol: HTTP, targetPort: 8181}]
      workloadSelector: {labels: {kind: vm}}
    """
        )
    )
    assert served(catalog, HELLO, 80) == [("10.0.0.9", 8888)]
    assert served(catalog, HELLO, 9001) == [("10.0.0.9", 7001)]
    assert served(catalog, "vms.example.com", 80) == [("10.0.0.9", 8888)]
    assert served(catalog, "vms.example.com", 81) == [("10.0.0.9", 8181)]
    service = catalog.service("vms.example.com", "default")
    assert service is not None
    (endpoint,) = catalog.endpoints(service, service.ports[0])
    assert (endpoint.weight, endpoint.locality.zone) == (3, "eu-1")
    assert str(endpoint.identity) == "spiffe://cluster.local/ns/default/sa/vm"
    assert not endpoint.mutual_tls


def test_service_entries_resolve_to_their_endpoints_or_their_hosts() -> None:
    catalog = Catalog(
        world(
            """
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: fixed}
            spec:
              hosts: [fixed.example.com]
              resolution: STATIC
              ports: [{number: 80, name: http, protocol: HTTP}]
              endpoints: [{address: 1.2.3.4, ports: {http: 8080}}, {address: 1.2.3.5}]
            ---
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: names}
            spec:
              hosts: [a.example.com, b.example.com]
              resolution: DNS
              ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
            ---
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {name: wild}
            spec:
              hosts: ["*.wild.example.com"]
              resolution: NONE
              ports: [{number: 80, name: http, protocol: HTTP}]
            """
        )
    )
    assert served(catalog, "fixed.example.com", 80) == [("1.2.3.4", 8080), ("1.2.3.5", 80)]
    assert served(catalog, "a.example.com", 80) == [("a.example.com", 443)]
    assert served(catalog, "b.example.com", 80) == [("b.example.com", 443)]
    assert served(catalog, "some.wild.example.com", 80) == []
    assert catalog.service("wild.example.com", "default") is None


@pytest.mark.parametrize(
    ("export_to", "mine", "other", "third"),
    [
        ([], True, True, True),
        (["*"], True, True, True),
        (["."], True, False, False),
        (["other"], False, True, False),
        ([".", "other"], True, True, False),
        (["~"], False, False, False),
    ],
)
def test_export_to(export_to: list[str], mine: bool, other: bool, third: bool) -> None:
    seen = visibility(export_to, "mine")
    assert [seen.allows(name) for name in ("mine", "other", "third")] == [mine, other, third]


def test_a_service_can_be_kept_to_its_namespace() -> None:
    catalog = Catalog(
        world(
            """
            apiVersion: v1
            kind: Service
            metadata: {name: hello, annotations: {networking.istio.io/exportTo: "."}}
            spec: {ports: [{port: 80}]}
            """
        )
    )
    assert catalog.service(HELLO, "default") is not None
    assert catalog.service(HELLO, "other") is None
    assert catalog.resolve("hello.default", "other") is None


def test_the_namespace_of_the_caller_wins_when_two_declare_a_host() -> None:
    text = "\n---\n".join(
        f"""
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata: {{name: api, namespace: {namespace}}}
            spec: {{hosts: [api.example.com], resolution: DNS, ports: [{{number: {port}, name: http}}]}}
        """
        for namespace, port in (("a", 1), ("b", 2))
    )
    catalog = Catalog(world(text))
    for namespace, port in (("a", 1), ("b", 2), ("c", 1)):
        service = catalog.service("api.example.com", namespace)
        assert service is not None
        assert service.ports[0].number == port


PEERS = """
    apiVersion: security.istio.io/v1
    kind: PeerAuthentication
    metadata: {name: mesh, namespace: istio-system}
    spec: {mtls: {mode: STRICT}}
    ---
    apiVersion: security.istio.io/v1
    kind: PeerAuthentication
    metadata: {name: namespace, namespace: soft}
    spec: {mtls: {mode: PERMISSIVE}}
    ---
    apiVersion: security.istio.io/v1
    kind: PeerAuthentication
    metadata: {name: workload, namespace: soft}
    spec:
      selector: {matchLabels: {app: hello}}
      portLevelMtls: {8080: {mode: DISABLE}, 8081: {mode: UNSET}}
    ---
    apiVersion: security.istio.io/v1
    kind: PeerAuthentication
    metadata: {name: unset, namespace: unset}
    spec: {mtls: {mode: UNSET}}
"""


@pytest.mark.parametrize(
    ("namespace", "labels", "port", "expected"),
    [
        ("default", {}, 80, MutualTls.STRICT),  # the mesh's
        ("unset", {}, 80, MutualTls.STRICT),  # inherited
        ("soft", {}, 80, MutualTls.PERMISSIVE),  # the namespace's
        ("soft", {"app": "hello"}, 80, MutualTls.PERMISSIVE),  # the workload's says nothing
        ("soft", {"app": "hello"}, 8080, MutualTls.DISABLE),  # the port's
        ("soft", {"app": "hello"}, 8081, MutualTls.PERMISSIVE),
        ("soft", {"app": "other"}, 8080, MutualTls.PERMISSIVE),
    ],
)
def test_peer_authentication(namespace: str, labels: dict[str, str], port: int, expected: MutualTls) -> None:
    assert Catalog(world(PEERS)).peer_authentications.mode(namespace, labels, port) is expected


def test_permissive_without_any_policy() -> None:
    assert Catalog(world()).peer_authentications.mode("default", {}, 80) is MutualTls.PERMISSIVE

"""Which configuration resources stand behind an xDS resource, told by what was made."""

import pytest
from translate_world import ENVOY, GRPC, LIBRARY, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator

YAML = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay}
spec:
  hosts: [pay.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.9}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, labels: {app: reviews, version: v1}}
spec: {address: 127.0.0.2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ratings-1, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.0.0.3]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sticky}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: user}}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [reviews]
  http:
  - {match: [{uri: {prefix: /a}}], delegate: {name: inner}}
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inner}
spec: {http: [{directResponse: {status: 418}}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
"""
HOST = "reviews.default.svc.cluster.local"
RATINGS = "ratings.default.svc.cluster.local"
INBOUND = "xds.istio.io/grpc/lds/inbound/0.0.0.0:9080"


def sources(client: Client, type_url: str, name: str, yaml: str = YAML) -> dict[str, bytes]:
    translator = Translator(world(yaml))
    resource = translator.resources(client, type_url, [name])[name]
    found = translator.sources(client, type_url, name, resource.any.value)
    return {f"{key.kind} {key.name}": digest for key, digest in found.items()}


@pytest.mark.parametrize(
    ("type_url", "name", "expected"),
    [
        (type_urls.ROUTE, f"{HOST}:80", {"VirtualService root", "VirtualService inner", "DestinationRule sticky"}),
        (type_urls.ROUTE, f"{RATINGS}:80", {"Service ratings"}),
        (type_urls.ROUTE, "pay.example:80", {"ServiceEntry pay"}),
        (type_urls.CLUSTER, f"outbound|80|v1|{HOST}", {"Service reviews", "DestinationRule sticky"}),
        (type_urls.CLUSTER, "outbound|80||pay.example", {"ServiceEntry pay"}),
        (type_urls.ENDPOINT, f"outbound|80||{HOST}", {"Service reviews", "WorkloadEntry machine"}),
        (
            type_urls.ENDPOINT,
            f"outbound|80|v1|{HOST}",
            {"Service reviews", "WorkloadEntry machine", "DestinationRule sticky"},
        ),
        (type_urls.ENDPOINT, f"outbound|80||{RATINGS}", {"Service ratings", "EndpointSlice ratings-1"}),
        (type_urls.LISTENER, "reviews:80", {"Service reviews"}),
        (type_urls.LISTENER, INBOUND, {"PeerAuthentication strict"}),
        (type_urls.CLUSTER, "PassthroughCluster", set()),
    ],
)
def test_sources(type_url: str, name: str, expected: set[str]) -> None:
    assert sources(LIBRARY, type_url, name).keys() == expected


def test_a_sidecars_routes_are_those_of_everybody() -> None:
    # An Envoy picks the endpoint by the route's hash policy, which the DestinationRule gives.
    assert sources(ENVOY, type_urls.ROUTE, "http_proxy").keys() == {
        "VirtualService root", "VirtualService inner", "DestinationRule sticky", "Service ratings", "ServiceEntry pay",
    }  # fmt: skip


def test_a_digest_is_of_the_part_alone() -> None:
    before = sources(ENVOY, type_urls.ROUTE, "http_proxy")
    after = sources(ENVOY, type_urls.ROUTE, "http_proxy", YAML.replace("418", "410"))
    # What hands the routes over, and what the delegate says, changed; the others did not.
    assert {name for name in before if before[name] != after[name]} == {"VirtualService root", "VirtualService inner"}


ATTACHED = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed}
spec:
  parentRefs: [{group: "", kind: Service, name: ratings}]
  rules: [{backendRefs: [{name: ratings, port: 80}, {name: nobody, port: 80}]}]
"""


@pytest.mark.parametrize("yaml", [ATTACHED, ATTACHED.replace("[{backendRefs", "[] # ")])
def test_routes_that_are_attached_stand_behind_their_services_routes(yaml: str) -> None:
    assert sources(LIBRARY, type_urls.ROUTE, f"{RATINGS}:80", YAML + yaml).keys() == {"HTTPRoute routed"}


def test_what_nothing_stands_behind() -> None:
    translator = Translator(world(""))
    assert translator.sources(GRPC, type_urls.ROUTE, "nobody:80", b"") == {}
    assert translator.sources(GRPC, type_urls.CLUSTER, "no name of ours", b"") == {}
    assert translator.sources(LIBRARY, type_urls.LISTENER, "nobody:80", b"") == {}

"""Pieces of worlds that touch each other in every way we know of, for tests of what happens when a world changes."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from translate_world import workload

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.destination_rule import LocalityLoadBalancerSetting
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.sidecar_ports import InboundPort, SidecarPorts
from proxyless.control_plane.world import KeySet, MeshSettings, World
from proxyless.model.cluster import Locality
from proxyless.model.workload import Workload

# Several of a name are versions of one resource.
RESOURCES = """
kind: Service
metadata: {name: reviews, namespace: b}
spec:
  selector: {app: reviews}
  trafficDistribution: PreferClose
  ports: [{name: http, port: 80}, {name: tcp, port: 81}]
---
kind: Sidecar
metadata: {name: own, namespace: a}
spec: {egress: [{hosts: [./*]}]}
---
kind: Sidecar
metadata: {name: own, namespace: a}
spec:
  egress:
  - {port: {number: 9000, protocol: HTTP_PROXY}, hosts: ['*/reviews.a.svc.cluster.local', '*/*.example.com']}
  - {port: {number: 81, protocol: TCP}, bind: 0.0.0.0, hosts: ['*/*']}
  - {port: {number: 443, protocol: TLS}, hosts: [./*, b/x.example.com]}
  - {hosts: [./*]}
  outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: reviews.b, port: {number: 80}}}
---
kind: Sidecar
metadata: {name: some, namespace: a}
spec:
  workloadSelector: {labels: {role: x}}
  ingress: [{port: {number: 7000, protocol: HTTP}, defaultEndpoint: '127.0.0.1:7001'}]
  egress: [{port: {number: 80, protocol: HTTP}, hosts: ['*/ratings.a.svc.cluster.local']}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
kind: Sidecar
metadata: {name: some, namespace: a}
spec:
  workloadSelector: {labels: {idle: '1'}}
  egress: [{port: {number: 9000, protocol: HTTP_PROXY}, hosts: [b/*]}]
---
kind: Sidecar
metadata: {name: mesh, namespace: istio-system}
spec: {egress: [{hosts: [./*, '*/api.example.com']}]}
---
kind: VirtualService
metadata: {name: l4, namespace: a}
spec:
  hosts: [x.example.com, reviews.b]
  tls:
  - match: [{sniHosts: [x.example.com], sourceLabels: {tier: x}}]
    route: [{destination: {host: api.example.com, port: {number: 443}}}]
  tcp:
  - match: [{port: 81, sourceLabels: {team: x}}]
    route: [{destination: {host: ratings, port: {number: 80}}}]
  - route: [{destination: {host: reviews.b, port: {number: 81}}}]
---
kind: VirtualService
metadata: {name: l4, namespace: a}
spec:
  hosts: ['*.example.com']
  tls:
  - match: [{sniHosts: ['*.example.com']}]
    route: [{destination: {host: outside.a}}]
---
kind: VirtualService
metadata: {name: root, namespace: b}
spec: {hosts: [reviews.a, x.example.com], http: [{delegate: {name: other, namespace: b}}]}
---
kind: VirtualService
metadata: {name: other, namespace: b}
spec: {exportTo: [b], http: [{route: [{destination: {host: ratings.a}}]}]}
---
kind: HTTPRoute
metadata: {name: routed, namespace: a}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}, {group: '', kind: Service, name: reviews, namespace: b}]
  rules:
  - matches: [{path: {value: /x}}]
    backendRefs: [{name: reviews, port: 80}, {name: ratings, port: 80, weight: 3}]
---
kind: HTTPRoute
metadata: {name: routed, namespace: a}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules: [{backendRefs: [{name: reviews, namespace: b, port: 81}]}]
---
kind: HTTPRoute
metadata: {name: routed, namespace: b}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: a}, {group: '', kind: Service, name: reviews}]
  rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: reviews, port: 80}}}]}]
---
kind: GRPCRoute
metadata: {name: called, namespace: b}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, sectionName: http}]
  rules: [{matches: [{method: {service: s}}], backendRefs: [{name: reviews, namespace: a, port: 80}]}]
---
kind: DestinationRule
metadata: {name: near, namespace: a}
spec:
  host: reviews.b
  trafficPolicy:
    outlierDetection: {}
    loadBalancer: {localityLbSetting: {failoverPriority: [version, team=x, topology.kubernetes.io/region]}}
---
kind: DestinationRule
metadata: {name: near, namespace: a}
spec:
  host: '*.svc.cluster.local'
  trafficPolicy:
    portLevelSettings:
    - {port: {number: 80}, loadBalancer: {localityLbSetting: {distribute: [{from: r/*, to: {r/z: 80, 's/*': 20}}]}}}
---
kind: ServiceEntry
metadata: {name: all, namespace: b}
spec:
  hosts: [x.example.com]
  addresses: [240.0.0.1]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 81, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.1.0.3, locality: r/z, labels: {version: v1}}, {address: 10.1.0.4, locality: s/z}]
---
kind: Service
metadata: {name: reviews, namespace: a}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: reviews, namespace: a}
spec: {selector: {app: other, tier: back}, ports: [{name: http, port: 80, targetPort: web}, {name: tcp-x, port: 81}]}
---
kind: Service
metadata: {name: reviews, namespace: a, annotations: {networking.istio.io/exportTo: ., proxyless.io/rate-limit: 5/s}}
spec: {ports: [{name: grpc, port: 80}]}
---
kind: Service
metadata: {name: reviews, namespace: b}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}, {name: admin, port: 8080}]}
---
kind: Service
metadata: {name: outside, namespace: a}
spec: {type: ExternalName, externalName: api.example.com, ports: [{name: http, port: 80}]}
---
kind: VirtualService
metadata: {name: one, namespace: a}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
---
kind: VirtualService
metadata: {name: one, namespace: a}
spec:
  hosts: [reviews, ratings.a]
  http:
  - match: [{sourceLabels: {role: x}}]
    headers: {request: {set: {z: '1', y: '2'}, add: {x: '3', w: '4'}}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews.a}, weight: 1}, {destination: {host: reviews.b}, weight: 2}]
---
kind: VirtualService
metadata: {name: one, namespace: a}
spec:
  hosts: [reviews, ratings.a]
  http:
  - match: [{sourceLabels: {role: x}}]
    headers: {request: {add: {w: '4', x: '3'}, set: {y: '2', z: '1'}}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews.a}, weight: 1}, {destination: {host: reviews.b}, weight: 2}]
---
kind: VirtualService
metadata: {name: two, namespace: a}
spec: {hosts: ['*.example.com'], http: [{timeout: 3s, route: [{destination: {host: api.example.com}}]}]}
---
kind: VirtualService
metadata: {name: two, namespace: a}
spec: {hosts: [api.example.com], exportTo: [.], http: [{route: [{destination: {host: x.example.com}}]}]}
---
kind: VirtualService
metadata: {name: root, namespace: b}
spec: {hosts: [reviews.a.svc.cluster.local], http: [{delegate: {name: leaf, namespace: b}}]}
---
kind: VirtualService
metadata: {name: leaf, namespace: b}
spec: {http: [{match: [{uri: {prefix: /x}}], route: [{destination: {host: reviews}}]}]}
---
kind: VirtualService
metadata: {name: leaf, namespace: b}
spec: {http: [{route: [{destination: {host: nobody}}]}]}
---
kind: DestinationRule
metadata: {name: one, namespace: a}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
kind: DestinationRule
metadata: {name: one, namespace: a, annotations: {proxyless.io/load-balancing: client_side_weighted_round_robin}}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
kind: DestinationRule
metadata: {name: one, namespace: a}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: u}}}
  subsets: [{name: v1, labels: {version: v2}}]
---
kind: VirtualService
metadata: {name: leaf, namespace: b}
spec:
  hosts: [reviews.b, ratings.a]
  http: [{match: [{sourceNamespace: a}], timeout: 2s, route: [{destination: {host: reviews}}]}]
  tcp: [{match: [{sourceNamespace: b}], route: [{destination: {host: ratings.a, port: {number: 80}}}]}]
---
kind: DestinationRule
metadata: {name: two, namespace: b}
spec: {host: reviews.b, exportTo: [.], trafficPolicy: {outlierDetection: {}}}
---
kind: DestinationRule
metadata: {name: two, namespace: b}
spec: {host: reviews.a, workloadSelector: {matchLabels: {tier: x}}, trafficPolicy: {tls: {mode: DISABLE}}}
---
kind: DestinationRule
metadata: {name: all, namespace: istio-system}
spec: {host: '*.svc.cluster.local', trafficPolicy: {outlierDetection: {}}, subsets: [{name: v1, labels: {version: v1}}]}
---
kind: DestinationRule
metadata: {name: all, namespace: istio-system}
spec: {host: '*.example.com', trafficPolicy: {tls: {mode: SIMPLE}}}
---
kind: ServiceEntry
metadata: {name: api, namespace: a}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
kind: ServiceEntry
metadata: {name: api, namespace: a}
spec:
  hosts: [api.example.com, ratings.a.svc.cluster.local]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.1.0.1}, {address: 10.1.0.2, locality: r/z}]
---
kind: ServiceEntry
metadata: {name: all, namespace: b}
spec: {hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}]}
---
kind: ServiceEntry
metadata: {name: all, namespace: b}
spec:
  hosts: [x.example.com]
  resolution: STATIC
  exportTo: [a]
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: reviews}}
---
kind: EndpointSlice
metadata: {name: slice-1, namespace: a, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}]
---
kind: EndpointSlice
metadata: {name: slice-1, namespace: a, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
ports: [{name: http, port: 9080}]
endpoints: [{addresses: [10.0.0.1]}]
---
kind: EndpointSlice
metadata: {name: slice-2, namespace: a, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080}]
endpoints: [{addresses: [10.0.0.1], zone: z}, {addresses: [10.0.0.3]}]
---
kind: WorkloadEntry
metadata: {name: vm, namespace: a}
spec: {address: 10.2.0.1, labels: {app: reviews, version: v2}}
---
kind: WorkloadEntry
metadata: {name: vm, namespace: a}
spec: {address: 10.2.0.2, weight: 3, labels: {app: other, tier: back}, serviceAccount: vm}
---
kind: WorkloadEntry
metadata: {name: vm, namespace: b}
spec: {address: 10.2.0.3, labels: {app: reviews, security.istio.io/tlsMode: istio}}
---
kind: PeerAuthentication
metadata: {name: all, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
kind: PeerAuthentication
metadata: {name: some, namespace: a}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: DISABLE}}
---
kind: PeerAuthentication
metadata: {name: some, namespace: a}
spec: {selector: {matchLabels: {zone: x}}, portLevelMtls: {'1': {mode: DISABLE}, '9080': {mode: STRICT}}}
---
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: a}
spec: {}
---
kind: AuthorizationPolicy
metadata: {name: some, namespace: a}
spec: {selector: {matchLabels: {team: x}}, action: DENY, rules: [{from: [{source: {namespaces: [b]}}]}]}
---
kind: AuthorizationPolicy
metadata: {name: some, namespace: a}
spec: {selector: {matchLabels: {role: x}}, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}
---
kind: AuthorizationPolicy
metadata: {name: mesh, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
kind: RequestAuthentication
metadata: {name: tokens, namespace: a}
spec: {jwtRules: [{issuer: i, jwksUri: 'http://reviews.b/keys'}, {issuer: j, jwksUri: 'https://api.example.com/keys'}]}
---
kind: RequestAuthentication
metadata: {name: tokens, namespace: b}
spec: {selector: {matchLabels: {idle: '1'}}, jwtRules: [{issuer: i, jwks: '{"kty": "oct", "k": "AQIDBA"}'}]}
"""
_VERSIONS = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
}

WORKLOADS = [
    workload("reviews", id="1", namespace="a", version="v1", port=1),
    workload("reviews", id="1", namespace="a", version="v2", port=1),
    workload("reviews", id="1", namespace="a", version="v1", port=1, draining=True),
    workload("reviews", id="2", namespace="a", version="v2", ports={"http": 2, "web": 3}, mutual_tls=False),
    workload("reviews", id="3", namespace="b", port=4, region="r", zone="z"),
    workload("ratings", id="4", namespace="a", port=5),
    workload("ratings", id="4", namespace="a", ports={"http": 5, "admin": 6}),
    workload("ratings", id="5", namespace="a", ports={"grpc": 7}, labels={"app": "reviews"}),
    workload("", id="6", namespace="a", port=8, labels={"app": "other", "tier": "back"}),
    workload("", id="6", namespace="a", port=8, labels={"app": "other"}),
    workload("reviews", id="7", namespace="b", port=4, region="s", zone="y", labels={"team": "x"}),
    workload("reviews", id="7", namespace="b", port=4, labels={"istio-locality": "r.z"}, version="v1"),
]
SETTINGS = [
    MeshSettings(),
    MeshSettings(outbound_allow_any=False),
    MeshSettings(root_namespace="b"),
    MeshSettings(locality_lb=LocalityLoadBalancerSetting(failover_priority=("team",))),
]
Piece = Resource[Any] | Workload | MeshSettings | tuple[str, KeySet]
# By the URLs that token rules name.
KEY_SETS = [
    ("http://reviews.b/keys", KeySet(problem="no route")),
    ("http://reviews.b/keys", KeySet('{"keys": [{"kty": "oct", "k": "AQIDBA"}]}')),
    ("https://api.example.com/keys", KeySet('{"kty": "oct", "k": "BAMCAQ"}')),
]

_PORTS = SidecarPorts(15001, InboundPort("0.0.0.0", 15006, 9080))
CLIENTS = [
    Client(namespace="a"),
    Client(namespace="b", labels={"role": "x", "tier": "x", "zone": "x", "idle": "1"}),
    Client(namespace="a", labels={"version": "v1", "team": "x"}, locality=Locality("r", "z")),
    Client(ClientKind.GRPC, namespace="a", labels={"security.istio.io/tlsMode": "istio"}),
    Client(ClientKind.GRPC, namespace="b"),
    Client(ClientKind.ENVOY, namespace="a", labels={"role": "x", "zone": "x"}, ports=_PORTS),
    Client(ClientKind.ENVOY, namespace="b", ports=_PORTS),
    Client(
        ClientKind.ENVOY,
        namespace="a",
        labels={"team": "x", "idle": "1", "app": "reviews"},
        locality=Locality("s"),
        ports=_PORTS,
    ),
]
_HOSTS = (
    "reviews.a.svc.cluster.local",
    "reviews.b.svc.cluster.local",
    "ratings.a.svc.cluster.local",
    "outside.a.svc.cluster.local",
    "api.example.com",
    "x.example.com",
)
_CLUSTERS = (
    *(f"outbound|80||{host}" for host in _HOSTS),
    *(f"outbound|80|v1|{host}" for host in _HOSTS[:3]),
    "outbound|8080||reviews.b.svc.cluster.local",
    "outbound|81||reviews.b.svc.cluster.local",
    "PassthroughCluster",
)
NAMES: Mapping[str, tuple[str, ...]] = {
    type_urls.LISTENER: (
        *(f"{host}:80" for host in (*_HOSTS, "reviews", "ratings", "reviews.b", "ratings.a")),
        "xds.istio.io/grpc/lds/inbound/0.0.0.0:1",
        "*",
    ),
    type_urls.ROUTE: (*(f"{host}:80" for host in _HOSTS), "http_proxy", "127.0.0.1_9000", "127.0.0.1_80"),
    type_urls.CLUSTER: (*_CLUSTERS, "*"),
    type_urls.ENDPOINT: _CLUSTERS,
}


@dataclass(slots=True)
class ChangingWorld:
    """``world`` is the present one. Unchanged resources stay the same objects, as in a control plane."""

    resources: dict[Key, Resource[Any]] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    settings: MeshSettings = SETTINGS[0]
    key_sets: dict[str, KeySet] = field(default_factory=dict)
    generation: int = 0

    def change(self, what: "Piece", *, remove: bool, created: float) -> None:
        if isinstance(what, MeshSettings):
            self.settings = what
        elif isinstance(what, tuple):
            url, keys = what
            self.key_sets.pop(url, None)
            if not remove:
                self.key_sets[url] = keys
        elif isinstance(what, Workload):
            self.workloads.pop(what.id, None)
            if not remove:
                self.workloads[what.id] = what
        else:
            self.resources.pop(what.key, None)
            if not remove:
                self.resources[what.key] = replace(what, created=created)

    def next(self) -> World:
        self.generation += 1
        return World(
            MappingProxyType(dict(self.resources)),
            MappingProxyType(dict(self.workloads)),
            self.settings,
            self.generation,
            MappingProxyType(dict(self.key_sets)),
        )


def _resources() -> list[Resource[Any]]:
    found = []
    for text in textwrap.dedent(RESOURCES).split("\n---\n"):
        kind = text.strip().partition("\n")[0].removeprefix("kind: ")
        version = _VERSIONS.get(kind, "networking.istio.io/v1")
        resources, problems = parse(f"apiVersion: {version}\n{text.strip()}", "test.yaml")
        assert not [problem for problem in problems if problem.level is Level.ERROR], problems
        found += resources
    return found


PIECES: list[Piece] = [*_resources(), *WORKLOADS, *SETTINGS, *KEY_SETS]

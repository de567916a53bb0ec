"""The oracles: a real Envoy accepts what is generated for it, and our own client compiles what is generated for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from translate_world import ENVOY, LIBRARY, MESSAGES, decode, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import World
from proxyless.model.cluster import ClusterKind, Health, LoadBalancer
from proxyless.model.route import Forward
from proxyless.xds_client.offline import compile_snapshot

HOST = "reviews.default.svc.cluster.local"

# Something of everything that can be written.
EVERYTHING = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: reviews, annotations: {proxyless.io/hedge-on-per-try-timeout: "true"}}
    spec:
      hosts: [reviews]
      http:
      - name: a
        match:
        - uri: {regex: "/r/.*"}
          ignoreUriCase: true
          method: {exact: GET}
          authority: {prefix: a}
          scheme: {exact: http}
          headers: {x: {exact: y}, z: {}}
          withoutHeaders: {n: {regex: ".+"}, m: {}}
          queryParams: {q: {exact: "1"}, p: {}}
        fault:
          delay: {fixedDelay: 2s, percentage: {value: 100}}
          abort: {httpStatus: 418, percentage: {value: 0.5}}
        headers: {request: {set: {a: b}, add: {c: d}, remove: [e]}, response: {add: {f: ""}}}
        rewrite: {uriRegexRewrite: {match: "/r/(.*)", rewrite: '/\\1'}, authority: other}
        retries: {attempts: 3, perTryTimeout: 1s, retryOn: "5xx,429", backoff: 10ms, retryRemoteLocalities: true}
        timeout: 5s
        mirror: {host: ratings}
        mirrorPercentage: {value: 1}
        corsPolicy: {allowOrigins: [{prefix: "https://"}], allowMethods: [GET], maxAge: 1h, allowCredentials: true}
        route:
        - {destination: {host: reviews, subset: v1}, weight: 90, headers: {request: {set: {Host: h}}}}
        - {destination: {host: reviews, subset: v2}, weight: 10}
        - {destination: {host: nobody}, weight: 1}
      - match: [{uri: {exact: /redirect}}]
        redirect: {uri: /x, authority: y, scheme: https, redirectCode: 308, port: 8443}
      - match: [{uri: {prefix: /direct}}]
        directResponse: {status: 503, body: {string: sorry}}
      - route: [{destination: {host: reviews, subset: v1}}]
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: reviews}
    spec:
      host: reviews
      trafficPolicy:
        connectionPool:
          tcp: {maxConnections: 5, connectTimeout: 1s, tcpKeepalive: {probes: 3, time: 60s}, maxConnectionDuration: 1h}
          http: {maxRequestsPerConnection: 3, idleTimeout: 10s, http2MaxRequests: 7, maxRetries: 2}
        outlierDetection: {consecutive5xxErrors: 3, consecutiveGatewayErrors: 0, interval: 1s, baseEjectionTime: 5s,
                           maxEjectionPercent: 50, splitExternalLocalOriginErrors: true,
                           consecutiveLocalOriginFailures: 2, minHealthPercent: 10}
        loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s, path: /}}}
        retryBudget: {percent: 10, minRetryConcurrency: 1}
      subsets:
      - name: v1
        labels: {version: v1}
        trafficPolicy:
          loadBalancer: {simple: LEAST_REQUEST, warmup: {duration: 10s, minimumPercent: 5, aggression: 2}}
      - name: v2
        labels: {version: v2}
        trafficPolicy:
          loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}
          proxyProtocol: {version: V2}
      - name: v3
        labels: {version: v3}
        trafficPolicy:
          loadBalancer: {localityLbSetting: {distribute: [{from: "*", to: {"*": 100}}]}}
          tls: {mode: DISABLE}
          proxyProtocol: {}
      - name: v4
        labels: {version: v4}
        trafficPolicy:
          loadBalancer: {localityLbSetting: {failoverPriority: [app], failover: [{from: eu, to: us}]}}
          proxyProtocol: {version: V1}
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: api}
    spec:
      hosts: [api.example.com]
      resolution: DNS
      ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: api, annotations: {proxyless.io/load-balancing: client_side_weighted_round_robin}}
    spec: {host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: round}
    spec:
      hosts: [round.example.com]
      resolution: DNS_ROUND_ROBIN
      ports: [{number: 80, name: grpc, protocol: GRPC}]
    ---
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: any}
    spec:
      hosts: ["*.any.example.com"]
      resolution: NONE
      ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: mutual}
    spec: {ports: [{name: grpc, port: 80}]}
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: mutual}
    spec: {host: mutual, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, loadBalancer: {simple: PASSTHROUGH}}}
"""


@pytest.fixture(scope="module")
def everything() -> World:
    return world(
        EVERYTHING,
        workload("reviews", version="v1", port=1, zone="a"),
        workload("reviews", version="v2", port=2, draining=True),
        workload("ratings", ports={"grpc": 3}),
    )


def envoy_clusters(translator: Translator) -> list[Any]:
    return [decode(type_urls.CLUSTER, one) for one in translator.resources(ENVOY, type_urls.CLUSTER, ["*"]).values()]


def test_envoy_accepts_everything(everything: World, tmp_path: Path) -> None:
    translator = Translator(everything)
    clusters = envoy_clusters(translator)
    names = [target.name for target in translator.targets(ENVOY)]
    route_names = [f"a.any.example.com:{port}" for port in (80,)] + names
    configurations = [
        decode(type_urls.ROUTE, one) for one in translator.resources(ENVOY, type_urls.ROUTE, route_names).values()
    ]
    assert len(clusters) > 12
    assert len(configurations) > 5
    assignments = [
        decode(type_urls.ENDPOINT, one)
        for one in translator.resources(
            ENVOY, type_urls.ENDPOINT, [one.name for one in clusters if one.type == one.EDS]
        ).values()
    ]
    bootstrap = {
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}],
            }
        },
        "static_resources": {
            "clusters": [
                *(_pipe_cluster(name, tmp_path) for name in ("control-plane", "sds-grpc")),
                *(_json(one) for one in clusters),
                *(_static_cluster(index, one) for index, one in enumerate(assignments)),
            ],
            "listeners": [_listener(index, one, tmp_path) for index, one in enumerate(configurations)],
        },
    }
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    envoy = Path(sys.executable).with_name("envoy")
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", path, "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout + done.stderr


def _json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _pipe_cluster(name: str, directory: Path) -> Any:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(directory / name)}}}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _static_cluster(index: int, assignment: Any) -> Any:
    return {"name": f"static-{index}", "type": "STATIC", "load_assignment": _json(assignment)}


def _listener(index: int, configuration: Any, directory: Path) -> Any:
    """A listener with the filters of a sidecar's, so that what routes say of filters is validated too."""
    base = "type.googleapis.com/envoy.extensions.filters"
    filters = [("fault", "fault.v3.HTTPFault"), ("cors", "cors.v3.Cors"), ("router", "router.v3.Router")]
    manager = {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"listener-{index}",
        # Envoy's RDS does not check that clusters exist: Istio sends routes to services that do not.
        "route_config": {**_json(configuration), "validate_clusters": False},
        "http_filters": [
            {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{base}.http.{kind}"}}
            for name, kind in filters
        ],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": f"listener-{index}",
        "address": {"pipe": {"path": str(directory / f"listener-{index}")}},
        "filter_chains": [{"filters": [network]}],
    }


def compiled(translator: Translator, *targets: str) -> Any:
    """What the library makes of the resources it would be sent, asked for as a client asks: LDS, RDS, CDS, EDS."""
    resources: dict[str, dict[str, bytes]] = {url: {} for url in MESSAGES}
    asked = {url: set[str]() for url in MESSAGES}
    asked[type_urls.LISTENER] = set(targets)
    asked[type_urls.ROUTE] = {target.name for target in translator.targets(LIBRARY)}
    for _ in range(2):
        for url in type_urls.PUSH_ORDER:
            for name, one in translator.resources(LIBRARY, url, sorted(asked[url])).items():
                resources[url][name] = one.any.SerializeToString()
        for data in translator.resources(LIBRARY, type_urls.ROUTE, sorted(asked[type_urls.ROUTE])).values():
            for route in decode(type_urls.ROUTE, data).virtual_hosts[0].routes:
                names = {one.name for one in route.route.weighted_clusters.clusters} | {route.route.cluster}
                asked[type_urls.CLUSTER] |= names - {""}
        asked[type_urls.ENDPOINT] = asked[type_urls.CLUSTER]
    return compile_snapshot(resources, targets)


def test_the_library_compiles_everything(everything: World) -> None:
    translator = Translator(everything)
    targets = [target.name for target in translator.targets(LIBRARY)]
    snapshot = compiled(translator, *targets)
    for target in targets:
        listener = snapshot.listeners[target]
        assert listener is not None, target
        assert listener.virtual_host is not None
        assert "refused" not in listener.virtual_host.name, listener
        assert listener.ignored == (), listener.ignored
    for cluster in snapshot.clusters.values():
        assert "refused" not in cluster.problem, cluster
    route = snapshot.listeners[f"{HOST}:80"].virtual_host.routes[-1]
    assert route.origin == "VirtualService default/reviews http[3]"
    assert isinstance(route.action, Forward)
    assert route.action.timeout is None
    assert route.action.retry is not None
    assert "reset-idempotent" in route.action.retry.conditions


def test_the_library_sees_services_identities_and_health(everything: World) -> None:
    snapshot = compiled(Translator(everything), f"{HOST}:80")
    cluster = snapshot.clusters[f"outbound|80|v1|{HOST}"]
    assert (cluster.kind, cluster.load_balancer) == (ClusterKind.ENDPOINTS, LoadBalancer.LEAST_REQUEST)
    assert (cluster.service, cluster.service_namespace, cluster.service_host) == ("reviews", "default", HOST)
    (endpoint,) = cluster.endpoints
    assert endpoint.labels["version"] == "v1"
    assert endpoint.labels["workload"] == "reviews-v1"
    assert endpoint.tls is not None
    assert endpoint.tls.identity
    assert [one.value for one in endpoint.tls.san] == ["spiffe://cluster.local/ns/default/sa/reviews"]
    (draining,) = snapshot.clusters[f"outbound|80|v2|{HOST}"].endpoints
    assert draining.health is Health.DRAINING

"""What a well-formed resource may not say: one row a rule, each naming the field it is about."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from proxyless.control_plane.resources.coverage import NOT_ACTED_ON
from proxyless.control_plane.resources.kinds import KINDS
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.validation.references import check_references

API = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "WorkloadEntry": "networking.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
}
ROUTE: dict[str, Any] = {"route": [{"destination": {"host": "a"}}]}
ABORT = {"httpStatus": 599, "percentage": {"value": 50}}
MUTUAL = {"mode": "MUTUAL", "clientCertificate": "c", "privateKey": "k"}
SLICE_LABELS = {"kubernetes.io/service-name": "a"}


def problems_of(kind: str, spec: dict[str, Any], level: Level = Level.ERROR) -> list[Problem]:
    document: dict[str, Any] = {
        "apiVersion": API[kind],
        "kind": kind,
        "metadata": {"name": "a", "labels": SLICE_LABELS},
    }
    document |= spec if kind == "EndpointSlice" else {"spec": spec}
    resources, problems = parse(json.dumps(document), "a.json")
    assert bool(resources) != any(problem.level is Level.ERROR for problem in problems)
    return [problem for problem in problems if problem.level is level]


def http(**fields: Any) -> dict[str, Any]:
    return {"hosts": ["a"], "http": [{**ROUTE, **fields}]}


def match(**fields: Any) -> dict[str, Any]:
    return http(match=[fields])


def rule(**policy: Any) -> dict[str, Any]:
    return {"host": "a", "trafficPolicy": policy}


def entry(**fields: Any) -> dict[str, Any]:
    return {"hosts": ["example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], **fields}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("VirtualService", http()),
    ("VirtualService", match(uri={"prefix": "/"}, headers={"x": {}}, withoutHeaders={"y": {"regex": ".*"}}, port=80)),
    ("VirtualService", match(queryParams={"q": {"exact": ""}}, sourceLabels={"app.io/x": "1"}, sourceNamespace="a")),
    (
        "VirtualService",
        http(headers={"request": {"set": {"x": "100%% %PROTOCOL%", ":authority": "b"}, "remove": ["y"]}}),
    ),
    ("VirtualService", http(headers={"request": {"set": {"x": "%START_TIME(%s)% %REQ(:path?x-a):10%"}}})),
    ("VirtualService", http(timeout="0s", retries={"attempts": 0})),
    ("VirtualService", http(retries={"attempts": 3, "retryOn": "5xx,503, unavailable", "perTryTimeout": "1s"})),
    ("VirtualService", http(fault={"delay": {"fixedDelay": "2s", "percentage": {"value": 0.1}}, "abort": ABORT})),
    ("VirtualService", http(fault={"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}})),
    ("VirtualService", {"hosts": ["a"], "http": [{"redirect": {"uri": "/b", "redirectCode": 308}}]}),
    ("VirtualService", {"hosts": ["a"], "http": [{"redirect": {"derivePort": "FROM_REQUEST_PORT"}}]}),
    ("VirtualService", {"hosts": ["a"], "http": [{"directResponse": {"status": 503, "body": {"bytes": "eA=="}}}]}),
    ("VirtualService", {"hosts": ["a"], "http": [{"match": [], "delegate": {"name": "b"}}]}),
    ("VirtualService", {"http": [ROUTE]}),
    ("VirtualService", {"hosts": ["*.example.com", "10.0.0.1"], "gateways": ["mesh", "ns/gw"], "http": [ROUTE]}),
    ("VirtualService", {"hosts": ["*"], "gateways": ["ns/gw"], "http": [ROUTE]}),
    ("VirtualService", {**http(), "exportTo": ["."]}),
    ("DestinationRule", {"host": "a"}),
    ("DestinationRule", {"host": "*.svc.cluster.local", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}),
    (
        "DestinationRule",
        rule(loadBalancer={"simple": "LEAST_REQUEST"}, connectionPool={"tcp": {"connectTimeout": "1s"}}),
    ),
    (
        "DestinationRule",
        rule(tls={"mode": "SIMPLE", "sni": "x"}, portLevelSettings=[{"port": {"number": 80}, "tls": {}}]),
    ),
    ("DestinationRule", rule(outlierDetection={"consecutive5xxErrors": 0, "interval": "1s"})),
    ("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "10.0.0.1", "ports": {"http": 8080}}])),
    ("ServiceEntry", entry(resolution="DNS", endpoints=[{"address": "backend.example.com"}])),
    ("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "unix:///run/a.sock"}])),
    ("WorkloadEntry", {"address": "10.0.0.1", "locality": "r/z/s", "weight": "3"}),
    ("PeerAuthentication", {}),
    ("PeerAuthentication", {"mtls": {"mode": "STRICT"}}),
    ("PeerAuthentication", {"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"80": {"mode": "DISABLE"}}}),
    ("Service", {"ports": [{"port": 80, "targetPort": "http", "appProtocol": "whatever/x"}], "selector": {"app": "a"}}),
    ("Service", {"clusterIP": "None"}),
    ("Service", {"type": "ExternalName", "externalName": "example.com"}),
    ("EndpointSlice", {"addressType": "IPv6", "endpoints": [{"addresses": ["::1"]}], "ports": [{"port": 80}]}),
]

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("VirtualService", {"hosts": [], "gateways": ["g"], "http": [ROUTE]}, "spec.gateways", "delegate"),
    ("VirtualService", {"hosts": ["a"]}, "spec", "one of http, tls, tcp"),
    ("VirtualService", {"hosts": ["*"], "http": [ROUTE]}, "spec.hosts[0]", "not for the mesh"),
    ("VirtualService", {"hosts": ["a b"], "http": [ROUTE]}, "spec.hosts[0]", "neither a DNS name"),
    ("VirtualService", {"hosts": ["a", "a"], "http": [ROUTE]}, "spec.hosts[1]", "duplicate"),
    ("VirtualService", {"hosts": ["*.b.com", "a.b.com"], "http": [ROUTE]}, "spec.hosts[1]", "duplicate"),
    ("VirtualService", {**http(), "gateways": ["Ns/gw"]}, "spec.gateways[0]", "not a gateway"),
    ("VirtualService", {**http(), "exportTo": ["*", "b"]}, "spec.exportTo", "no other namespace"),
    ("VirtualService", {"hosts": ["a"], "http": [{}]}, "spec.http[0]", "one of route, redirect"),
    ("VirtualService", http(redirect={"uri": "/"}), "spec.http[0].route", "not allowed beside redirect"),
    ("VirtualService", http(directResponse={"status": 200}), "spec.http[0].route", "beside directResponse"),
    ("VirtualService", http(delegate={"name": "b"}), "spec.http[0].route", "beside delegate"),
    ("VirtualService", {"http": [{"delegate": {"name": "b"}}]}, "spec.http[0].delegate", "cannot delegate again"),
    ("VirtualService", match(uri={"exact": "/", "prefix": "/"}), "spec.http[0].match[0].uri", "only one of"),
    ("VirtualService", match(uri={}), "spec.http[0].match[0].uri", "one of exact, prefix, regex"),
    ("VirtualService", match(uri={"regex": "a("}), "spec.http[0].match[0].uri.regex", "missing )"),
    ("VirtualService", match(uri={"regex": "(?=a)"}), "spec.http[0].match[0].uri.regex", "RE2"),
    ("VirtualService", match(uri={"regex": "a" * 1025}), "spec.http[0].match[0].uri.regex", "1024"),
    ("VirtualService", match(uri={"prefix": ""}), "spec.http[0].match[0].uri.prefix", "must not be empty"),
    ("VirtualService", match(headers={"a b": {}}), 'spec.http[0].match[0].headers["a b"]', "not an HTTP header"),
    ("VirtualService", match(port=0), "spec.http[0].match[0].port", "greater than or equal to 1"),
    ("VirtualService", match(sourceNamespace="A"), "spec.http[0].match[0].sourceNamespace", "not a namespace"),
    ("VirtualService", http(timeout="1us"), "spec.http[0].timeout", "at least 1ms"),
    ("VirtualService", http(timeout="-1s"), "spec.http[0].timeout", "at least 1ms"),
    ("VirtualService", http(retries={"attempts": -1}), "spec.http[0].retries.attempts", "negative"),
    ("VirtualService", http(retries={"attempts": 0, "retryOn": "5xx"}), "spec.http[0].retries", "disables retries"),
    ("VirtualService", http(retries={"attempts": 1, "retryOn": "6xx"}), "spec.http[0].retries.retryOn", "'6xx'"),
    ("VirtualService", http(fault={}), "spec.http[0].fault", "a delay, an abort or both"),
    (
        *("VirtualService", http(fault={"delay": {"fixedDelay": "1s", "percentage": {"value": 101}}})),
        *("spec.http[0].fault.delay.percentage.value", "101 is not a percentage"),
    ),
    ("VirtualService", http(fault={"abort": {"httpStatus": 199}}), "spec.http[0].fault.abort.httpStatus", "200 to 599"),
    (
        "VirtualService",
        http(fault={"abort": {"grpcStatus": "NO"}}),
        "spec.http[0].fault.abort.grpcStatus",
        "UNAVAILABLE",
    ),
    (
        *("VirtualService", http(headers={"response": {"add": {"x": "a\r\nb: c"}}})),
        *("spec.http[0].headers.response.add.x", "line breaks"),
    ),
    ("VirtualService", http(headers={"request": {"set": {"x": "5%"}}}), "spec.http[0].headers.request.set.x", "%%"),
    (
        "VirtualService",
        http(rewrite={"uriRegexRewrite": {"match": "/(a)", "rewrite": r"/\2"}}),
        "spec.http[0].rewrite.uriRegexRewrite.rewrite",
        "names group 2, but match has 1",
    ),
    (
        "VirtualService",
        http(rewrite={"uriRegexRewrite": {"match": "/(a)", "rewrite": r"/\a"}}),
        "spec.http[0].rewrite.uriRegexRewrite.rewrite",
        "backslash",
    ),
    (
        "VirtualService",
        http(headers={"request": {"set": {"x": "%UNKNOWN%"}}}),
        "spec.http[0].headers.request.set.x",
        "%UNKNOWN% is no command operator",
    ),
    (
        "VirtualService",
        http(headers={"response": {"add": {"x": "%REQ(a):%"}}}),
        "spec.http[0].headers.response.add.x",
        "single %",
    ),
    (
        *("VirtualService", http(headers={"request": {"set": {":path": "/"}}})),
        *('spec.http[0].headers.request.set[":path"]', "cannot be changed"),
    ),
    (
        *("VirtualService", http(headers={"request": {"set": {"host": "b"}}}, rewrite={"authority": "c"})),
        *("spec.http[0]", "set more than once"),
    ),
    ("VirtualService", http(rewrite={}), "spec.http[0].rewrite", "one of uri, authority"),
    (
        *("VirtualService", http(rewrite={"uriRegexRewrite": {"match": "("}})),
        *("spec.http[0].rewrite.uriRegexRewrite.match", "regex"),
    ),
    ("VirtualService", {"hosts": ["a"], "http": [{"redirect": {}}]}, "spec.http[0].redirect", "one of uri"),
    (
        *("VirtualService", {"hosts": ["a"], "http": [{"redirect": {"uri": "/", "redirectCode": 200}}]}),
        *("spec.http[0].redirect.redirectCode", "301"),
    ),
    (
        *("VirtualService", {"hosts": ["a"], "http": [{"redirect": {"uri": "/\r\nx: y"}}]}),
        *("spec.http[0].redirect.uri", "line breaks"),
    ),
    (
        *("VirtualService", {"hosts": ["a"], "http": [{"directResponse": {"status": 200, "body": {"bytes": "!"}}}]}),
        *("spec.http[0].directResponse.body.bytes", "base64"),
    ),
    (
        *("VirtualService", http(route=[{"destination": {"host": "a"}}, {"destination": {"host": "b"}, "weight": 0}])),
        *("spec.http[0].route", "all weights are 0"),
    ),
    (
        *("VirtualService", http(route=[{"destination": {"host": "a"}, "weight": -1}])),
        *("spec.http[0].route[0].weight", "negative"),
    ),
    (
        *("VirtualService", http(route=[{"destination": {"host": "*"}}])),
        *("spec.http[0].route[0].destination.host", "not a host"),
    ),
    ("DestinationRule", {}, "spec.host", "is required"),
    (
        "DestinationRule",
        rule(loadBalancer={"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 4}}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        "prime",
    ),
    (
        "DestinationRule",
        rule(loadBalancer={"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 5_000_077}}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        "at most 5000011",
    ),
    (
        "DestinationRule",
        rule(loadBalancer={"consistentHash": {"useSourceIp": True, "ringHash": {"minimumRingSize": 8_388_609}}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
        "at most 8388608",
    ),
    ("DestinationRule", rule(), "spec.trafficPolicy", "at least one field"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "v1"}, {"name": "v1"}]}, "spec.subsets[1].name", "twice"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "V1"}]}, "spec.subsets[0].name", "subset name"),
    ("DestinationRule", rule(loadBalancer={"simple": "BEST"}), "spec.trafficPolicy.loadBalancer.simple", "ROUND_ROBIN"),
    (
        *("DestinationRule", rule(loadBalancer={"simple": "RANDOM", "consistentHash": {"useSourceIp": True}})),
        *("spec.trafficPolicy.loadBalancer", "only one of simple, consistentHash"),
    ),
    ("DestinationRule", rule(connectionPool={}), "spec.trafficPolicy.connectionPool", "one of tcp, http"),
    (
        *("DestinationRule", rule(connectionPool={"tcp": {"connectTimeout": "0s"}})),
        *("spec.trafficPolicy.connectionPool.tcp.connectTimeout", "1ms"),
    ),
    (
        *("DestinationRule", rule(tls={"mode": "MUTUAL"})),
        *("spec.trafficPolicy.tls.clientCertificate", "required in mode MUTUAL"),
    ),
    (
        *("DestinationRule", rule(tls={"mode": "ISTIO_MUTUAL", "caCertificates": "x"})),
        *("spec.trafficPolicy.tls", "mesh's own certificates"),
    ),
    (
        *("DestinationRule", rule(portLevelSettings=[{"tls": {}}])),
        *("spec.trafficPolicy.portLevelSettings[0].port", "is required"),
    ),
    ("ServiceEntry", entry(hosts=[]), "spec.hosts", "at least one host"),
    ("ServiceEntry", entry(hosts=["*"]), "spec.hosts[0]", "not a DNS name"),
    ("ServiceEntry", entry(endpoints=[{"address": "10.0.0.1"}]), "spec.endpoints", "resolution NONE"),
    (
        *("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "a.b"}])),
        *("spec.endpoints[0].address", "not an IP address"),
    ),
    (
        *("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "10.0.0.1", "ports": {"x": 1}}])),
        *("spec.endpoints[0].ports.x", "has no port x"),
    ),
    ("ServiceEntry", entry(resolution="DNS", hosts=["*.example.com"]), "spec.hosts[0]", "wildcard"),
    ("ServiceEntry", entry(addresses=["10.0.0.0/8"], resolution="DNS"), "spec.addresses", "CIDR"),
    ("WorkloadEntry", {}, "spec.address", "is required"),
    ("WorkloadEntry", {"address": "10.0.0.1", "ports": {"http": 0}}, "spec.ports.http", "greater than or equal"),
    ("PeerAuthentication", {"portLevelMtls": {"80": {}}}, "spec.portLevelMtls", "selector"),
    ("PeerAuthentication", {"mtls": {"mode": "STRICTER"}}, "spec.mtls.mode", "PERMISSIVE"),
    ("Service", {}, "spec.ports", "at least one port"),
    ("Service", {"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name", "more than one port"),
    ("Service", {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, "spec.ports[1].port", "twice"),
    ("Service", {"ports": [{"port": 80, "targetPort": "UPPER"}]}, "spec.ports[0].targetPort", "name of a port"),
    ("Service", {"ports": [{"port": 70000}]}, "spec.ports[0].port", "less than or equal to 65535"),
    ("Service", {"ports": [{"port": True}]}, "spec.ports[0].port", "must be an integer"),
    (
        "EndpointSlice",
        {"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]},
        "endpoints[0].addresses[0]",
        "IPv4",
    ),
    ("EndpointSlice", {"endpoints": []}, "addressType", "is required"),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD, ids=lambda value: value if isinstance(value, str) else "")
def test_sensible_resources_are_accepted(kind: str, spec: dict[str, Any]) -> None:
    assert problems_of(kind, spec) == []


@pytest.mark.parametrize(("kind", "spec", "field", "words"), BAD, ids=[f"{row[0]} {row[2]}: {row[3]}" for row in BAD])
def test_senseless_resources_are_refused(kind: str, spec: dict[str, Any], field: str, words: str) -> None:
    problems = problems_of(kind, spec)
    found = [problem for problem in problems if problem.field == field and words in problem.message]
    assert found, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("kind", "spec", "code", "field"),
    [
        (
            *("VirtualService", {"hosts": ["a"], "http": [ROUTE, ROUTE]}),
            *("VirtualServiceUnreachableRule", "spec.http[1]"),
        ),
        (
            *(
                "VirtualService",
                {"hosts": ["a"], "http": [{**ROUTE, "match": [{"uri": {"exact": "/"}, "name": n}]} for n in "ab"]},
            ),
            *("VirtualServiceIneffectiveMatch", "spec.http[1].match[0]"),
        ),
        ("VirtualService", http(fault={"abort": {}}), "SchemaValidationError", "spec.http[0].fault.abort"),
        (
            *("VirtualService", http(fault={"delay": {"fixedDelay": "1s", "percent": 5}})),
            *("Deprecated", "spec.http[0].fault.delay.percent"),
        ),
        (
            "DestinationRule",
            rule(loadBalancer={"simple": "LEAST_CONN"}),
            "Deprecated",
            "spec.trafficPolicy.loadBalancer.simple",
        ),
        # Valid fields that do nothing yet.
        ("VirtualService", http(corsPolicy={"allowMethods": ["GET"]}), "FieldNotActedOn", "spec.http[0].corsPolicy"),
        ("VirtualService", {**http(), "gateways": ["gw"]}, "FieldNotActedOn", "spec.gateways"),
        (
            "DestinationRule",
            rule(connectionPool={"http": {"useClientProtocol": True}}),
            "FieldNotActedOn",
            "spec.trafficPolicy.connectionPool.http.useClientProtocol",
        ),
        (
            *("DestinationRule", {"host": "a", "subsets": [{"name": "v1", "trafficPolicy": {"proxyProtocol": {}}}]}),
            *("FieldNotActedOn", "spec.subsets[0].trafficPolicy.proxyProtocol"),
        ),
        ("DestinationRule", rule(tls=MUTUAL), "FieldNotActedOn", "spec.trafficPolicy.tls.mode"),
        (
            *("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "unix:///a"}])),
            *("FieldNotActedOn", "spec.endpoints[0].address"),
        ),
        (
            "VirtualService",
            http(fault={"abort": {"httpStatus": 503}}),
            "SchemaValidationError",
            "spec.http[0].fault.abort",
        ),
        (
            "Service",
            {"ports": [{"port": 80}], "sessionAffinity": "ClientIP"},
            "FieldNotActedOn",
            "spec.sessionAffinity",
        ),
    ],
)
def test_warnings(kind: str, spec: dict[str, Any], code: str, field: str) -> None:
    problems = problems_of(kind, spec, Level.WARNING)
    assert (code, field) in [(problem.code, problem.field) for problem in problems], [str(p) for p in problems]


def test_what_is_acted_on_and_what_changes_nothing_is_not_reported() -> None:
    for kind, spec in GOOD[:8]:
        assert problems_of(kind, spec, Level.WARNING) == []
    assert problems_of("Service", {"ports": [{"port": 80}], "sessionAffinity": "None"}, Level.WARNING) == []


def _patterns(model: type[BaseModel], path: str) -> Iterator[str]:
    """Every field path that a model knows, without list indexes and map keys."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}".lstrip(".")
        yield here
        for inner in _models(field.annotation):
            yield from _patterns(inner, here)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def test_the_table_of_fields_not_acted_on_names_fields_that_exist() -> None:
    for kind, fields in NOT_ACTED_ON.items():
        known = set(_patterns(KINDS[kind].spec, KINDS[kind].root))
        assert set(fields) <= known, kind


VS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: shop}
spec:
  hosts: [HOST]
  http:
  - route:
    - destination: {host: DESTINATION, subset: v1}
"""
WORLD = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com, "*.wild.example.com"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
"""


def references(text: str, hosts: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    resources, problems = parse(text, "mesh.yaml")
    assert not [problem for problem in problems if problem.level is Level.ERROR]
    found = check_references({resource.key: resource for resource in resources}, hosts)
    assert all(problem.level is Level.WARNING and problem.line for problem in found)
    return [(problem.code, problem.field) for problem in found]


def virtual_service(name: str = "a", host: str = "reviews", destination: str = "reviews") -> str:
    return VS.replace("NAME", name).replace("HOST", host).replace("DESTINATION", destination)


HOST = ("ReferencedResourceNotFound", "spec.http[0].route[0].destination.host")
SUBSET = ("ReferencedResourceNotFound", "spec.http[0].route[0].destination.subset")


@pytest.mark.parametrize(
    ("text", "hosts", "expected"),
    [
        (WORLD, (), []),
        (f"{WORLD}---{virtual_service()}", (), []),
        (f"{WORLD}---{virtual_service(destination='reviews.shop')}", (), []),
        (f"{WORLD}---{virtual_service(destination='reviews.shop.svc.cluster.local')}", (), []),
        (f"{WORLD}---{virtual_service(destination='revews')}", (), [HOST]),
        (f"{WORLD}---{virtual_service(destination='reviews.other')}", (), [HOST]),
        (f"{WORLD}---{virtual_service(destination='api.example.com')}", (), [SUBSET]),
        (f"{WORLD}---{virtual_service(destination='x.wild.example.com')}", (), [SUBSET]),
        (f"{WORLD}---{virtual_service().replace('subset: v1', 'subset: v2')}", (), [SUBSET]),
        (virtual_service().replace(", subset: v1", ""), (), [HOST]),
        (virtual_service().replace(", subset: v1", ""), ("reviews.shop.svc.cluster.local",), []),
        (
            f"{WORLD}---{virtual_service('a')}---{virtual_service('b', 'reviews.shop.svc.cluster.local')}",
            (),
            [("ConflictingMeshGatewayVirtualServiceHosts", "spec.hosts[0]")],
        ),
    ],
)
def test_references(text: str, hosts: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert references(text, hosts) == expected


BY_LOAD = "client_side_weighted_round_robin"


@pytest.mark.parametrize(
    ("value", "balancer", "words"),
    [
        (BY_LOAD, {}, ""),
        (BY_LOAD, {"simple": "UNSPECIFIED", "localityLbSetting": {"enabled": False}}, ""),
        ("CLIENT_SIDE_WEIGHTED_ROUND_ROBIN", {}, "use client_side_weighted_round_robin"),
        ("least_request", {}, "set spec.trafficPolicy.loadBalancer"),
        ("", {}, "use client_side_weighted_round_robin"),
        (BY_LOAD, {"simple": "RANDOM"}, "together with spec.trafficPolicy.loadBalancer.simple"),
        (
            BY_LOAD,
            {"consistentHash": {"useSourceIp": True}},
            "together with spec.trafficPolicy.loadBalancer.consistentHash",
        ),
    ],
)
def test_the_annotation_that_chooses_a_balancer(value: str, balancer: dict[str, Any], words: str) -> None:
    text = f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: a
  annotations:
    other: x
    proxyless.io/load-balancing: "{value}"
spec: {json.dumps(rule(loadBalancer=balancer))}
"""
    _, problems = parse(text, "a.yaml")
    if not words:
        assert problems == []
        return
    (problem,) = problems
    assert (problem.level, problem.file, problem.line) == (Level.ERROR, "a.yaml", 8)
    assert problem.field == 'metadata.annotations["proxyless.io/load-balancing"]'
    assert words in problem.message

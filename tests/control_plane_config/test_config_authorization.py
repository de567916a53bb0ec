"""What an AuthorizationPolicy and a RequestAuthentication may say: one row a rule, each naming the field."""

import json
from typing import Any

import jwt.algorithms
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level, Problem

TARGET = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}
KEY = '{"kty": "oct", "k": "AQIDBA"}'
PRIVATE = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
KEYS = f'{{"keys": [{KEY}]}}'


def problems_of(kind: str, spec: dict[str, Any], level: Level, **metadata: Any) -> list[Problem]:
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "a", **metadata},
        "spec": spec,
    }
    resources, problems = parse(json.dumps(document), "a.json")
    assert bool(resources) != any(problem.level is Level.ERROR for problem in problems)
    return [problem for problem in problems if problem.level is level]


def source(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"from": [{"source": fields}]}]}


def operation(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"to": [{"operation": fields}]}]}


def when(key: str, *values: str) -> dict[str, Any]:
    return {"rules": [{"when": [{"key": key, "values": list(values)}]}]}


def custom(**rule: Any) -> dict[str, Any]:
    return {"action": "CUSTOM", "provider": {"name": "p"}, "rules": [rule]}


def token(**fields: Any) -> dict[str, Any]:
    return {"jwtRules": [{"issuer": "i", "jwks": KEYS, **fields}]}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("AuthorizationPolicy", {}),
    ("AuthorizationPolicy", {"rules": [{}]}),
    ("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}),
    ("AuthorizationPolicy", {"selector": {"matchLabels": {"app": "a"}}}),
    ("AuthorizationPolicy", source(principals=["*", "cluster.local/ns/a/sa/b", "*/sa/b"], notNamespaces=["a", "b-*"])),
    ("AuthorizationPolicy", source(serviceAccounts=["a", "b/c"], ipBlocks=["10.0.0.1", "10.1.2.3/8", "::1/128"])),
    ("AuthorizationPolicy", source(requestPrincipals=["*"], remoteIpBlocks=["0.0.0.0/0"])),
    ("AuthorizationPolicy", operation(ports=["80"], methods=["GET"], paths=["/a*", "*/b"])),
    ("AuthorizationPolicy", operation(paths=["/a/{*}/b/{**}", "/{*}.js", "/{**}/end"], notPaths=["/"])),
    ("AuthorizationPolicy", when("request.headers[x-a]", "*")),
    ("AuthorizationPolicy", when("request.auth.claims[a][b]", "v")),
    ("AuthorizationPolicy", when("connection.sni", "*.a")),
    ("AuthorizationPolicy", when("source.serviceAccount", "a/b")),
    ("RequestAuthentication", {}),
    ("RequestAuthentication", token(audiences=["a"], forwardOriginalToken=True, fromCookies=["c"], timeout="1s")),
    ("RequestAuthentication", token(fromHeaders=[{"name": "x-jwt", "prefix": "T "}], fromParams=["p"])),
    ("RequestAuthentication", token(outputClaimToHeaders=[{"header": "x-sub", "claim": "sub"}])),
    ("RequestAuthentication", token(jwks=KEY)),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_sensible_policies_are_accepted(kind: str, spec: dict[str, Any]) -> None:
    assert problems_of(kind, spec, Level.ERROR) == problems_of(kind, spec, Level.WARNING) == []


RULE = "spec.rules[0]"
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"action": "DENY"}, "spec.rules", "never acts"),
    ({"action": "CUSTOM", "provider": {"name": "p"}}, "spec.rules", "never acts"),
    ({"action": "CUSTOM", "rules": [{}]}, "spec.provider.name", "required"),
    ({"action": "REFUSE"}, "spec.action", "must be one of"),
    ({"provider": {"name": "p"}}, "spec.provider", "only for action CUSTOM"),
    ({"selector": {}, "targetRefs": [TARGET]}, "spec", "only one of"),
    ({"targetRefs": [{**TARGET, "kind": "Pod"}]}, "spec.targetRefs[0].kind", "is not one of"),
    ({"targetRefs": [{**TARGET, "name": ""}]}, "spec.targetRefs[0].name", "required"),
    ({"targetRefs": [{**TARGET, "namespace": "b"}]}, "spec.targetRefs[0].namespace", "must not be set"),
    ({"rules": [None]}, RULE, "must be a mapping"),
    ({"rules": [{"from": []}]}, f"{RULE}.from", "must not be empty"),
    ({"rules": [{"to": []}]}, f"{RULE}.to", "must not be empty"),
    ({"rules": [{"from": [{}]}]}, f"{RULE}.from[0].source", "must say something"),
    ({"rules": [{"to": [{}]}]}, f"{RULE}.to[0].operation", "must say something"),
    (source(), f"{RULE}.from[0].source", "must say something"),
    (source(principals=[""]), f"{RULE}.from[0].source.principals[0]", "must not be empty"),
    (source(principals=["*" + "a" * 600]), f"{RULE}.from[0].source.principals[0]", "at most 512"),
    (source(namespaces=["a" * 600]), f"{RULE}.from[0].source.namespaces[0]", "at most 512"),
    (source(namespaces=["a"], serviceAccounts=["b"]), f"{RULE}.from[0].source.serviceAccounts", "beside"),
    (source(serviceAccounts=["*"]), f"{RULE}.from[0].source.serviceAccounts[0]", "without wildcards"),
    (source(serviceAccounts=["a/b/c"]), f"{RULE}.from[0].source.serviceAccounts[0]", "NAMESPACE/NAME"),
    (source(notServiceAccounts=["a"] * 17), f"{RULE}.from[0].source.notServiceAccounts", "at most 16"),
    (source(ipBlocks=["10.0.0.0/255.0.0.0"]), f"{RULE}.from[0].source.ipBlocks[0]", "neither an IP"),
    (source(ipBlocks=["fe80::1%eth0"]), f"{RULE}.from[0].source.ipBlocks[0]", "neither an IP"),
    (source(notRemoteIpBlocks=["10.0.0.0/33"]), f"{RULE}.from[0].source.notRemoteIpBlocks[0]", "neither an IP"),
    (operation(ports=["70000"]), f"{RULE}.to[0].operation.ports[0]", "not a port"),
    (operation(notPorts=["http"]), f"{RULE}.to[0].operation.notPorts[0]", "not a port"),
    (operation(hosts=[""]), f"{RULE}.to[0].operation.hosts[0]", "must not be empty"),
    (operation(paths=["/{*}/{name}"]), f"{RULE}.to[0].operation.paths[0]", "no names"),
    (operation(notPaths=["/a/{name}"]), f"{RULE}.to[0].operation.notPaths[0]", "no names"),
    (operation(paths=["/a}"]), f"{RULE}.to[0].operation.paths[0]", "a path template"),
    (operation(paths=["/*/{*}"]), f"{RULE}.to[0].operation.paths[0]", "no bare asterisks"),
    (operation(paths=["/{**}/{*}"]), f"{RULE}.to[0].operation.paths[0]", "last variable"),
    (operation(paths=["a/{*}"]), f"{RULE}.to[0].operation.paths[0]", "starts with /"),
    (when(""), f"{RULE}.when[0].key", "required"),
    (when("source.ip"), f"{RULE}.when[0]", "one of values, notValues"),
    (when("source.ip", "x"), f"{RULE}.when[0].values[0]", "neither an IP"),
    (when("destination.port", "x"), f"{RULE}.when[0].values[0]", "not a port"),
    (when("destination.labels[a]", "b"), f"{RULE}.when[0].key", "selector"),
    (when("request.headers", "b"), f"{RULE}.when[0].key", "request.headers[NAME]"),
    (when("request.headers[a b]", "b"), f"{RULE}.when[0].key", "not an HTTP header name"),
    (when("request.headersx[a]", "b"), f"{RULE}.when[0].key", "not an attribute"),
    (when("source.pod", "b"), f"{RULE}.when[0].key", "known are"),
    (custom(**{"from": [{"source": {"namespaces": ["a"]}}]}), f"{RULE}.from[0].source.namespaces", "CUSTOM"),
    (custom(when=[{"key": "request.auth.principal", "values": ["a"]}]), f"{RULE}.when[0].key", "CUSTOM"),
]
BAD_JWT: list[tuple[dict[str, Any], str, str]] = [
    ({"jwtRules": [{}]}, "spec.jwtRules[0].issuer", "one of issuer, jwksUri"),
    (token(jwks="{}"), "spec.jwtRules[0].jwks", "Key Set"),
    (token(jwks='{"keys": []}'), "spec.jwtRules[0].jwks", "can verify"),
    (token(jwks='{"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB"}]}'), "spec.jwtRules[0].jwks", "can verify"),
    (token(jwks='{"keys": [{"kty": "EC", "crv": "secp256k1"}, 1]}'), "spec.jwtRules[0].jwks", "can verify"),
    (token(jwks='{"keys": [{"kty": "oct"}]}'), "spec.jwtRules[0].jwks", "can verify"),
    (token(jwks='{"keys": [{"kty": "EC", "crv": []}, {"kty": {}}]}'), "spec.jwtRules[0].jwks", "can verify"),
    (token(jwks="keys"), "spec.jwtRules[0].jwks", "Key Set"),
    (token(jwks=f'{{"keys": [{", ".join([KEY] * 257)}]}}'), "spec.jwtRules[0].jwks", "257 keys, at most 256"),
    (token(jwks=" " * 262_145), "spec.jwtRules[0].jwks", "more than 262144 characters"),
    ({"jwtRules": [{"jwksUri": "https://me:secret@a/b"}]}, "spec.jwtRules[0].jwksUri", "http"),
    ({"jwtRules": [{"jwksUri": "ftp://a/b"}]}, "spec.jwtRules[0].jwksUri", "http"),
    ({"jwtRules": [{"jwksUri": "https://a:99999/b"}]}, "spec.jwtRules[0].jwksUri", "http"),
    (token(audiences=[""]), "spec.jwtRules[0].audiences[0]", "must not be empty"),
    (token(fromParams=[""]), "spec.jwtRules[0].fromParams[0]", "must not be empty"),
    (token(fromHeaders=[{}]), "spec.jwtRules[0].fromHeaders[0].name", "header name"),
    (token(outputPayloadToHeader="a b"), "spec.jwtRules[0].outputPayloadToHeader", "header name"),
    (token(outputClaimToHeaders=[{"header": "a"}]), "spec.jwtRules[0].outputClaimToHeaders[0].claim", "required"),
    (token(timeout="1us"), "spec.jwtRules[0].timeout", "1ms"),
    ({"selector": {}, "targetRef": TARGET}, "spec", "only one of"),
]


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [("AuthorizationPolicy", *row) for row in BAD] + [("RequestAuthentication", *row) for row in BAD_JWT],
)
def test_senseless_policies_are_refused(kind: str, spec: dict[str, Any], field: str, words: str) -> None:
    problems = problems_of(kind, spec, Level.ERROR)
    found = [problem for problem in problems if problem.field == field and words in problem.message]
    assert found, [str(problem) for problem in problems]


def test_a_password_in_a_url_is_not_repeated() -> None:
    spec = {"jwtRules": [{"jwksUri": "https://me:secret@a/b"}]}
    (problem,) = problems_of("RequestAuthentication", spec, Level.ERROR)
    assert "secret" not in str(problem)


DRY_RUN = {"annotations": {"istio.io/dry-run": "true"}}


@pytest.mark.parametrize(
    ("kind", "spec", "metadata", "field", "words"),
    [
        ("AuthorizationPolicy", {"targetRefs": [TARGET]}, {}, "spec.targetRefs", "acts nowhere"),
        ("RequestAuthentication", {"targetRef": TARGET}, {}, "spec.targetRef", "acts nowhere"),
        ("AuthorizationPolicy", {"action": "AUDIT", "rules": [{}]}, {}, "spec.action", "nothing is audited"),
        ("AuthorizationPolicy", custom(), {}, "spec.action", "is denied"),
        *[
            ("AuthorizationPolicy", {}, DRY_RUN, 'metadata.annotations["istio.io/dry-run"]', "not enforced"),
            ("AuthorizationPolicy", {"selector": {}}, {}, "spec.selector", "every workload"),
            ("AuthorizationPolicy", operation(paths=["/a*b"]), {}, f"{RULE}.to[0].operation.paths[0]", "for itself"),
            ("AuthorizationPolicy", operation(hosts=["*a*"]), {}, f"{RULE}.to[0].operation.hosts[0]", "for itself"),
            ("AuthorizationPolicy", when("experimental.envoy.filters.a[b]", "c"), {}, f"{RULE}.when[0].key", "Envoy"),
            ("AuthorizationPolicy", {**operation(paths=["/"]), "action": "DENY"}, {}, RULE, "not HTTP"),
            ("AuthorizationPolicy", operation(hosts=["a"]), {}, f"{RULE}.to[0].operation.hosts", "lets nobody in"),
            (
                "AuthorizationPolicy",
                {**operation(notHosts=["a"]), "action": "DENY"},
                {},
                f"{RULE}.to[0].operation.notHosts",
                "acts whatever",
            ),
            ("AuthorizationPolicy", when("request.headers[Host]", "c"), {}, f"{RULE}.when[0].key", "grpc_interceptor"),
            ("RequestAuthentication", {"jwtRules": [{"issuer": "i"}]}, {}, "spec.jwtRules[0].issuer", "refused"),
            ("RequestAuthentication", token(jwks=PRIVATE), {}, "spec.jwtRules[0].jwks", "private"),
            ("RequestAuthentication", token(jwksUri="http://a"), {}, "spec.jwtRules[0].jwksUri", "not used"),
        ],
    ],
)
def test_warnings(kind: str, spec: dict[str, Any], metadata: dict[str, Any], field: str, words: str) -> None:
    problems = problems_of(kind, spec, Level.WARNING, **metadata)
    assert [problem for problem in problems if problem.field == field and words in problem.message], problems

"""AuthorizationPolicy and RequestAuthentication: which act on a server, and what its listener says then."""

import json
from dataclasses import replace
from typing import Any

import pytest
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from google.protobuf.json_format import MessageToDict
from translate_world import get, notes, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import KeySet, MeshSettings

LIBRARY_PORT = "xds.istio.io/grpc/lds/inbound/0.0.0.0:9080"
SIDECAR_PORT = "inbound|0.0.0.0|9080|8080"
LABELS = {"app": "reviews", "version": "v1"}
CLIENTS = {kind: Client(kind=kind, labels=LABELS) for kind in ClientKind}
ENVOY, LIBRARY, GRPC = (CLIENTS[kind] for kind in (ClientKind.ENVOY, ClientKind.PROXYLESS, ClientKind.GRPC))
KEY = '{"kty": "oct", "k": "AQIDBA"}'
KEYS = f'{{"keys": [{KEY}]}}'


def document(kind: str, spec: dict[str, Any], name: str = "p", **metadata: Any) -> str:
    return json.dumps(
        {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
    )


def policy(spec: dict[str, Any], name: str = "p", **metadata: Any) -> str:
    return document("AuthorizationPolicy", spec, name, **metadata)


def translator(*documents: str, settings: MeshSettings | None = None) -> Translator:
    return Translator(world("\n---\n".join(documents), settings=settings))


def name_for(client: Client) -> str:
    return SIDECAR_PORT if client.kind is ClientKind.ENVOY else LIBRARY_PORT


def filters(made: Translator, client: Client) -> list[Any]:
    """The HTTP filters before the router, which all chains have alike."""
    found = get(made, client, type_urls.LISTENER, name_for(client))
    chains = []
    for chain in found.filter_chains:
        manager = hcm_pb2.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
        assert manager.http_filters[-1].name == "envoy.filters.http.router"
        chains.append(list(manager.http_filters[:-1]))
    assert all(chain == chains[0] for chain in chains)
    return chains[0]


def rules(made: Translator, client: Client = ENVOY) -> list[tuple[str, dict[str, Any]]]:
    """Action and policies of each RBAC filter, in order."""
    found = []
    for one in filters(made, client):
        if one.typed_config.type_url.endswith(".rbac.v3.RBAC"):
            rbac = rbac_pb2.RBAC.FromString(one.typed_config.value)
            assert rbac.HasField("rules")
            assert not rbac.HasField("shadow_rules")
            found.append(("DENY" if rbac.rules.action else "ALLOW", MessageToDict(rbac.rules).get("policies", {})))
    return found


def of_rule(rule: dict[str, Any], client: Client = ENVOY, action: str = "ALLOW", **more: Any) -> Any:
    """What a single rule becomes; None if it lets nobody in."""
    ((acted, policies),) = rules(translator(policy({"rules": [rule], "action": action}), **more), client)
    assert acted == action
    return policies.get("ns[default]-policy[p]-rule[0]")


NEVER = {"permissions": [{"notRule": {"any": True}}], "principals": [{"notId": {"any": True}}]}
ANYBODY = {"andIds": {"ids": [{"any": True}]}}
ANYTHING = {"andRules": {"rules": [{"any": True}]}}


def principal_of(rule: dict[str, Any], **more: Any) -> Any:
    """The only condition on callers."""
    found = of_rule(rule, **more)
    assert found["permissions"] == [ANYTHING]
    ((one,),) = ([*each["andIds"]["ids"]] for each in found["principals"])
    return one


def permission_of(rule: dict[str, Any], **more: Any) -> Any:
    found = of_rule(rule, **more)
    assert found["principals"] == [ANYBODY]
    ((one,),) = ([*each["andRules"]["rules"]] for each in found["permissions"])
    return one


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.kind.value)
def test_without_policies_nothing_is_asked(client: Client) -> None:
    assert filters(translator(), client) == []


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.kind.value)
def test_an_empty_policy_lets_nobody_in(client: Client) -> None:
    assert rules(translator(policy({})), client) == [("ALLOW", {"ns[default]-policy[p]-rule[0]": NEVER})]


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.kind.value)
def test_an_empty_rule_lets_everybody_in(client: Client) -> None:
    assert of_rule({}, client) == {"permissions": [ANYTHING], "principals": [ANYBODY]}


ALLOW, DENY = {"rules": [{}]}, {"rules": [{}], "action": "DENY"}
SELECTED = {"selector": {"matchLabels": {"app": "reviews"}}}


def _policy_of(rule: str) -> str:
    return rule.removeprefix("ns[").partition("]-rule")[0].replace("]-policy[", "/")


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([policy(ALLOW), policy(DENY, "d")], [("DENY", ["default/d"]), ("ALLOW", ["default/p"])]),
        ([policy(ALLOW, namespace="other")], []),
        ([policy(ALLOW, namespace="istio-system")], [("ALLOW", ["istio-system/p"])]),
        ([policy({**ALLOW, **SELECTED}, namespace="istio-system")], [("ALLOW", ["istio-system/p"])]),
        ([policy({**ALLOW, **SELECTED})], [("ALLOW", ["default/p"])]),
        ([policy({**ALLOW, "selector": {"matchLabels": {"app": "ratings"}}})], []),
        # All that select it act together.
        ([policy(ALLOW), policy(ALLOW, "q", namespace="istio-system")], [("ALLOW", ["default/p", "istio-system/q"])]),
        ([policy({"targetRefs": [{"kind": "Service", "name": "reviews"}]})], []),
        ([policy({**ALLOW, "action": "AUDIT"})], []),
        ([policy({}, annotations={"istio.io/dry-run": "true"})], []),
        ([policy({}, annotations={"istio.io/dry-run": "false"})], [("ALLOW", ["default/p"])]),
        # Nobody can ask the authorizer, so it says no.
        ([policy({**ALLOW, "action": "CUSTOM", "provider": {"name": "x"}})], [("DENY", ["default/p"])]),
    ],
)
def test_which_policies_act(documents: list[str], expected: list[tuple[str, list[str]]]) -> None:
    for client in CLIENTS.values():
        found = rules(translator(*documents), client)
        assert [
            (
                action,
                sorted(name.removeprefix("ns[").partition("]-rule")[0].replace("]-policy[", "/") for name in names),
            )
            for action, names in found
        ] == expected


def authenticated(kind: str, value: str) -> dict[str, Any]:
    name = {kind: {"regex": value}} if kind == "safeRegex" else {kind: value}
    return {"orIds": {"ids": [{"authenticated": {"principalName": name}}]}}


def source(**fields: Any) -> dict[str, Any]:
    return {"from": [{"source": {name: [value] for name, value in fields.items()}}]}


def claim(*path: str, **value: Any) -> dict[str, Any]:
    keys = [{"key": key} for key in ("payload", *path)]
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}}


def token(issuer: dict[str, Any], subject: dict[str, Any]) -> dict[str, Any]:
    both = [claim("iss", stringMatch=issuer), claim("sub", stringMatch=subject)]
    return {"orIds": {"ids": [{"andIds": {"ids": both}}]}}


SOME = {"safeRegex": {"regex": ".+"}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (source(principals="td/ns/a/sa/b"), authenticated("exact", "spiffe://td/ns/a/sa/b")),
        # Istio: the mesh's own trust domain, whatever its name.
        (source(principals="cluster.local/ns/a/sa/b"), authenticated("exact", "spiffe://mesh.example/ns/a/sa/b")),
        (source(principals="td/ns/a/*"), authenticated("prefix", "spiffe://td/ns/a/")),
        (source(principals="*"), authenticated("safeRegex", ".+")),
        (source(principals="*/sa/a.b"), authenticated("safeRegex", r"spiffe://.*/sa/a\.b")),
        (source(notPrincipals="td/ns/a/sa/b"), {"notId": authenticated("exact", "spiffe://td/ns/a/sa/b")}),
        (source(namespaces="a.b"), authenticated("safeRegex", r".*/ns/a\.b/.*")),
        (source(namespaces="a*"), authenticated("safeRegex", ".*/ns/a.*/.*")),
        (source(serviceAccounts="x.y"), authenticated("safeRegex", r"spiffe://.+/ns/default/(.+/|)sa/x\.y(/.+)?")),
        (source(serviceAccounts="n/x"), authenticated("safeRegex", "spiffe://.+/ns/n/(.+/|)sa/x(/.+)?")),
        (
            source(ipBlocks="10.0.0.1"),
            {"orIds": {"ids": [{"directRemoteIp": {"addressPrefix": "10.0.0.1", "prefixLen": 32}}]}},
        ),
        (
            source(notRemoteIpBlocks="::/0"),
            {"notId": {"orIds": {"ids": [{"remoteIp": {"addressPrefix": "::", "prefixLen": 0}}]}}},
        ),
        (source(requestPrincipals="*"), token(SOME, SOME)),
        (source(requestPrincipals="https://i/a/sub"), token({"exact": "https://i/a"}, {"exact": "sub"})),
        (source(requestPrincipals="i/*"), token({"exact": "i"}, SOME)),
        (source(requestPrincipals="i/s*"), token({"exact": "i"}, {"prefix": "s"})),
        (source(requestPrincipals="*/s"), token(SOME, {"exact": "s"})),
        (source(requestPrincipals="*i/s"), token({"suffix": "i"}, {"exact": "s"})),
        (source(requestPrincipals="*s"), token(SOME, {"suffix": "s"})),
        (source(requestPrincipals="i*"), token({"prefix": "i"}, SOME)),
    ],
)
def test_sources(rule: dict[str, Any], expected: Any) -> None:
    settings = MeshSettings(trust_domain="mesh.example")
    for client in (ENVOY, LIBRARY):
        assert principal_of(rule, client=client, settings=settings) == expected


def operation(**fields: Any) -> dict[str, Any]:
    return {"to": [{"operation": {name: [value] for name, value in fields.items()}}]}


def either(*found: dict[str, Any]) -> dict[str, Any]:
    return {"orRules": {"rules": list(found)}}


def header(name: str, **match: Any) -> dict[str, Any]:
    return {"header": {"name": name, **({"stringMatch": match} if "presentMatch" not in match else match)}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (operation(hosts="A.example"), either(header(":authority", exact="A.example", ignoreCase=True))),
        (operation(hosts="*.example"), either(header(":authority", suffix=".example", ignoreCase=True))),
        (operation(notHosts="*"), {"notRule": either(header(":authority", presentMatch=True))}),
        (operation(methods="GET"), either(header(":method", exact="GET"))),
        (operation(paths="/a"), either({"urlPath": {"path": {"exact": "/a"}}})),
        (operation(paths="/a*"), either({"urlPath": {"path": {"prefix": "/a"}}})),
        (operation(notPaths="*/a"), {"notRule": either({"urlPath": {"path": {"suffix": "/a"}}})}),
        (operation(paths="*"), either({"urlPath": {"path": SOME}})),
        (operation(ports="80"), either({"destinationPort": 80})),
        (operation(notPorts="80"), {"notRule": either({"destinationPort": 80})}),
    ],
)
def test_operations(rule: dict[str, Any], expected: Any) -> None:
    for client in CLIENTS.values():
        assert permission_of(rule, client=client) == expected


def when(key: str, *values: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": list(values)}]}


def said(*path: str, value: dict[str, Any]) -> dict[str, Any]:
    matchers = [{"listMatch": {"oneOf": value}}, value]
    return {"orIds": {"ids": [claim(*path, orMatch={"valueMatchers": matchers})]}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (when("request.headers[X-A]", "v"), {"orIds": {"ids": [header("x-a", exact="v")]}}),
        (when("request.headers[x]", "*"), {"orIds": {"ids": [header("x", presentMatch=True)]}}),
        (when("source.namespace", "a"), authenticated("safeRegex", ".*/ns/a/.*")),
        (when("source.principal", "td/*"), authenticated("prefix", "spiffe://td/")),
        (when("request.auth.audiences", "a"), said("aud", value={"stringMatch": {"exact": "a"}})),
        (when("request.auth.presenter", "a*"), said("azp", value={"stringMatch": {"prefix": "a"}})),
        (when("request.auth.claims[a]", "*"), said("a", value={"stringMatch": SOME})),
        (when("request.auth.claims[a][b]", "v"), said("a", "b", value={"stringMatch": {"exact": "v"}})),
        (
            when("request.auth.claims[g]", "a", "b"),
            said(
                *["g"],
                value={
                    "orMatch": {"valueMatchers": [{"stringMatch": {"exact": "a"}}, {"stringMatch": {"exact": "b"}}]}
                },
            ),
        ),
    ],
)
def test_conditions_on_callers(rule: dict[str, Any], expected: Any) -> None:
    assert principal_of(rule) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (when("destination.ip", "10.0.0.0/8"), {"destinationIp": {"addressPrefix": "10.0.0.0", "prefixLen": 8}}),
        (when("destination.port", "9080"), {"destinationPort": 9080}),
        (when("connection.sni", "*.a"), {"requestedServerName": {"suffix": ".a"}}),
        (
            when("experimental.envoy.filters.a.b[c]", "[v]"),
            {
                "metadata": {
                    "filter": "envoy.filters.a.b",
                    "path": [{"key": "c"}],
                    "value": {"listMatch": {"oneOf": {"stringMatch": {"exact": "v"}}}},
                }
            },
        ),
    ],
)
def test_conditions_on_what_is_called(rule: dict[str, Any], expected: Any) -> None:
    assert permission_of(rule) == either(expected)


def test_path_templates() -> None:
    rule = operation(paths="/a.b/{*}/c/{**}")
    assert permission_of(rule)["orRules"]["rules"][0]["uriTemplate"]["typedConfig"] == {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
        "pathTemplate": "/a.b/*/c/**",
    }
    for client in (LIBRARY, GRPC):
        found = permission_of(rule, client=client)["orRules"]["rules"][0]["urlPath"]["path"]["safeRegex"]["regex"]
        assert found.startswith(r"/a\.b/[")


def test_lists_are_either_and_fields_are_both() -> None:
    found = of_rule(
        {
            "from": [{"source": {"principals": ["a", "b"], "ipBlocks": ["::1"]}}, {"source": {"namespaces": ["n"]}}],
            "to": [{"operation": {"methods": ["GET"], "ports": ["1"]}}, {"operation": {"paths": ["/"]}}],
            "when": [{"key": "request.headers[h]", "values": ["v"]}, {"key": "destination.port", "notValues": ["2"]}],
        }
    )
    assert [len(one["andIds"]["ids"]) for one in found["principals"]] == [3, 2]
    assert [len(one["andRules"]["rules"]) for one in found["permissions"]] == [3, 2]
    assert len(found["principals"][0]["andIds"]["ids"][0]["orIds"]["ids"]) == 2


TOKEN = source(requestPrincipals="*")


@pytest.mark.parametrize(
    ("client", "rule", "words"),
    [
        (GRPC, TOKEN, "gRPC servers cannot tell request.auth.principal"),
        (GRPC, when("request.auth.claims[a]", "b"), "cannot tell request.auth.claims[a]"),
        (GRPC, when("connection.sni", "b"), "cannot tell connection.sni"),
        (GRPC, when("request.headers[GRPC-timeout]", "b"), "cannot tell request.headers[GRPC-timeout]"),
        (GRPC, when("request.headers[:scheme]", "b"), "cannot tell request.headers[:scheme]"),
        (LIBRARY, when("experimental.envoy.filters.a[b]", "c"), "library servers cannot tell experimental"),
    ],
)
def test_what_a_server_cannot_tell_lets_nobody_in(client: Client, rule: dict[str, Any], words: str) -> None:
    rule = {**rule, **operation(methods="GET")}
    assert of_rule(rule, client) is None
    denied = of_rule(rule, client, "DENY")
    assert denied == of_rule(operation(methods="GET"), client, "DENY")
    for action, consequence in (("ALLOW", "lets nobody in"), ("DENY", "acts without it")):
        made = translator(policy({"rules": [rule], "action": action}))
        note = notes(made, client, type_urls.LISTENER, LIBRARY_PORT)[-1]
        assert words in note
        assert consequence in note


SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s}
spec:
  ingress:
  - {port: {number: 5432, protocol: TCP, name: tcp}, defaultEndpoint: 127.0.0.1:5433}
  - {port: {number: 8000, protocol: HTTP, name: http}, defaultEndpoint: 127.0.0.1:8001}
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"ALLOW": NEVER}),
        ({"rules": [operation(paths="/")]}, {"ALLOW": None}),
        ({"rules": [TOKEN]}, {"ALLOW": None}),
        (
            {"rules": [operation(ports="5432")]},
            {
                "ALLOW": {
                    "permissions": [{"andRules": {"rules": [either({"destinationPort": 5432})]}}],
                    "principals": [ANYBODY],
                }
            },
        ),
        (
            {"rules": [operation(paths="/")], "action": "DENY"},
            {"DENY": {"permissions": [ANYTHING], "principals": [ANYBODY]}},
        ),
    ],
)
def test_ports_that_are_not_http(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    made = translator(policy(spec), SIDECAR)
    found = get(made, ENVOY, type_urls.LISTENER, "inbound_0.0.0.0_5432")
    for chain in found.filter_chains:
        *guards, proxy = chain.filters
        assert proxy.name == "envoy.filters.network.tcp_proxy"
        rbacs = [network_rbac_pb2.RBAC.FromString(one.typed_config.value) for one in guards]
        assert expected == {
            "DENY" if one.rules.action else "ALLOW": MessageToDict(one.rules)
            .get("policies", {})
            .get("ns[default]-policy[p]-rule[0]")
            for one in rbacs
        }
        assert all(one.stat_prefix for one in rbacs)
    http = get(made, ENVOY, type_urls.LISTENER, "inbound_0.0.0.0_8000")
    for chain in http.filter_chains:
        manager = hcm_pb2.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
        assert len(manager.http_filters) == 2


def authentication(*jwt_rules: dict[str, Any], name: str = "r", **more: Any) -> str:
    return document("RequestAuthentication", {"jwtRules": list(jwt_rules), **more.pop("spec", {})}, name, **more)


def tokens(made: Translator, client: Client = ENVOY) -> Any:
    """The jwt_authn filter, which comes first; None if there is none."""
    found = filters(made, client)
    if not found or found[0].name != "envoy.filters.http.jwt_authn":
        return None
    return jwt_pb2.JwtAuthentication.FromString(found[0].typed_config.value)


def test_tokens() -> None:
    rule = {
        "issuer": "i",
        "jwks": KEYS,
        "audiences": ["a"],
        "fromHeaders": [{"name": "x-jwt", "prefix": "T "}],
        "fromParams": ["p"],
        "fromCookies": ["c"],
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
        "forwardOriginalToken": True,
        "spaceDelimitedClaims": ["roles"],
    }
    made = translator(authentication(rule), policy({"rules": [TOKEN]}))
    for client in (ENVOY, LIBRARY):
        assert [one.name for one in filters(made, client)] == [
            "envoy.filters.http.jwt_authn",
            "envoy.filters.http.rbac",
        ]
        assert MessageToDict(tokens(made, client)) == {
            "providers": {
                "origins-0": {
                    "issuer": "i",
                    "audiences": ["a"],
                    "localJwks": {"inlineString": KEYS},
                    "fromHeaders": [{"name": "x-jwt", "valuePrefix": "T "}],
                    "fromParams": ["p"],
                    "fromCookies": ["c"],
                    "forward": True,
                    "forwardPayloadHeader": "x-payload",
                    "claimToHeaders": [{"headerName": "x-sub", "claimName": "sub"}],
                    "payloadInMetadata": "payload",
                    "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["permission", "roles", "scope"]},
                }
            },
            "rules": [
                {
                    "match": {"prefix": "/"},
                    "requires": {
                        "requiresAny": {"requirements": [{"providerName": "origins-0"}, {"allowMissing": {}}]}
                    },
                }
            ],
            "bypassCorsPreflight": True,
        }


def test_several_issuers() -> None:
    made = translator(
        authentication({"issuer": "b", "jwks": KEYS}),
        authentication({"issuer": "a", "jwks": KEYS}, name="mesh", namespace="istio-system"),
        authentication({"issuer": "c", "jwks": KEYS}, name="other", namespace="other"),
    )
    found = tokens(made)
    assert {name: one.issuer for name, one in found.providers.items()} == {"origins-0": "a", "origins-1": "b"}
    (rule,) = found.rules
    first, second, both = rule.requires.requires_any.requirements
    assert (first.provider_name, second.provider_name) == ("origins-0", "origins-1")
    assert [
        [one.WhichOneof("requires_type") for one in each.requires_any.requirements]
        for each in both.requires_all.requirements
    ] == [["provider_name", "allow_missing"]] * 2


def test_grpc_servers_verify_no_tokens() -> None:
    made = translator(authentication({"issuer": "i", "jwks": KEYS}))
    assert tokens(made, GRPC) is None
    assert "do not verify tokens" in notes(made, GRPC, type_urls.LISTENER, LIBRARY_PORT)[-1]


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        ({"issuer": "i", "jwks": KEY}, {"keys": [json.loads(KEY)]}),
        ({"issuer": "i", "jwks": KEYS, "jwksUri": "http://a/b"}, json.loads(KEYS)),
    ],
)
def test_keys(rule: dict[str, Any], keys: Any) -> None:
    (provider,) = tokens(translator(authentication(rule))).providers.values()
    assert json.loads(provider.local_jwks.inline_string) == keys


def test_an_issuer_without_keys_has_none() -> None:
    (provider,) = tokens(translator(authentication({"issuer": "i"}))).providers.values()
    assert provider.remote_jwks.http_uri.cluster == "BlackHoleCluster"


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ({"issuer": "i", "jwksUri": "https://keys.example/jwks"}, "https://keys.example/jwks"),
        ({"issuer": "https://i.example/"}, "https://i.example/.well-known/openid-configuration"),
    ],
)
def test_fetched_keys_are_inlined(rule: dict[str, Any], url: str) -> None:
    before = translator(authentication(rule))
    (provider,) = tokens(before).providers.values()
    assert provider.remote_jwks.http_uri.cluster == "BlackHoleCluster"
    (note,) = notes(before, ENVOY, type_urls.LISTENER, SIDECAR_PORT)
    assert note.startswith(f"RequestAuthentication default/r: there are no keys from {url}: not fetched yet")

    failed = Translator(replace(before.world, key_sets={url: KeySet(problem="no route")}), after=before)
    assert "no route" in notes(failed, ENVOY, type_urls.LISTENER, SIDECAR_PORT)[0]
    made = Translator(replace(failed.world, key_sets={url: KeySet(KEYS)}), after=failed)
    for client in (ENVOY, LIBRARY):
        (provider,) = tokens(made, client).providers.values()
        assert json.loads(provider.local_jwks.inline_string) == json.loads(KEYS)
    assert notes(made, ENVOY, type_urls.LISTENER, SIDECAR_PORT) == ()


def test_what_made_a_listener() -> None:
    made = translator(policy(SELECTED), policy({}, "other", namespace="other"), authentication())
    for client in CLIENTS.values():
        name = name_for(client)
        body = made.resources(client, type_urls.LISTENER, [name])[name].body
        assert {str(key) for key in made.sources(client, type_urls.LISTENER, name, body)} == {
            "AuthorizationPolicy default/p",
            "RequestAuthentication default/r",
        }

"""From RBAC and JWT filters of an inbound listener to conditions: what is taken, refused, or fails closed."""

import json
import random
import re
from ipaddress import ip_network
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_xds_fuzz import random_message
from xds_resources import ROUTER, downstream_tls, inbound, packed

from proxyless.model.authentication import Either, JwtAuthn, JwtKey, JwtProvider, JwtRule, Verified
from proxyless.model.authorization import (
    Action,
    Address,
    All,
    Anything,
    Authenticated,
    Claim,
    Condition,
    Header,
    JsonKind,
    JsonMatcher,
    LocalPort,
    Not,
    Policy,
    Rbac,
    ServerName,
    Side,
    Some,
    Unknown,
    UrlPath,
)
from proxyless.model.inbound import InboundListener
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher
from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.inbound import compile_inbound
from proxyless.xds_client.compile.rbac import JWT, MAX_CONDITIONS, MAX_DEPTH

EXACT = StringMatcher(StringKind.EXACT, "a")
ANY = Anything()
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


def rules(permission: Any = None, principal: Any = None, action: str = "ALLOW", **policy: Any) -> rbac_pb2.RBAC:
    made = {"permissions": [permission or {"any": True}], "principals": [principal or {"any": True}], **policy}
    return json_format.ParseDict({"action": action, "policies": {"p": made}}, rbac_pb2.RBAC())


def http_filter(config: Any, name: str = "f", **more: Any) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(config), **more)


def rbac_filter(made: rbac_pb2.RBAC, name: str = "envoy.filters.http.rbac") -> hcm_pb2.HttpFilter:
    return http_filter(http_rbac_pb2.RBAC(rules=made), name)


def compiled(*filters: Any, network: tuple[Any, ...] = (), **manager: Any) -> InboundListener:
    made = inbound(8080, ("tls", downstream_tls()), ("raw_buffer", None))
    hcm = hcm_pb2.HttpConnectionManager(http_filters=[*filters, ROUTER], **manager)
    for chain in made.filter_chains:
        for config in (*network, hcm):
            chain.filters.add(name="n").typed_config.CopyFrom(packed(config))
    return compile_inbound(made)


def only(made: rbac_pb2.RBAC, **manager: Any) -> tuple[Policy, tuple[str, ...]]:
    found = compiled(rbac_filter(made), **manager)
    (one,) = found.filters
    assert isinstance(one, Rbac)
    return one.policies[0], found.ignored


def claim(**value: Any) -> dict[str, Any]:
    return {"metadata": {"filter": JWT, "path": [{"key": "payload"}, {"key": "sub"}], "value": value}}


COMMON: list[tuple[dict[str, Any], Condition]] = [
    ({"any": True}, ANY),
    ({"header": {"name": "X-A", "stringMatch": {"exact": "a"}}}, Header(HeaderMatcher("x-a", EXACT))),
    ({"header": {"name": "x-a", "presentMatch": True}}, Header(HeaderMatcher("x-a"))),
    ({"urlPath": {"path": {"exact": "a"}}}, UrlPath(EXACT)),
    (claim(stringMatch={"exact": "a"}), Claim(("payload", "sub"), JsonMatcher(JsonKind.STRING, text=EXACT))),
    (
        claim(listMatch={"oneOf": {"stringMatch": {"exact": "a"}}}),
        Claim(
            ("payload", "sub"),
            JsonMatcher(JsonKind.ONE_OF, parts=(JsonMatcher(JsonKind.STRING, text=EXACT),)),
        ),
    ),
    (claim(presentMatch=True), Claim(("payload", "sub"), JsonMatcher(JsonKind.PRESENT))),
    (claim(boolMatch=True), Claim(("payload", "sub"), JsonMatcher(JsonKind.BOOL, flag=True))),
    (claim(doubleMatch={"exact": 2}), Claim(("payload", "sub"), JsonMatcher(JsonKind.NUMBER, number=(2, 2)))),
]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        *COMMON,
        ({"andRules": {"rules": [{"any": True}, {"notRule": {"any": True}}]}}, All((ANY, Not(ANY)))),
        ({"orRules": {"rules": [{"any": True}, {"any": True}]}}, Some((ANY, ANY))),
        ({"destinationPort": 80}, LocalPort(80, 81)),
        ({"destinationPortRange": {"start": 1, "end": 65536}}, LocalPort(1, 65536)),
        (
            {"destinationIp": {"addressPrefix": "10.0.0.1", "prefixLen": 8}},
            Address(Side.LOCAL, ip_network("10.0.0.0/8")),
        ),
        ({"requestedServerName": {"exact": "a"}}, ServerName(EXACT)),
    ],
)
def test_permissions(rule: dict[str, Any], expected: Condition) -> None:
    policy, ignored = only(rules(permission=rule))
    assert policy == Policy("p", expected, ANY)
    assert not ignored


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        *COMMON,
        ({"andIds": {"ids": [{"any": True}, {"notId": {"any": True}}]}}, All((ANY, Not(ANY)))),
        ({"orIds": {"ids": [{"any": True}]}}, ANY),
        ({"authenticated": {}}, Authenticated()),
        ({"authenticated": {"principalName": {"exact": "a"}}}, Authenticated(EXACT)),
        *(
            ({kind: {"addressPrefix": "10.0.0.1"}}, Address(Side.REMOTE, ip_network("0.0.0.0/0")))
            for kind in ("sourceIp", "directRemoteIp", "remoteIp")
        ),
        (
            {"directRemoteIp": {"addressPrefix": "10.0.0.1", "prefixLen": 99}},
            Address(Side.REMOTE, ip_network("10.0.0.1/32")),
        ),
        (
            {"directRemoteIp": {"addressPrefix": "fd00::", "prefixLen": 8}},
            Address(Side.REMOTE, ip_network("fd00::/8")),
        ),
    ],
)
def test_principals(rule: dict[str, Any], expected: Condition) -> None:
    policy, ignored = only(rules(principal=rule))
    assert policy == Policy("p", ANY, expected)
    assert not ignored


@pytest.mark.parametrize(
    ("permission", "field"),
    [
        ({"matcher": {"name": "m"}}, "matcher"),
        ({"uriTemplate": {"name": "m"}}, "uri_template"),
        ({"urlPath": {"path": {"custom": {"name": "m"}}}}, "url_path.path"),
        ({"header": {"name": "grpc-timeout", "presentMatch": True}}, "header (grpc-timeout)"),
        ({"requestedServerName": {}}, "requested_server_name"),
        ({"metadata": {"filter": "other", "path": [{"key": "a"}], "value": {"presentMatch": True}}}, "metadata"),
        (
            {"sourcedMetadata": {"metadataMatcher": claim(nullMatch={})["metadata"], "metadataSource": "ROUTE"}},
            "sourced",
        ),
    ],
)
def test_what_is_not_supported_is_unknown_and_told(permission: dict[str, Any], field: str) -> None:
    policy, ignored = only(rules(permission={"notRule": permission}))
    assert isinstance(policy.permission, Not)
    assert isinstance(policy.permission.part, Unknown)
    told = ignored[0]
    assert "policies[p].permissions[0].not_rule" in told
    assert field in told
    assert "never allows, and always denies" in told


def test_a_field_of_a_newer_api() -> None:
    made = rules()
    made.policies["p"].principals[0].MergeFromString(b"\xfa\x3e\x01x")
    policy, ignored = only(made)
    assert isinstance(policy.principal, Unknown)
    assert "newer API" in ignored[0]


def test_a_condition_in_cel() -> None:
    policy, ignored = only(rules(condition={"constExpr": {"boolValue": True}}))
    assert isinstance(policy.permission, All)
    assert policy.permission.parts[0] == ANY
    assert isinstance(policy.permission.parts[1], Unknown)
    assert "condition" in ignored[0]


def test_a_remote_address_from_elsewhere() -> None:
    rule = {"remoteIp": {"addressPrefix": "10.0.0.1"}}
    policy, _ = only(rules(principal=rule), xff_num_trusted_hops=1)
    assert isinstance(policy.principal, Unknown)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (rules(permission={"any": False}), "permissions[0].any must be true"),
        (rules(permission={"andRules": {}}), "permissions[0].and_rules.rules is empty"),
        (rules(permission={"notRule": {}}), "permissions[0].not_rule is empty"),
        (rules(principal={"orIds": {}}), "principals[0].or_ids.ids is empty"),
        (rules(permission={"destinationPort": 65536}), "at most 65535"),
        (rules(permission={"destinationPortRange": {"start": 5, "end": 5}}), "start < end"),
        (rules(principal={"directRemoteIp": {"addressPrefix": "10.0.0"}}), "is not an address range"),
        (rules(principal={"directRemoteIp": {"addressPrefix": "::", "prefixLen": 129}}), "at most 128"),
        (rules(permission={"urlPath": {}}), "url_path has no path"),
        (rules(permission={"urlPath": {"path": {"safeRegex": {"regex": "("}}}}), "not a valid RE2"),
        (rules(permission={"urlPath": {"path": {"prefix": ""}}}), "empty prefix"),
        (rules(permission={"header": {"presentMatch": True}}), "no header name"),
        (rules(permission={"metadata": {"filter": JWT}}), "metadata.path is empty"),
        (rules(permissions=[]), "policies[p].permissions is empty"),
        (rules(principals=[]), "policies[p].principals is empty"),
        (rules(permission=claim(orMatch={"valueMatchers": [{"presentMatch": True}]})), "at least two"),
    ],
)
def test_what_envoy_refuses_is_refused(made: rbac_pb2.RBAC, error: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        compiled(rbac_filter(made))
    assert error in str(refused.value)
    assert "http_filters[envoy.filters.http.rbac].rules.policies[p]" in str(refused.value)


def test_bounds() -> None:
    deep = rbac_pb2.Permission(any=True)
    for _ in range(MAX_DEPTH + 1):
        deep = rbac_pb2.Permission(not_rule=deep)
    made = rules()
    made.policies["p"].permissions[0].CopyFrom(deep)
    with pytest.raises(InvalidResource, match="nested deeper"):
        compiled(rbac_filter(made))
    many = rules()
    many.policies["p"].permissions.extend([rbac_pb2.Permission(any=True)] * MAX_CONDITIONS)
    with pytest.raises(InvalidResource, match="more than"):
        compiled(rbac_filter(many))


def test_filters_in_order_and_policies_by_name() -> None:
    deny, allow = rules(action="DENY"), rules()
    allow.policies["a"].CopyFrom(allow.policies["p"])
    found = compiled(rbac_filter(deny, "one"), rbac_filter(allow, "two"))
    first, second = found.filters
    assert isinstance(first, Rbac)
    assert isinstance(second, Rbac)
    assert (first.action, second.action) == (Action.DENY, Action.ALLOW)
    assert [policy.name for policy in second.policies] == ["a", "p"]


def test_actions() -> None:
    assert compiled(rbac_filter(rbac_pb2.RBAC())).filters == (Rbac(Action.ALLOW),)  # nobody
    assert compiled(http_filter(http_rbac_pb2.RBAC())).filters == ()
    found = compiled(rbac_filter(rules(action="LOG")))
    assert found.filters == ()
    assert "LOG" in found.ignored[0]
    made = rules()
    made.action = 7  # type: ignore[assignment]
    assert compiled(rbac_filter(made)).filters == (Rbac(Action.ALLOW),)
    shadow = compiled(http_filter(http_rbac_pb2.RBAC(shadow_rules=rules())))
    assert shadow.filters == ()
    assert "shadow_rules" in shadow.ignored[0]


def test_a_matcher_tree_denies_everything() -> None:
    config = http_rbac_pb2.RBAC()
    config.matcher.SetInParent()
    found = compiled(http_filter(config))
    assert found.filters == (Rbac(Action.ALLOW),)
    assert "everything is denied" in found.ignored[0]


def test_the_network_filter_and_what_routes_say_apply_as_well() -> None:
    config = network_rbac_pb2.RBAC(rules=rules(action="DENY"), stat_prefix="x")
    route = rc.Route(name="r")
    route.typed_per_filter_config["f"].CopyFrom(
        packed(http_rbac_pb2.RBACPerRoute(rbac=http_rbac_pb2.RBAC(rules=rules())))
    )
    hosts = [rc.VirtualHost(name="h", domains=["*"], routes=[route])]
    found = compiled(
        rbac_filter(rules(), "f"), network=(config,), route_config=route_pb2.RouteConfiguration(virtual_hosts=hosts)
    )
    assert [one.action for one in found.filters if isinstance(one, Rbac)] == [Action.DENY, Action.ALLOW, Action.ALLOW]
    assert any("applies to every request" in told for told in found.ignored)


def test_a_disabled_filter_applies_unless_no_route_can_switch_it_on() -> None:
    off = http_filter(http_rbac_pb2.RBAC(rules=rules()), "f", disabled=True)
    found = compiled(off)
    assert found.filters == ()
    assert any("(disabled)" in told for told in found.ignored)
    route = rc.Route(name="r")
    route.typed_per_filter_config["f"].CopyFrom(packed(rc.FilterConfig()))
    hosts = [rc.VirtualHost(name="h", domains=["*"], routes=[route])]
    on = compiled(off, route_config=route_pb2.RouteConfiguration(virtual_hosts=hosts))
    elsewhere = compiled(off, rds=hcm_pb2.Rds(route_config_name="x"))
    for found in (on, elsewhere):
        assert [type(one) for one in found.filters] == [Rbac]
        assert any("applies to every request" in told for told in found.ignored)


def test_chains_that_differ_apply_both() -> None:
    made = inbound(8080, ("tls", downstream_tls()), ("raw_buffer", None))
    hcm = hcm_pb2.HttpConnectionManager(http_filters=[rbac_filter(rules(action="DENY")), ROUTER])
    made.filter_chains[0].filters.add(name="n").typed_config.CopyFrom(packed(hcm))
    found = compile_inbound(made)
    assert len(found.filters) == 1
    assert any("differ" in told for told in found.ignored)


def test_other_filters() -> None:
    with pytest.raises(InvalidResource, match="not supported and not optional"):
        compiled(http_filter(cors_pb2.Cors(), "cors"))
    assert "cors" in compiled(http_filter(cors_pb2.Cors(), "cors", is_optional=True)).ignored[0]
    with pytest.raises(InvalidResource, match="a name of its own"):
        compiled(rbac_filter(rules(), "a"), rbac_filter(rules(), "a"))


JWK = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "k",
    # The example of RFC 7517 appendix A.1.
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}


def jwt_config(**more: Any) -> dict[str, Any]:
    keys = {"keys": [JWK, {"kty": "new"}, {**JWK, "use": "enc"}, {**JWK, "alg": "RS256"}, {**JWK, "x": "AA"}]}
    return {
        "providers": {
            "a": {
                "issuer": "me",
                "audiences": ["x"],
                "localJwks": {"inlineString": json.dumps(keys)},
                "fromHeaders": [{"name": "X-Jwt", "valuePrefix": "t "}],
                "fromCookies": ["c"],
                "payloadInMetadata": "payload",
                "forwardPayloadHeader": "X-Payload",
                "claimToHeaders": [{"headerName": "X-Sub", "claimName": "a.sub"}],
                "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["scope"]},
            },
            "b": {"remoteJwks": {"httpUri": {"uri": "https://x/jwks", "cluster": "c", "timeout": "1s"}}},
        },
        "rules": [
            {
                "match": {"prefix": "/"},
                "requires": {"requiresAny": {"requirements": [{"providerName": "a"}, {"allowMissing": {}}]}},
            }
        ],
        **more,
    }


def jwt_compiled(config: dict[str, Any]) -> InboundListener:
    return compiled(http_filter(json_format.ParseDict(config, jwt_pb2.JwtAuthentication())))


def test_jwt() -> None:
    found = jwt_compiled(jwt_config())
    (one,) = found.filters
    assert isinstance(one, JwtAuthn)
    first, second = one.providers
    assert first.keys is not None
    assert [(key.kid, key.algorithms) for key in first.keys] == [("k", ("ES256",))]
    assert (first.headers, first.params, first.cookies) == ((("x-jwt", "t "),), (), ("c",))
    assert (first.payload_header, first.claims_to_headers) == ("x-payload", (("x-sub", ("a", "sub")),))
    assert (first.metadata, first.split, first.skew) == ("payload", {"scope"}, 60)
    assert (second.keys, second.headers) == (None, (("authorization", "Bearer "),))
    assert second.params == ("access_token",)
    (rule,) = one.rules
    assert rule.requirement == Either((Verified(first),), missing=True)
    assert any("remote_jwks" in told for told in found.ignored)
    assert any("local_jwks.keys[1]" in told for told in found.ignored)


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        ({"providerName": "a"}, ("a", None)),
        ({"providerAndAudiences": {"providerName": "a", "audiences": ["z"]}}, ("a", {"z"})),
    ],
)
def test_jwt_requirements(requires: dict[str, Any], expected: Any) -> None:
    (one,) = jwt_compiled(jwt_config(rules=[{"match": {"prefix": "/"}, "requires": requires}])).filters
    assert isinstance(one, JwtAuthn)
    made = one.rules[0].requirement
    assert isinstance(made, Verified)
    assert (made.provider.name, made.audiences) == expected


def test_jwt_rules_whose_match_is_not_supported_apply_to_everything() -> None:
    match = {
        "prefix": "/",
        "dynamicMetadata": [{"filter": "x", "path": [{"key": "a"}], "value": {"presentMatch": True}}],
    }
    rules = [{"match": match}, {"match": match, "requires": {"providerName": "a"}}]
    found = jwt_compiled(jwt_config(rules=rules))
    (one,) = found.filters
    assert isinstance(one, JwtAuthn)
    assert [rule.match for rule in one.rules] == [None]
    assert any("applies to every request" in told for told in found.ignored)


def test_jwt_with_something_unknown_lets_no_token_in() -> None:
    config = jwt_config(filterStateRules={"name": "x"})
    found = jwt_compiled(config)
    assert [(one.headers, one.params, one.cookies, one.keys) for one in closed(found, missing=True)] == [
        ((("x-jwt", "t "),), (), ("c",), None),
        ((("authorization", "Bearer "),), ("access_token",), (), None),
    ]
    assert "filter_state_rules" in found.ignored[0]
    config["rules"][0]["requires"] = {"providerName": "b"}
    closed(jwt_compiled(config), missing=False)
    made = json_format.ParseDict(jwt_config(), jwt_pb2.JwtAuthentication())
    made.rules[0].requires.MergeFromString(b"\xfa\x3e\x01x")
    closed(compiled(http_filter(made)), missing=False)


def closed(found: InboundListener, *, missing: bool) -> tuple[JwtProvider, ...]:
    """The providers of a filter by which no token holds."""
    (one,) = found.filters
    assert isinstance(one, JwtAuthn)
    assert all(provider.keys is None for provider in one.providers)
    either = Either(tuple(Verified(provider) for provider in one.providers), missing=missing)
    assert one.rules == (JwtRule(None, either),)
    return one.providers


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"providers": {"a": {}}}, "neither local_jwks nor remote_jwks"),
        ({"providers": {"a": {"localJwks": {"inlineString": "{"}}}}, "is not JSON"),
        ({"providers": {"a": {"localJwks": {"inlineString": "[]"}}}}, "no list of keys"),
        ({"rules": [{"requires": {"providerName": "a"}}]}, "match is missing"),
        ({"rules": [{"match": {"prefix": "/"}, "requires": {"providerName": "z"}}]}, "no provider 'z'"),
        ({"rules": [{"match": {"prefix": "/"}, "requirementName": "z"}]}, "not in requirement_map"),
    ],
)
def test_jwt_that_envoy_refuses(change: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidResource, match=re.escape(error)):
        jwt_compiled(jwt_config(**change))


def test_what_verifies_is_the_public_half_of_a_private_key() -> None:
    for made, algorithm in (
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ):
        private = jwt.get_algorithm_by_name(algorithm).to_jwk(made, as_dict=True)
        assert "d" in private
        (key,) = keys_of({"keys": [private]})
        assert isinstance(key.key, type(made.public_key()))
        assert algorithm in key.algorithms
        # A public key makes no signature of a kind that anybody could make with it.
        assert not {"none", "HS256", "HS384", "HS512"} & set(key.algorithms)


def keys_of(found: Any) -> tuple[JwtKey, ...]:
    provider = {"localJwks": {"inlineString": json.dumps(found)}}
    (one,) = jwt_compiled({"providers": {"p": provider}}).filters
    assert isinstance(one, JwtAuthn)
    return one.providers[0].keys or ()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = st.dictionaries(st.sampled_from([*JWK, "use", "alg", "n", "e", "k", "d", "key_ops"]), _JSON, max_size=4)
_KINDS = st.fixed_dictionaries({"kty": st.sampled_from(["RSA", "EC", "oct", "OKP"])})


@FUZZ
@given(
    st.lists(st.builds(lambda kind, some: {**JWK, **kind, **some}, _KINDS | st.just({}), _FIELDS) | _JSON, max_size=3)
)
def test_whatever_is_in_a_key_set(keys: list[Any]) -> None:
    for key in keys_of({"keys": keys}):
        assert "none" not in key.algorithms


@FUZZ
@given(st.text(max_size=50) | _JSON.map(json.dumps))
def test_whatever_a_key_set_is(text: str) -> None:
    try:
        jwt_compiled({"providers": {"p": {"localJwks": {"inlineString": text}}}})
    except InvalidResource as refused:
        assert str(refused)


@FUZZ
@given(seed=st.integers(0, 2**32))
def test_whatever_is_in_the_filters(seed: int) -> None:
    rng = random.Random(seed)
    configs: list[Any] = [http_rbac_pb2.RBAC(), jwt_pb2.JwtAuthentication(), network_rbac_pb2.RBAC()]
    for config in configs:
        random_message(config, rng, 0)
        filters = [
            http_filter(one) for one in [config] if one.DESCRIPTOR.full_name.startswith("envoy.extensions.filters.http")
        ]
        try:
            compiled(*filters, network=() if filters else (config,))
        except InvalidResource as refused:
            assert str(refused)

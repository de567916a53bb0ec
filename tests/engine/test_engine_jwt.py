"""Tokens as a table: real signatures, a clock that stands still."""

import base64
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import Allow, decide
from proxyless.engine.jwt_authn import Known, authenticate
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.model.authentication import Either, JwtAuthn, JwtKey, JwtProvider, JwtRule, Requirement, Verified
from proxyless.model.authorization import Action, Anything, Claim, JsonKind, JsonMatcher, Policy, Rbac
from proxyless.model.inbound import InboundListener
from proxyless.model.matching import PathKind, PathMatcher, RouteMatch, StringKind, StringMatcher

NOW = 1_900_000_000.0
EC, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = (
    JwtKey("ec jwk", "e", ("ES256",), EC.public_key()),
    JwtKey("rsa jwk", "", ("RS256", "PS256"), RSA.public_key()),
)
BEARER = (("authorization", "Bearer "),)
PROVIDER = JwtProvider(
    "p", "me", keys=KEYS, headers=BEARER, params=("access_token",), cookies=("c",), metadata="payload"
)
CLAIMS = {"iss": "me", "sub": "joe", "exp": NOW + 10, "aud": ["a", "b"], "scope": "read write"}


def token(key: Any = EC, alg: str = "ES256", kid: str = "e", **claims: Any) -> str:
    payload = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(payload, key, alg, headers={"kid": kid} if kid else {})


def filter_(requirement: Requirement | None = None, *providers: JwtProvider) -> JwtAuthn:
    providers = providers or (PROVIDER,)
    return JwtAuthn((JwtRule(None, requirement or Verified(providers[0])),), providers)


def ask(made: JwtAuthn, text: str | None = None, path: str = "/", **headers: str) -> Known | Respond:
    lines = list(headers.items()) + ([("authorization", f"Bearer {text}")] if text is not None else [])
    return authenticate(made, Request("GET", "hello", path, headers=lines), lambda: NOW)


def test_a_token_that_holds() -> None:
    for text in (token(), token(kid=""), token(RSA, "RS256", ""), token(RSA, "PS256", "x"), token(exp=None)):
        known = ask(filter_(), text)
        assert isinstance(known, Known)
        assert known.claims["payload"]["sub"] == "joe"
        assert known.remove == {"authorization"}
        assert known.add == ()


def test_where_tokens_are() -> None:
    assert isinstance(ask(filter_(), path=f"/?x=1&access_token={token()}"), Known)
    assert isinstance(ask(filter_(), cookie=f"a=b; c={token()}"), Known)
    assert isinstance(ask(filter_(), None), Respond)
    # Every one of them must hold.
    assert isinstance(ask(filter_(), token(), path="/?access_token=x.y.z"), Respond)


def unsigned() -> str:
    head, payload, _ = token().split(".")
    return f"{head}.{payload}."


NONE = jwt.encode(CLAIMS, None, "none")
HMAC_WITH_A_PUBLIC_KEY = jwt.encode(CLAIMS, b"k" * 64, "HS256", headers={"kid": "e"})
SWAPPED = ".".join((token().split(".")[0], token(sub="root").split(".")[1], token().split(".")[2]))


@pytest.mark.parametrize(
    ("text", "status", "body"),
    [
        (None, 401, "Jwt is missing"),
        ("", 401, "Jwt is not in the form"),
        ("a.b", 401, "Jwt is not in the form"),
        ("a.b.c", 401, "Jwt header is an invalid JSON"),
        ("W10.e30.x", 401, "Jwt header is an invalid JSON"),
        (token(iss="you"), 401, "Jwt issuer is not configured"),
        (token(iss=None), 401, "Jwt issuer is not configured"),
        (token(exp=NOW - 61), 401, "Jwt is expired"),
        (token(nbf=NOW + 61), 401, "Jwt not yet valid"),
        (token(OTHER), 401, "Jwt verification fails"),
        (token(kid="f"), 401, "Jwks doesn't have key"),
        (unsigned(), 401, "Jwt verification fails"),
        (NONE, 401, "Jwks doesn't have key"),
        (HMAC_WITH_A_PUBLIC_KEY, 401, "Jwks doesn't have key"),
        (SWAPPED, 401, "Jwt verification fails"),
        ("x" * 40_000, 401, "Jwt is not in the form"),
    ],
)
def test_tokens_that_do_not_hold(text: str | None, status: int, body: str) -> None:
    for _ in range(2):  # also when it was seen before
        refused = ask(filter_(), text)
        assert isinstance(refused, Respond)
        assert (refused.status, refused.flags) == (status, ())
        assert refused.body.decode().startswith(body)
        error = "" if text is None else ', error="invalid_token"'
        assert dict(refused.headers)["www-authenticate"] == f'Bearer realm="http://hello/"{error}'


def test_times_within_the_skew() -> None:
    assert isinstance(ask(filter_(), token(exp=NOW - 59)), Known)
    assert isinstance(ask(filter_(), token(nbf=NOW + 59)), Known)
    refused = ask(filter_(None, replace(PROVIDER, expires=True)), token(exp=None))
    assert isinstance(refused, Respond)


def test_audiences() -> None:
    made = replace(PROVIDER, audiences=frozenset({"b"}))
    assert isinstance(ask(filter_(None, made), token()), Known)
    refused = ask(filter_(None, made), token(aud="c"))
    assert isinstance(refused, Respond)
    assert (refused.status, refused.body) == (403, b"Audiences in Jwt are not allowed")
    assert isinstance(ask(filter_(None, made), token(aud=None)), Respond)
    assert isinstance(ask(filter_(Verified(made, frozenset({"c"})), made), token()), Respond)


def test_without_keys_no_token_holds() -> None:
    for keys in (None, ()):
        assert isinstance(ask(filter_(None, replace(PROVIDER, keys=keys)), token()), Respond)


def test_a_key_that_was_replaced_verifies_nothing_more() -> None:
    text = token()
    assert isinstance(ask(filter_(), text), Known)
    new = replace(PROVIDER, keys=(JwtKey("another jwk", "e", ("ES256",), OTHER.public_key()),))
    assert isinstance(ask(filter_(None, new), text), Respond)


def test_requirements() -> None:
    other = replace(PROVIDER, name="q", issuer="you", metadata="other")
    either = Either((Verified(PROVIDER), Verified(other)), missing=True)
    made = filter_(either, PROVIDER, other)
    assert isinstance(ask(made, None), Known)
    found = ask(made, token(iss="you"))
    assert isinstance(found, Known)
    assert set(found.claims) == {"other"}
    assert isinstance(ask(made, token(iss="she")), Respond)
    assert isinstance(ask(filter_(Either((Verified(PROVIDER),), failed=True)), "x"), Known)
    assert isinstance(ask(filter_(Either((Verified(PROVIDER),))), None), Respond)


def test_the_first_rule_that_matches_counts() -> None:
    health = RouteMatch(PathMatcher(PathKind.EXACT, "/health"))
    made = JwtAuthn((JwtRule(health, None), JwtRule(None, Verified(PROVIDER))), (PROVIDER,))
    assert isinstance(ask(made, None, "/health"), Known)
    assert isinstance(ask(made, None, "/other"), Respond)


def test_cors_preflight() -> None:
    head = Request("OPTIONS", "hello", "/", headers=[("origin", "x"), ("access-control-request-method", "GET")])
    assert isinstance(authenticate(filter_(), head), Respond)
    assert isinstance(authenticate(replace(filter_(), preflight=True), head), Known)


def test_what_the_application_and_policies_see() -> None:
    made = replace(
        PROVIDER,
        payload_header="x-payload",
        claims_to_headers=(("x-sub", ("sub",)), ("x-none", ("none",))),
        split=frozenset({"scope"}),
        header_metadata="header",
    )
    known = ask(filter_(None, made), token(), **{"x-sub": "root", "x-payload": "forged"})
    assert isinstance(known, Known)
    assert known.claims["payload"]["scope"] == ["read", "write"]
    assert known.claims["header"]["kid"] == "e"
    assert {"x-payload", "x-sub", "x-none"} < known.remove
    added = dict(known.add)
    assert added["x-sub"] == "joe"
    assert json.loads(jwt.utils.base64url_decode(added["x-payload"]))["sub"] == "joe"


def test_policies_by_claims() -> None:
    joe = JsonMatcher(JsonKind.STRING, text=StringMatcher(StringKind.EXACT, "joe"))
    allow = Rbac(Action.ALLOW, (Policy("joe", Anything(), Claim(("payload", "sub"), joe)),))
    optional = filter_(Either((Verified(replace(PROVIDER, claims_to_headers=(("x-sub", ("sub",)),))),), missing=True))
    listener = InboundListener(8080, filters=(optional, allow))

    def verdict(*lines: tuple[str, str]) -> Allow | Respond:
        return decide(listener, Caller(), Request("GET", "hello", "/", headers=list(lines)))

    forever = {"exp": None}
    allowed = verdict(("authorization", f"Bearer {token(**forever)}"))
    assert isinstance(allowed, Allow)
    assert allowed.remove >= {"authorization"}
    assert allowed.add == (("x-sub", "joe"),)
    for lines in ([], [("authorization", f"Bearer {token(sub='ann', **forever)}")]):
        refused = verdict(*lines)
        assert isinstance(refused, Respond)
        assert refused.body == b"RBAC: access denied"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_SIGNED = token(sub="root", nested=[[["x"]]], big=2**70)
FUZZ = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def encoded(data: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def changed(position: int, letter: str) -> str:
    at = position % len(_SIGNED)
    return _SIGNED[:at] + letter + _SIGNED[at + 1 :]


_HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["none", "None", "", "HS256", "ES256", "RS256", "PS256", "EdDSA"]) | _JSON},
    optional={"kid": st.sampled_from(["e", ""]) | _JSON, "crit": _JSON, "b64": _JSON, "jwk": _JSON},
)


@FUZZ
@given(
    st.text(max_size=100)
    | st.builds(changed, st.integers(0, 2000), st.characters())
    | st.builds(
        lambda header, claims, signature: f"{encoded(header)}.{encoded({**CLAIMS, **claims})}.{signature}",
        _HEADERS,
        st.dictionaries(st.sampled_from(["iss", "exp", "nbf", "aud", "sub"]), _JSON, max_size=3),
        st.sampled_from(["", "AAAA", _SIGNED.rpartition(".")[2]]) | st.text(max_size=20),
    )
)
def test_no_token_but_a_signed_one_holds(text: str) -> None:
    # Another spelling of the same last bits of the signature is the same signature.
    if text.startswith(_SIGNED.rpartition(".")[0] + "."):
        return
    answer = ask(filter_(), text)
    assert isinstance(answer, Respond), text
    assert answer.status in (401, 403)
    assert all(len(value) < 1000 for _, value in answer.headers)


@FUZZ
@given(st.dictionaries(st.sampled_from(["sub", "groups", "scope", "deep", "\ud800"]), _JSON, max_size=4))
def test_whatever_signed_claims_are(claims: dict[str, Any]) -> None:
    provider = replace(
        PROVIDER,
        claims_to_headers=tuple((f"x-{name}", (name,)) for name in ("sub", "groups", "deep")),
        split=frozenset({"scope"}),
    )
    known = ask(filter_(Verified(provider), provider), token(**claims))
    assert isinstance(known, Known)
    for _, line in known.add:
        line.encode("latin-1")
        assert not set("\r\n\0") & set(line)

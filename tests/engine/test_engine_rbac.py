"""RBAC as tables: conditions, what cannot be told, and the decision of a port."""

from ipaddress import ip_network
from typing import Any

import pytest
import re2

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import ALLOW, decide, strictest
from proxyless.engine.rbac import Situation, denied_by, holds
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.model.authentication import Either, JwtAuthn, JwtProvider, JwtRule, Verified
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
from proxyless.model.inbound import InboundListener, MutualTls
from proxyless.model.matching import HeaderMatcher, Regex, StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

PEER = SpiffeId("cluster.local", "shop", "frontend")
MUTUAL = Caller(True, PEER, "10.0.0.1:8080", "10.0.0.2:40000")
PLAIN = Caller(False, None, "10.0.0.1:8080", "[::ffff:192.168.1.9]:40000")
ANONYMOUS = Caller(True, None, "[fd00::1]:8080", "[fd00::2%eth0]:1")
FOREIGN = Caller()
UNKNOWN = Unknown("x")
ANY = Anything()


def exact(value: str, *, ignore_case: bool = False) -> StringMatcher:
    return StringMatcher(StringKind.EXACT, value, ignore_case)


def prefix(value: str) -> StringMatcher:
    return StringMatcher(StringKind.PREFIX, value)


def regex(source: str) -> StringMatcher:
    compiled = re2.compile(source.encode())
    return StringMatcher(
        StringKind.REGEX,
        source,
        regex=Regex(source, lambda text: compiled.fullmatch(text.encode("utf-8", "surrogateescape")) is not None),
    )


def address(side: Side, network: str) -> Address:
    return Address(side, ip_network(network))


def held(condition: Condition, caller: Caller = MUTUAL, claims: Any = None, **more: Any) -> bool | None:
    return holds(condition, Situation(Request("GET", "hello:8080", **{"path": "/", **more}), caller, claims))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (ANY, True),
        (UNKNOWN, None),
        (Not(ANY), False),
        (Not(UNKNOWN), None),
        (Not(Not(UNKNOWN)), None),
        (All((ANY, UNKNOWN)), None),
        (All((UNKNOWN, Not(ANY))), False),
        (All((ANY, ANY)), True),
        (Some((UNKNOWN, ANY)), True),
        (Some((Not(ANY), UNKNOWN)), None),
        (Some((Not(ANY), Not(ANY))), False),
        (Not(All((UNKNOWN, Not(ANY)))), True),
    ],
)
def test_trees(condition: Condition, expected: bool | None) -> None:
    assert held(condition) is expected


@pytest.mark.parametrize(
    ("action", "met", "passes"),
    [
        (Action.ALLOW, ANY, True),
        (Action.ALLOW, Not(ANY), False),
        (Action.ALLOW, UNKNOWN, False),
        (Action.ALLOW, Not(UNKNOWN), False),
        (Action.DENY, ANY, False),
        (Action.DENY, Not(ANY), True),
        (Action.DENY, UNKNOWN, False),
        (Action.DENY, Not(UNKNOWN), False),
    ],
)
@pytest.mark.parametrize("part", ["permission", "principal"])
def test_what_is_not_known_never_allows_and_always_denies(
    action: Action, met: Condition, passes: bool, part: str
) -> None:
    policy = Policy("p", met, ANY) if part == "permission" else Policy("p", ANY, met)
    found = denied_by(Rbac(action, (policy,)), Situation(Request("GET", "hello:8080", "/"), MUTUAL))
    assert (found is None) is passes
    assert passes or found == ("p" if action is Action.DENY else "none")


def test_no_policies() -> None:
    situation = Situation(Request("GET", "hello:8080", "/"), MUTUAL)
    assert denied_by(Rbac(Action.ALLOW), situation) == "none"
    assert denied_by(Rbac(Action.DENY), situation) is None


@pytest.mark.parametrize(
    ("caller", "name", "expected"),
    [
        (MUTUAL, None, True),
        (ANONYMOUS, None, True),
        (PLAIN, None, False),
        (FOREIGN, None, False),
        (MUTUAL, exact("spiffe://cluster.local/ns/shop/sa/frontend"), True),
        (MUTUAL, exact("spiffe://cluster.local/ns/shop/sa/front"), False),
        (MUTUAL, regex(".*/ns/shop/.*"), True),
        (MUTUAL, regex("/ns/shop/"), False),  # all of it must match
        (MUTUAL, regex(".*/ns/sho/.*"), False),
        (MUTUAL, exact("frontend.shop.sa.cluster.local"), False),  # the URI is who it is
        (ANONYMOUS, regex(".+"), False),
        (ANONYMOUS, regex(".*"), True),
        (PLAIN, regex(".*"), False),
    ],
)
def test_principals(caller: Caller, name: StringMatcher | None, expected: bool) -> None:
    assert held(Authenticated(name), caller) is expected


@pytest.mark.parametrize(
    ("condition", "caller", "expected"),
    [
        (address(Side.REMOTE, "10.0.0.0/24"), MUTUAL, True),
        (address(Side.REMOTE, "10.0.0.2/32"), MUTUAL, True),
        (address(Side.REMOTE, "10.0.0.3/32"), MUTUAL, False),
        (address(Side.REMOTE, "0.0.0.0/0"), MUTUAL, True),
        (address(Side.REMOTE, "::/0"), MUTUAL, False),
        # A dual-stack socket's spelling of an IPv4 address.
        (address(Side.REMOTE, "192.168.1.0/24"), PLAIN, True),
        (address(Side.REMOTE, "fd00::/8"), ANONYMOUS, True),
        (address(Side.LOCAL, "10.0.0.1/32"), MUTUAL, True),
        (address(Side.LOCAL, "10.0.0.2/32"), MUTUAL, False),
        (address(Side.REMOTE, "0.0.0.0/0"), FOREIGN, None),
        (address(Side.REMOTE, "0.0.0.0/0"), Caller(remote="unix:/x:0"), None),
        (LocalPort(8080, 8081), MUTUAL, True),
        (LocalPort(8081, 8082), MUTUAL, False),
        (LocalPort(8000, 9000), ANONYMOUS, True),
        (LocalPort(8080, 8081), FOREIGN, None),
        (ServerName(exact("")), PLAIN, True),
        (ServerName(exact("a")), PLAIN, False),
        (ServerName(exact("a")), MUTUAL, None),
        (ServerName(exact("a")), Caller(True, PEER, server_name="a"), True),
    ],
)
def test_connections(condition: Condition, caller: Caller, expected: bool | None) -> None:
    assert held(condition, caller) is expected


@pytest.mark.parametrize(
    ("matcher", "path", "expected"),
    [
        (exact("/admin"), "/admin", True),
        (exact("/admin"), "/admin?x=1", True),
        (exact("/admin"), "/Admin", False),
        (exact("/admin", ignore_case=True), "/Admin", True),
        (prefix("/admin/"), "/admin/x", True),
        (regex("/a/[^/]+"), "/a/b", True),
        (regex("/a/[^/]+"), "/a/b/c", False),
        # Applications see these decoded.
        (prefix("/admin/"), "/admin%2Fx", None),
        (prefix("/admin/"), "/admin%5Cx", None),
        (prefix("/admin/"), "//admin/x", None),
        (prefix("/public/"), "/public/..%2Fadmin", None),
        (regex("/a/[^/]+"), "/a/b%2Fc", None),
        (regex("/a/[^/]+"), "/a/b%5cc", None),
        (regex("/a/[a-z%0-9A-F]+"), "/a/caf%C3%A9", True),
        (regex("/@.*"), "/%40me", None),
        (exact("/@me"), "/%40me", None),
        (exact("/caf%C3%A9"), "/caf%C3%A9", True),
        (prefix("/files/"), "/files/a%20b", True),
        (prefix("/files/"), "/other/a%20b", False),
        (exact("/a%2Fb"), "/a%2Fb", True),
        (prefix("/proxy/"), "/proxy/http://x", True),
    ],
)
def test_paths(matcher: StringMatcher, path: str, expected: bool | None) -> None:
    assert held(UrlPath(matcher), path=path) is expected


LINES = [("x-role", "user"), ("x-role", "admin"), ("x-utf8", "caf\xc3\xa9"), ("x-broken", "evil\xff")]


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        (HeaderMatcher("x-role", exact("admin")), True),
        (HeaderMatcher("x-role", exact("root")), False),
        (HeaderMatcher("x-role", exact("admin"), invert=True), False),
        (HeaderMatcher("x-role", exact("root"), invert=True), True),
        (HeaderMatcher("x-role"), True),
        (HeaderMatcher("x-none"), False),
        (HeaderMatcher("x-none", invert=True), True),
        (HeaderMatcher("x-none", exact("a"), invert=True), False),
        (HeaderMatcher("x-none", exact("a"), invert=True, missing_as_empty=True), True),
        (HeaderMatcher("x-utf8", exact("café")), True),
        (HeaderMatcher("x-utf8", regex("caf.")), True),
        (HeaderMatcher("x-broken", prefix("evil")), True),
        (HeaderMatcher("x-broken", regex("evil.*")), None),
        (HeaderMatcher(":method", exact("GET")), True),
        (HeaderMatcher(":authority", exact("hello:8080")), True),
        (HeaderMatcher("host", exact("hello:8080")), True),
        (HeaderMatcher(":path", prefix("/")), True),
    ],
)
def test_headers(matcher: HeaderMatcher, expected: bool | None) -> None:
    assert held(Header(matcher), headers=LINES) is expected


def test_an_authority_that_the_server_does_not_know() -> None:
    request = Request("POST", "10.0.0.1:8080", "/a.B/C")
    condition = Header(HeaderMatcher(":authority", exact("hello:8080")))
    assert holds(condition, Situation(request, MUTUAL, authority_known=False)) is None


TEXT = JsonMatcher(JsonKind.STRING, text=exact("a"))


@pytest.mark.parametrize(
    ("path", "matcher", "expected"),
    [
        (("payload", "sub"), TEXT, True),
        (("payload", "groups"), TEXT, False),
        (("payload", "groups"), JsonMatcher(JsonKind.ONE_OF, parts=(TEXT,)), True),
        (("payload", "sub"), JsonMatcher(JsonKind.ONE_OF, parts=(TEXT,)), False),
        (("payload", "sub"), JsonMatcher(JsonKind.ANY_OF, parts=(JsonMatcher(JsonKind.NULL), TEXT)), True),
        (("payload", "nested", "deep"), JsonMatcher(JsonKind.NUMBER, number=(1, 2)), True),
        (("payload", "nested", "deep"), JsonMatcher(JsonKind.NUMBER, number=(2, 2)), False),
        (("payload", "flag"), JsonMatcher(JsonKind.BOOL, flag=True), True),
        (("payload", "flag"), JsonMatcher(JsonKind.NUMBER, number=(1, 1)), False),
        (("payload", "nothing"), JsonMatcher(JsonKind.NULL), True),
        (("payload", "absent"), JsonMatcher(JsonKind.NULL), False),
        (("payload", "absent"), JsonMatcher(JsonKind.PRESENT), False),
        (("payload", "sub"), JsonMatcher(JsonKind.PRESENT), True),
        (("payload", "sub", "x"), JsonMatcher(JsonKind.PRESENT), False),
        (("payload", "sub"), JsonMatcher(JsonKind.NEVER), False),
    ],
)
def test_claims(path: tuple[str, ...], matcher: JsonMatcher, expected: bool) -> None:
    payload = {"sub": "a", "groups": ["b", "a"], "nested": {"deep": 1.5}, "flag": True, "nothing": None}
    assert held(Claim(path, matcher), claims={"payload": payload}) is expected
    assert held(Claim(path, matcher, invert=True), claims={"payload": payload}) is not expected


def test_the_answer_to_what_is_denied() -> None:
    rule = Policy("ns[shop]-policy[no-admin]-rule[0]", UrlPath(prefix("/admin")), ANY)
    listener = InboundListener(
        8080, filters=(Rbac(Action.DENY, (rule,)), Rbac(Action.ALLOW, (Policy("all", ANY, ANY),)))
    )
    assert decide(listener, PLAIN, Request("GET", "hello:8080", "/")) is ALLOW
    verdict = decide(listener, MUTUAL, Request("GET", "hello:8080", "/admin"))
    assert isinstance(verdict, Respond)
    assert (verdict.status, verdict.body, verdict.flags) == (403, b"RBAC: access denied", ())
    assert verdict.reason == "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]"
    head = Request("POST", "hello:8080", "/admin.X/Y", headers=[("content-type", "application/grpc")])
    verdict = decide(listener, MUTUAL, head)
    assert isinstance(verdict, Respond)
    assert dict(verdict.headers)["grpc-status"] == "7"
    assert dict(verdict.headers)["grpc-message"] == "RBAC: access denied"


def test_mutual_tls_comes_first_and_every_filter_counts() -> None:
    everybody = Rbac(Action.ALLOW, (Policy("all", ANY, ANY),))
    head = Request("GET", "hello:8080", "/")
    strict = InboundListener(8080, MutualTls.STRICT, filters=(everybody,))
    verdict = decide(strict, PLAIN, head)
    assert isinstance(verdict, Respond)
    assert verdict.body == b"mutual TLS required"
    assert decide(strict, MUTUAL, head) is ALLOW
    verdict = decide(InboundListener(8080, filters=(everybody, Rbac(Action.ALLOW))), MUTUAL, head)
    assert isinstance(verdict, Respond)
    assert verdict.reason == "rbac_access_denied_matched_policy[none]"


def test_where_the_port_is_not_known_the_filters_of_all_count() -> None:
    nobody = Rbac(Action.ALLOW)
    found = strictest([InboundListener(1, filters=(nobody,)), InboundListener(2, MutualTls.STRICT)])
    assert found is not None
    assert (found.port, found.filters) == (2, (nobody,))
    assert strictest([]) is None


KEYLESS = JwtProvider("p", headers=(("authorization", "Bearer "),), params=("access_token",), cookies=("session",))


def tokens(*, missing: bool) -> InboundListener:
    """Of a filter with something unknown."""
    rule = JwtRule(None, Either((Verified(KEYLESS),), missing=missing))
    return InboundListener(8080, filters=(JwtAuthn((rule,), (KEYLESS,)),))


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", [], None),
        ("/", [("authorization", "Basic x")], None),
        ("/", [("authorization", "Bearer x")], 401),
        ("/", [("authorization", "Basic x"), ("authorization", "Bearer x")], 401),
        ("/?a=1&access_token=x", [], 401),
        ("/?access%5Ftoken=x", [], 401),
        ("/", [("cookie", "a=1; session=x")], 401),
        ("/", [("cookie", "a=1; sessions=x")], None),
    ],
)
def test_tokens_that_nobody_verified(path: str, headers: list[tuple[str, str]], status: int | None) -> None:
    verdict = decide(tokens(missing=True), MUTUAL, Request("GET", "hello", path, headers=headers))
    assert (verdict.status if isinstance(verdict, Respond) else None) == status
    if isinstance(verdict, Respond):
        challenge = dict(verdict.headers)["www-authenticate"]
        assert challenge == f'Bearer realm="http://hello{path}", error="invalid_token"'


def test_a_token_that_is_required() -> None:
    verdict = decide(tokens(missing=False), MUTUAL, Request("GET", "hello", "/"))
    assert isinstance(verdict, Respond)
    assert (verdict.status, verdict.body) == (401, b"Jwt is missing")
    assert dict(verdict.headers)["www-authenticate"] == 'Bearer realm="http://hello/"'

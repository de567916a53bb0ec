"""Authorization policies at servers: who is let in over TLS and plaintext, and under servers that are not ours."""

import socket
from ipaddress import ip_network
from typing import Any
from wsgiref.util import setup_testing_defaults

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from inbound_support import CLIENT, DOMAIN, Authority, TestRuntime, exchange
from inbound_support import serving_in_thread as serving
from test_inbound_asgi import call, http, ok

from proxyless.model.authentication import JwtAuthn, JwtKey, JwtProvider, JwtRule, Verified
from proxyless.model.authorization import (
    Action,
    Address,
    Anything,
    Authenticated,
    Header,
    Policy,
    Rbac,
    ServerName,
    Side,
    UrlPath,
)
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import HeaderMatcher, StringKind, StringMatcher
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.wsgi import MeshWSGI

ANY = Anything()
FRONTEND = Authenticated(StringMatcher(StringKind.EXACT, str(CLIENT)))
ADMIN = UrlPath(StringMatcher(StringKind.PREFIX, "/admin"))
DENY_ADMIN = Rbac(Action.DENY, (Policy("no-admin", ADMIN, ANY),))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_only_a_named_caller_is_let_in(authority: Authority, runtime: TestRuntime, loop: str) -> None:
    with serving(ok, runtime, loop) as server:
        with server.connect() as before:
            assert exchange(before).status == 200
            runtime.require(
                server.port, MutualTls.PERMISSIVE, filters=(Rbac(Action.ALLOW, (Policy("frontend", ANY, FRONTEND),)),)
            )
            # The next request of a connection that is open; which stays open.
            for _ in range(2):
                refused = exchange(before)
                assert (refused.status, refused.body) == (403, b"RBAC: access denied")
            assert refused.header("x-proxyless-reason") == "rbac_access_denied_matched_policy[none]"
            assert refused.header("x-envoy-response-flags") is None
        assert server.request(context=authority.client_context()).status == 403
        assert server.request(context=authority.client_context(str(CLIENT))).status == 200
        other = authority.client_context(f"spiffe://{DOMAIN}/ns/shop/sa/frontend2")
        assert server.request(context=other).status == 403


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_name_that_a_tls_client_asks_for(authority: Authority, runtime: TestRuntime, loop: str) -> None:
    asked = ServerName(StringMatcher(StringKind.EXACT, "a.example"))

    def status(name: str | None) -> int:
        context = authority.client_context()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
            connection = context.wrap_socket(plain, server_hostname=name) if name is not None else plain
            return exchange(connection, "/", "connection: close").status

    with serving(ok, runtime, loop) as server:
        runtime.require(server.port, MutualTls.PERMISSIVE, filters=(Rbac(Action.ALLOW, (Policy("p", asked, ANY),)),))
        assert [status(name) for name in ("a.example", "A.Example", "b.example", "127.0.0.1", None)] == [
            200, 200, 403, 403, 403,
        ]  # fmt: skip
        runtime.require(server.port, MutualTls.PERMISSIVE, filters=(Rbac(Action.DENY, (Policy("p", asked, ANY),)),))
        assert [status(name) for name in ("a.example", "b.example", "127.0.0.1", None)] == [403, 200, 200, 200]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/public", 200),
        ("/admin", 403),
        ("/admin?x=/public", 403),
        ("/public/../admin", 403),
        ("/public/%2e%2E/admin", 403),
        ("/%61dmin", 403),
        ("//admin", 403),
        ("/%2Fadmin", 403),
        ("/public%2F..%2Fadmin", 403),
        ("/.%5Cadmin", 403),
        ("/public/caf%C3%A9", 200),
    ],
)
def test_no_spelling_of_a_path_escapes_a_policy(runtime: TestRuntime, path: str, status: int) -> None:
    with serving(ok, runtime) as server:
        runtime.require(server.port, MutualTls.PERMISSIVE, filters=(DENY_ADMIN,))
        assert server.request(path).status == status


def test_addresses_and_headers_of_a_connection(runtime: TestRuntime) -> None:
    local = Address(Side.REMOTE, ip_network("127.0.0.0/8"))
    header = Header(HeaderMatcher("x-role", StringMatcher(StringKind.EXACT, "admin")))
    with serving(ok, runtime) as server:
        rule = Rbac(Action.ALLOW, (Policy("p", header, local),))
        runtime.require(server.port, MutualTls.PERMISSIVE, filters=(rule,))
        assert server.request("/").status == 403
        assert server.request("/", "x-role: user", "X-Role: admin").status == 200


def test_a_foreign_asgi_server_tells_addresses_and_no_identities(runtime: TestRuntime) -> None:
    near = Address(Side.REMOTE, ip_network("10.1.1.0/24"))
    runtime.require(8080, MutualTls.PERMISSIVE, filters=(Rbac(Action.ALLOW, (Policy("near", ANY, near),)),))
    app = MeshASGI(ok, runtime)
    assert call(app, http())[0]["status"] == 200
    assert call(app, http(client=("10.1.2.1", 1)))[0]["status"] == 403
    assert call(app, http(client=None))[0]["status"] == 403
    runtime.require(8080, MutualTls.PERMISSIVE, filters=(Rbac(Action.DENY, (Policy("near", ANY, near),)),))
    assert call(app, http(client=("10.1.2.1", 1)))[0]["status"] == 200
    # It cannot be told that it is not one of them.
    assert call(app, http(client=None))[0]["status"] == 403
    runtime.require(8080, MutualTls.PERMISSIVE, filters=(Rbac(Action.ALLOW, (Policy("p", ANY, FRONTEND),)),))
    assert call(app, http())[0]["status"] == 403


def test_a_server_that_does_not_tell_its_port_keeps_to_what_all_ports_require(runtime: TestRuntime) -> None:
    app = MeshASGI(ok, runtime)
    assert call(app, http(server=("/run/app.sock", None)))[0]["status"] == 200
    runtime.require(8080, MutualTls.PERMISSIVE, filters=(Rbac(Action.ALLOW),))
    for server in (("/run/app.sock", None), None, ("127.0.0.1", 9999)):
        assert call(app, http(server=server))[0]["status"] == 403
    statuses: list[str] = []
    # gunicorn on a Unix socket takes it from the Host header.
    environ: dict[str, Any] = {"SERVER_PORT": "9999", "HTTP_HOST": "hello:9999"}
    setup_testing_defaults(environ)
    list(MeshWSGI(lambda *_: [], runtime)(environ, lambda status, headers: statuses.append(status)))
    assert statuses == ["403 Forbidden"]


def test_wsgi(runtime: TestRuntime) -> None:
    runtime.require(8080, MutualTls.PERMISSIVE, filters=(DENY_ADMIN,))
    seen: list[str] = []
    statuses: list[str] = []

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        seen.append(environ.get("SCRIPT_NAME", "") + "|" + environ["PATH_INFO"])
        start("200 OK", [])
        return [b"ok"]

    def get(path: str, mounted: str = "") -> str:
        environ: dict[str, Any] = {"SERVER_PORT": "8080", "HTTP_HOST": "hello"}
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "SCRIPT_NAME": mounted}
        response: Any = MeshWSGI(app, runtime)(environ, lambda status, headers: statuses.append(status))
        return b"".join(response).decode()

    assert get("/public") == "ok"
    for path in ("/admin", "/public/../admin", "//admin", "/./admin", "/x\\..\\admin"):
        assert get(path) == "RBAC: access denied", path
    assert get("/a/./b", "/app") == "ok"
    assert get("/../b", "/app") == "ok"
    assert seen == ["|/public", "/app|/a/b", "|/b"]
    assert set(statuses) == {"200 OK", "403 Forbidden"}


def test_tokens(runtime: TestRuntime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    provider = JwtProvider(
        "p",
        "me",
        keys=(JwtKey("jwk", "", ("ES256",), key.public_key()),),
        headers=(("authorization", "Bearer "),),
        claims_to_headers=(("x-sub", ("sub",)),),
    )
    filters = (JwtAuthn((JwtRule(None, Verified(provider)),), (provider,)),)
    bearer = f"Bearer {jwt.encode({'iss': 'me', 'sub': 'joe'}, key, 'ES256')}"
    seen: list[dict[bytes, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))
        await ok(scope, receive, send)

    with serving(app, runtime) as server:
        runtime.require(server.port, MutualTls.PERMISSIVE, filters=filters)
        refused = server.request()
        assert (refused.status, refused.body) == (401, b"Jwt is missing")
        assert refused.header("www-authenticate") == 'Bearer realm="http://hello/"'
        assert server.request("/", f"authorization: {bearer}x").status == 401
        assert server.request("/", f"authorization: {bearer}", "x-sub: root").status == 200
    assert seen[0][b"x-sub"] == b"joe"
    assert b"authorization" not in seen[0]

    runtime.require(8080, MutualTls.PERMISSIVE, filters=filters)
    variables: list[Any] = []

    def wsgi(environ: dict[str, Any], start: Any) -> list[bytes]:
        variables.extend((environ["HTTP_X_SUB"], environ.get("HTTP_AUTHORIZATION")))
        start("200 OK", [])
        return []

    environ: dict[str, Any] = {"SERVER_PORT": "8080", "HTTP_AUTHORIZATION": bearer, "HTTP_X_SUB": "root"}
    setup_testing_defaults(environ)
    list(MeshWSGI(wsgi, runtime)(environ, lambda status, headers: None))
    assert variables == ["joe", None]

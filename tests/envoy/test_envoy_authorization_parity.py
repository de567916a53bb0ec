"""A real Envoy and our servers' decision have to agree on the same RBAC and JWT filters."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.listener.v3 import listener_pb2
from envoy_mesh import until
from google.protobuf import json_format

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import decide
from proxyless.engine.paths import normalised
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.envoy.binary import find_envoy
from proxyless.model.inbound import InboundListener
from proxyless.xds_client.compile.inbound import compile_inbound

TYPE = "type.googleapis.com/envoy.extensions.filters.http"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
JWKS = json.dumps({"keys": [json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))]})
ANY = [{"any": True}]


def rbac(action: str, permission: Any = None, principal: Any = None) -> dict[str, Any]:
    policy = {"permissions": [permission] if permission else ANY, "principals": [principal] if principal else ANY}
    rules = {"action": action, "policies": {"the policy": policy}}
    return {"name": "envoy.filters.http.rbac", "typed_config": {"@type": f"{TYPE}.rbac.v3.RBAC", "rules": rules}}


def header(name: str, **match: Any) -> dict[str, Any]:
    return {"header": {"name": name, **match}}


def jwt_authn(requires: dict[str, Any], **provider: Any) -> dict[str, Any]:
    config = {
        "@type": f"{TYPE}.jwt_authn.v3.JwtAuthentication",
        "providers": {
            "p": {
                "issuer": "me",
                "local_jwks": {"inline_string": JWKS},
                "payload_in_metadata": "payload",
                **provider,
            }
        },
        "rules": [{"match": {"prefix": "/"}, "requires": requires}],
    }
    return {"name": "envoy.filters.http.jwt_authn", "typed_config": config}


def claim(*path: str, **value: Any) -> dict[str, Any]:
    keys = [{"key": key} for key in path]
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}}


OPTIONAL = {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}
ROLE = {"string_match": {"exact": "admin"}}
JOE = {"string_match": {"exact": "joe"}}
LISTENERS: dict[str, list[dict[str, Any]]] = {
    "nobody": [
        {
            "name": "envoy.filters.http.rbac",
            "typed_config": {"@type": f"{TYPE}.rbac.v3.RBAC", "rules": {"action": "ALLOW"}},
        }
    ],
    "no-engine": [{"name": "envoy.filters.http.rbac", "typed_config": {"@type": f"{TYPE}.rbac.v3.RBAC"}}],
    "deny-admin": [rbac("DENY", {"url_path": {"path": {"prefix": "/admin"}}})],
    "allow-regex": [rbac("ALLOW", {"url_path": {"path": {"safe_regex": {"regex": "/a/[^/]+"}}}})],
    "role": [rbac("ALLOW", header("X-Role", **ROLE))],
    "not-role": [rbac("ALLOW", header("x-role", invert_match=True, **ROLE))],
    "not-rule": [rbac("DENY", {"not_rule": header("x-role", **ROLE)})],
    "present": [rbac("ALLOW", header("x-role", present_match=True))],
    "absent": [rbac("ALLOW", header("x-role", present_match=False))],
    "method": [rbac("ALLOW", header(":method", string_match={"exact": "GET"}))],
    "host": [rbac("ALLOW", header(":authority", string_match={"exact": "hello"}))],
    "authenticated": [rbac("ALLOW", None, {"authenticated": {}})],
    "local": [rbac("ALLOW", None, {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}})],
    "not-local": [rbac("DENY", None, {"not_id": {"direct_remote_ip": {"address_prefix": "10.0.0.0"}}})],
    "sni": [rbac("ALLOW", {"requested_server_name": {"exact": ""}})],
    "jwt": [jwt_authn({"provider_name": "p"})],
    "jwt-optional": [jwt_authn(OPTIONAL), rbac("ALLOW", None, claim("payload", "sub", **JOE))],
    "jwt-audience": [jwt_authn({"provider_name": "p"}, audiences=["a"])],
    "jwt-list": [
        jwt_authn(OPTIONAL),
        rbac("DENY", None, claim("payload", "aud", list_match={"one_of": {"string_match": {"exact": "b"}}})),
    ],
}
NAMES = list(LISTENERS)


def token(key: Any = KEY, **claims: Any) -> tuple[str, str]:
    return "authorization", "Bearer " + jwt.encode({"iss": "me", "sub": "joe", **claims}, key, "ES256")


Lines = list[tuple[str, str]]
REQUESTS: list[tuple[str, str, Lines]] = [
    ("GET", "/", []),
    ("POST", "/", []),
    ("GET", "/admin?x=1", []),
    ("GET", "/x/../admin", []),
    ("GET", "/x/%2e%2e/%61dmin", []),
    ("GET", "/a/b", []),
    ("GET", "/a/b/c", []),
    ("GET", "/", [("x-role", "admin")]),
    ("GET", "/", [("x-role", "user")]),
    ("GET", "/", [("x-role", "user"), ("x-role", "admin")]),
    ("GET", "/", [("x-role", "user,admin")]),
    ("GET", "/", [token()]),
    ("GET", "/", [token(sub="ann")]),
    ("GET", "/", [token(iss="you")]),
    ("GET", "/", [token(exp=1_000_000_000)]),
    ("GET", "/", [token(nbf=4_000_000_000)]),
    ("GET", "/", [token(OTHER)]),
    ("GET", "/", [token(aud="a")]),
    ("GET", "/", [token(aud=["b", "c"])]),
    ("GET", "/", [("authorization", "Bearer x")]),
    ("GET", "/", [("authorization", "Basic x")]),
    ("GET", f"/?access_token={token()[1].removeprefix('Bearer ')}", []),
]


def listener(name: str) -> dict[str, Any]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "x",
        "normalize_path": True,
        "http_filters": [
            *LISTENERS[name],
            {"name": "router", "typed_config": {"@type": f"{TYPE}.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "h",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": name, "address": address, "filter_chains": [chain]}


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory, "admin")
        config = {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": [listener(name) for name in NAMES]},
        }
        command = [str(find_envoy()), "--config-yaml", json.dumps(config), "--admin-address-path", str(where)]
        process = subprocess.Popen([*command, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"])
        try:

            def listening() -> dict[str, int] | None:
                assert process.poll() is None
                if not where.exists() or not (admin := where.read_text()):
                    return None
                try:
                    found = httpx2.get(f"http://{admin}/listeners?format=json").json()
                except httpx2.TransportError:
                    return None
                told = found.get("listener_statuses", [])
                named = {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in told}
                return named if len(named) == len(NAMES) else None

            yield until("Envoy's listeners", listening, 60)
        finally:
            process.kill()
            process.wait()


def ours(name: str) -> InboundListener:
    message = json_format.ParseDict(listener(name), listener_pb2.Listener())
    message.address.socket_address.port_value = 80
    return compile_inbound(message)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_answers(ports: dict[str, int], name: str) -> None:
    compiled = ours(name)
    assert not compiled.ignored
    caller = Caller(False, None, f"127.0.0.1:{ports[name]}", "127.0.0.1:1000")
    with httpx2.Client(trust_env=False) as client:
        for method, path, lines in REQUESTS:
            url = f"http://127.0.0.1:{ports[name]}/"
            sent = client.build_request(method, url, headers=[("host", "hello"), *lines])
            sent.url = sent.url.copy_with(raw_path=path.encode())
            theirs = client.send(sent)
            verdict = decide(compiled, caller, Request(method, "hello", normalised(path), headers=list(lines)))
            what = f"{name}: {method} {path} {lines}"
            if not isinstance(verdict, Respond):
                assert theirs.status_code == 200, (what, theirs.text)
                continue
            assert (theirs.status_code, theirs.text) == (verdict.status, verdict.body.decode()), what
            challenge = dict(verdict.headers).get("www-authenticate")
            assert theirs.headers.get("www-authenticate") == challenge, what

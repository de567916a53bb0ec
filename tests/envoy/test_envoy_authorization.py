"""Authorization by a real Envoy: who gets through to a server that knows nothing of it, with which token."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from envoy_mesh import EnvoyMesh, Sidecar, plain_server, until

from proxyless.envoy.free_ports import choose_ports

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
JWKS = json.dumps({"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "1"}]})

CONFIG = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow}}
spec:
  selector: {{matchLabels: {{app: plain}}}}
  rules:
  - to: [{{operation: {{paths: [/open, /open/*]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/caller]}}}}]
    to: [{{operation: {{paths: [/caller]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/call]}}}}]
    to: [{{operation: {{paths: [/nearly]}}}}]
  - from: [{{source: {{principals: ["*/sa/caller"]}}}}]
    to: [{{operation: {{paths: [/suffix]}}}}]
  - from: [{{source: {{principals: ["*"]}}}}]
    to: [{{operation: {{paths: [/anybody]}}}}]
  - from: [{{source: {{notPrincipals: ["*"]}}}}]
    to: [{{operation: {{paths: [/nobody]}}}}]
  - from: [{{source: {{namespaces: [default]}}}}]
    to: [{{operation: {{paths: [/namespace]}}}}]
  - from: [{{source: {{namespaces: [defaul]}}}}]
    to: [{{operation: {{paths: [/elsewhere]}}}}]
  - from: [{{source: {{serviceAccounts: [caller]}}}}]
    to: [{{operation: {{paths: [/account]}}}}]
  - from: [{{source: {{ipBlocks: [127.0.0.0/8]}}}}]
    to: [{{operation: {{paths: [/loopback]}}}}]
  - from: [{{source: {{ipBlocks: [10.0.0.0/8]}}}}]
    to: [{{operation: {{paths: [/remote]}}}}]
  - to: [{{operation: {{paths: ["/template/{{*}}/x/{{**}}"]}}}}]
  - to: [{{operation: {{paths: [/not-get], notMethods: [GET]}}}}]
  - to: [{{operation: {{paths: [/not-port], notPorts: ["1"]}}}}]
  - to: [{{operation: {{paths: [/host], hosts: [ALLOWED.example]}}}}]
  - to: [{{operation: {{paths: [/header]}}}}]
    when: [{{key: "request.headers[X-Key]", values: ["k*"]}}]
  - from: [{{source: {{requestPrincipals: ["*"]}}}}]
    to: [{{operation: {{paths: [/token]}}}}]
  - from: [{{source: {{requestPrincipals: [issuer/alice]}}}}]
    to: [{{operation: {{paths: [/alice]}}}}]
  - to: [{{operation: {{paths: [/admins]}}}}]
    when: [{{key: "request.auth.claims[groups]", values: [admins]}}]
  - to: [{{operation: {{paths: [/nested]}}}}]
    when: [{{key: "request.auth.claims[a][b]", values: [c]}}]
  - to: [{{operation: {{paths: [/scope]}}}}]
    when: [{{key: "request.auth.claims[scope]", values: [read]}}]
  - to: [{{operation: {{paths: [/audience]}}}}]
    when: [{{key: "request.auth.audiences", values: [us]}}]
  - to: [{{operation: {{ports: ["{tcp}"]}}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: deny}}
spec:
  action: DENY
  rules:
  - to: [{{operation: {{paths: [/open/secret, /open/secret/*], notPorts: ["{tcp}", "{closed}"]}}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: elsewhere}}
spec: {{selector: {{matchLabels: {{app: somebody}}}}, action: DENY, rules: [{{}}]}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens}}
spec:
  selector: {{matchLabels: {{app: plain}}}}
  jwtRules:
  - {{issuer: issuer, jwks: '{jwks}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}
  - {{issuer: fetched, jwksUri: "http://keys.test:{keys}/keys"}}
  - {{issuer: keyless}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: keys}}
spec:
  hosts: [keys.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: {keys}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: plain}}
spec:
  workloadSelector: {{labels: {{app: plain}}}}
  ingress:
  - {{port: {{number: {tcp}, protocol: TCP, name: tcp}}, bind: 127.0.0.1, defaultEndpoint: 127.0.0.1:{plain}}}
  - {{port: {{number: {closed}, protocol: TCP, name: tcp2}}, bind: 127.0.0.1, defaultEndpoint: 127.0.0.1:{plain}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: plain}}
spec:
  selector: {{matchLabels: {{app: plain}}}}
  portLevelMtls: {{{tcp}: {{mode: DISABLE}}, {closed}: {{mode: DISABLE}}}}
"""


@contextlib.contextmanager
def key_server() -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(JWKS.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class World:
    mesh: EnvoyMesh
    side: Sidecar
    tcp: int
    closed: int
    caller: httpx2.Client
    anonymous: httpx2.Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    mesh = EnvoyMesh(tmp_path_factory.mktemp("z"))
    tcp, closed = choose_ports([("127.0.0.1", 0, "")] * 2)
    with contextlib.ExitStack() as stack:
        plain, keys = stack.enter_context(plain_server("plain")), stack.enter_context(key_server())
        stack.callback(mesh.close)
        mesh.start_control_plane(CONFIG.format(jwks=JWKS, keys=keys, plain=plain, tcp=tcp, closed=closed))
        side = mesh.sidecar("side", "plain", plain)
        until("SYNCED", lambda: {one["state"] for one in mesh.types("plain").values()} == {"SYNCED"})
        caller = stack.enter_context(httpx2.Client(transport=mesh.mesh("caller").transport(), timeout=30))
        anonymous = stack.enter_context(httpx2.Client(trust_env=False, base_url=f"http://{side.inbound}", timeout=30))
        until("the sidecar", lambda: _answers(caller))
        yield World(mesh, side, tcp, closed, caller, anonymous)


def _answers(caller: httpx2.Client) -> bool:
    try:
        return caller.get("http://plain/open").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("path", "identified", "anonymous"),
    [
        ("/open", 200, 200),
        ("/open/x?y", 200, 200),
        ("/open/secret", 403, 403),
        ("/open/secret?x", 403, 403),
        ("/open/./a/../secret", 403, 403),
        ("/openx", 403, 403),
        ("/caller", 200, 403),
        ("/nearly", 403, 403),
        ("/suffix", 200, 403),
        ("/anybody", 200, 403),
        ("/nobody", 403, 200),
        ("/namespace", 200, 403),
        ("/elsewhere", 403, 403),
        ("/account", 200, 403),
        ("/loopback", 200, 200),
        ("/remote", 403, 403),
        ("/template/a/x/", 200, 200),
        ("/template/a-1/x/b/c", 200, 200),
        ("/template/a/b/x/c", 403, 403),
        ("/template//x/c", 403, 403),
        ("/not-get", 403, 403),
        ("/not-port", 200, 200),
        ("/header", 403, 403),
        ("/token", 403, 403),
        ("/", 403, 403),
    ],
)
def test_who_may_call(world: World, path: str, identified: int, anonymous: int) -> None:
    assert world.caller.get(f"http://plain{path}").status_code == identified
    assert world.anonymous.get(path).status_code == anonymous


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/host", {"host": "allowed.EXAMPLE"}, 200),
        ("/host", {"host": "allowed.example.org"}, 403),
        ("/header", {"x-key": "key"}, 200),
        ("/header", {"x-key": "no key"}, 403),
    ],
)
def test_headers(world: World, path: str, headers: dict[str, str], status: int) -> None:
    assert world.anonymous.get(path, headers=headers).status_code == status


def token(key: Any = KEY, **claims: Any) -> str:
    said = {"iss": "issuer", "sub": "alice", "exp": int(time.time()) + 3600, **claims}
    return jwt.encode(said, key, algorithm="RS256", headers={"kid": "1"})


@pytest.mark.parametrize(
    ("path", "made", "status"),
    [
        ("/token", {}, 200),
        ("/token", {"iss": "fetched"}, 200),
        ("/token", {"iss": "keyless"}, 401),
        ("/token", {"iss": "unknown"}, 401),
        ("/token", {"key": OTHER_KEY}, 401),
        ("/token", {"exp": 1}, 401),
        # Also where no rule asks for one.
        ("/open", {}, 200),
        ("/open", {"key": OTHER_KEY}, 401),
        ("/open/secret", {}, 403),
        ("/alice", {}, 200),
        ("/alice", {"sub": "bob"}, 403),
        ("/alice", {"iss": "fetched"}, 403),
        ("/admins", {"groups": ["users", "admins"]}, 200),
        ("/admins", {"groups": "admins"}, 200),
        ("/admins", {"groups": ["users"]}, 403),
        ("/nested", {"a": {"b": "c"}}, 200),
        ("/nested", {"a": "c"}, 403),
        ("/scope", {"scope": "write read"}, 200),
        ("/scope", {"scope": "reader"}, 403),
        ("/audience", {"aud": ["us", "them"]}, 200),
        ("/audience", {"aud": "them"}, 403),
    ],
)
def test_tokens(world: World, path: str, made: dict[str, Any], status: int) -> None:
    bearer = {"authorization": f"Bearer {token(**made)}"}
    answer = world.anonymous.get(path, headers=bearer)
    assert answer.status_code == status, answer.text
    if status == 200:
        seen = answer.json()["headers"]
        # It is not handed on, unless the rule says so.
        assert "authorization" not in seen
        assert seen.get("x-sub") == (None if made.get("iss") == "fetched" else "alice")


def test_connections(world: World) -> None:
    """Rules about requests let no connection in, and one about the port does."""

    def answered(port: int) -> bytes:
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return connection.recv(100)
        return b""

    assert answered(world.tcp).startswith(b"HTTP/1.1 200")
    assert answered(world.closed) == b""


def test_envoy_takes_all_of_it_and_changes_act(world: World) -> None:
    refused = {name: value for name, value in world.side.stats(r"update_rejected$").items() if value}
    assert refused == {}
    world.mesh.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: more}\nspec: {rules: [{}]}\n"
    )

    def status(path: str) -> int:
        # Connections that are there keep what they began with.
        return httpx2.get(f"http://{world.side.inbound}{path}", trust_env=False).status_code

    until("everybody", lambda: status("/") == 200)
    assert status("/open/secret") == 403
    world.mesh.run("delete", "AuthorizationPolicy", "more", "-n", "default")
    until("some", lambda: status("/") == 403)
    assert status("/open") == 200

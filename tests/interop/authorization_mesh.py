"""A mesh with a server of every kind, in which one is behind policies about everything there can be policies about."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from envoy_mesh import EnvoyMesh, Sidecar, plain_server, until
from free_ports import free_ports
from grpc_mesh import GrpcMesh
from running_control_plane import RunningControlPlane

import proxyless

GRPC_APPS = Path(__file__).parent.parent / "grpc_server" / "apps"
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
  - {{issuer: fetched, jwksUri: "http://127.0.0.1:{keys}/keys"}}
  - {{issuer: keyless}}
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
metadata: {{name: echo}}
spec: {{selector: {{matchLabels: {{app: echo}}}}, mtls: {{mode: STRICT}}}}
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
class Guarded:
    """Servers of every kind. side: the sidecar of ``plain``, which CONFIG is about; the others have no policy.

    beside: a sidecar; web: ``proxyless serve``; greeter: ``mesh.grpc_server``; echo: gRPC's own xDS server, STRICT.
    callers: ``caller`` of the namespace default, ``stranger`` of the namespace other.
    """

    mesh: EnvoyMesh
    control: RunningControlPlane
    side: Sidecar
    beside: Sidecar
    web: int
    greeter: int
    echo: int
    tcp: int
    closed: int
    callers: dict[str, proxyless.Mesh]
    clients: dict[str, httpx2.Client]

    @property
    def caller(self) -> httpx2.Client:
        return self.clients["caller"]

    @property
    def anonymous(self) -> httpx2.Client:
        return self.clients["anonymous"]


@contextlib.contextmanager
def guarded_mesh(folder: Path) -> Iterator[Guarded]:
    mesh = EnvoyMesh(folder)
    # The control plane fetches keys from here.
    mesh.processes.environment["NO_PROXY"] = "127.0.0.1"
    ports = free_ports(4)
    tcp, closed, web, greeter = ports
    with contextlib.ExitStack() as stack:
        plain, keys = stack.enter_context(plain_server("plain")), stack.enter_context(key_server())
        stack.callback(mesh.close)
        mesh.start_control_plane(CONFIG.format(jwks=JWKS, keys=keys, plain=plain, tcp=tcp, closed=closed))
        mesh.start_serving("web", "web", "--port", str(web), "--access-log")
        own = ("--service", "greeter", "--service-account", "greeter", "--port", f"grpc={greeter}")
        mesh.processes.start("greeter", "serve", "--grpc", "greeter:Greeter", *own, cwd=GRPC_APPS)
        running = RunningControlPlane(mesh.state_dir)
        running.at = mesh.addresses
        echo = stack.enter_context(GrpcMesh(running, folder).server("echo", "echo"))
        side = mesh.sidecar("side", "plain", plain)
        beside = mesh.sidecar("beside", "beside", plain)
        mesh.wait_serving("web")
        mesh.wait_serving("greeter")
        callers = {"caller": mesh.mesh("caller"), "stranger": mesh.mesh("stranger", namespace="other")}
        clients = {
            name: stack.enter_context(httpx2.Client(transport=one.transport(), timeout=30))
            for name, one in callers.items()
        }
        clients["anonymous"] = stack.enter_context(
            httpx2.Client(trust_env=False, base_url=f"http://{side.inbound}", timeout=30)
        )
        until("SYNCED", lambda: {one["state"] for one in mesh.types("plain").values()} == {"SYNCED"})
        until("the sidecar", lambda: _answers(clients["caller"]))
        fetched = {"authorization": f"Bearer {token(iss='fetched')}"}
        until("the keys", lambda: clients["anonymous"].get("/token", headers=fetched).status_code == 200)
        yield Guarded(mesh, running, side, beside, web, greeter, echo.port, tcp, closed, callers, clients)  # type: ignore[attr-defined]


def _answers(caller: httpx2.Client) -> bool:
    try:
        return caller.get("http://plain/open").status_code == 200
    except httpx2.TransportError:
        return False


def token(key: Any = KEY, **claims: Any) -> str:
    said = {"iss": "issuer", "sub": "alice", "exp": int(time.time()) + 3600, **claims}
    return jwt.encode(said, key, algorithm="RS256", headers={"kid": "1"})

"""Connections through a real Envoy: a Sidecar's listeners, tcp routes by weight, tls routes by server name."""

import contextlib
import datetime
import json
import socket
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy_mesh import EnvoyMesh, Sidecar, plain_server, until
from free_ports import free_ports


class EchoHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.greeting)  # type: ignore[attr-defined]
            for line in self.rfile:
                self.wfile.write(line)


class EchoServer(socketserver.ThreadingTCPServer):
    """Says its name, and then what it hears; over TLS with a certificate of its own, if told."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, name: str, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), EchoHandler)
        self.greeting = f"{name}\n".encode()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.settimeout(30)
        if self._context is not None:
            with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secure:
                EchoHandler(secure, client_address, self)  # type: ignore[arg-type]
            return
        EchoHandler(request, client_address, self)  # type: ignore[arg-type]

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def self_signed(folder: Path, host: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.DNSName(f"*.{host}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{host}.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


@dataclass(frozen=True)
class Ports:
    """Of the Sidecar's listeners."""

    tcp: int
    tls: int
    http: int
    ingress: int
    raw: int
    secure: int
    origin: int
    wrong: int
    virtual: int


CONFIG = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: default}}
spec:
  egress:
  - {{port: {{number: {ports.tcp}, protocol: TCP, name: tcp}}, hosts: [./split.test]}}
  - {{port: {{number: {ports.tls}, protocol: TLS, name: tls}}, hosts: [./*]}}
  - {{port: {{number: {ports.http}, protocol: HTTP, name: http}}, hosts: [./*]}}
  - {{port: {{number: {ports.virtual}, protocol: MONGO, name: virtual}}, bind: 0.0.0.0, hosts: [./*]}}
  - {{port: {{number: {ports.origin}, protocol: TCP, name: origin}}, hosts: [./o.a.tls.test]}}
  - {{port: {{number: {ports.wrong}, protocol: MYSQL, name: wrong}}, hosts: [./w.a.tls.test]}}
  - {{port: {{number: 0, protocol: TCP}}, bind: "unix://{socket}", hosts: [./b.tcp.test]}}
  - {{hosts: [./*]}}
  ingress:
  - port: {{number: {ports.ingress}, protocol: HTTP, name: more}}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:{plain}
  - port: {{number: {ports.raw}, protocol: TCP, name: raw}}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:{a}
  - port: {{number: {ports.secure}, protocol: HTTPS, name: secure}}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:{plain}
    tls: {{mode: SIMPLE, serverCertificate: {folder}/a.tls.test.pem, privateKey: {folder}/a.tls.test.pem}}
  outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: inside}}
spec:
  hosts: [inside.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - address: 127.0.0.1
    ports: {{http: {ports.ingress}}}
    serviceAccount: plain
    labels: {{security.istio.io/tlsMode: istio}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: ports, namespace: default}}
spec:
  selector: {{matchLabels: {{app: plain}}}}
  portLevelMtls: {{{ports.raw}: {{mode: DISABLE}}, {ports.secure}: {{mode: DISABLE}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: split}}
spec:
  hosts: [split.test]
  resolution: STATIC
  location: MESH_EXTERNAL
  ports: [{{number: {ports.tcp}, name: tcp, protocol: TCP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {a}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: split}}
spec:
  hosts: [split.test]
  tcp:
  - match: [{{port: {ports.tcp}, sourceNamespace: elsewhere}}]
    route: [{{destination: {{host: nowhere.test}}}}]
  - match: [{{port: {ports.tcp}, sourceLabels: {{app: plain}}, gateways: [mesh]}}]
    route:
    - {{destination: {{host: a.tcp.test, port: {{number: 7001}}}}, weight: 75}}
    - {{destination: {{host: b.tcp.test}}, weight: 25}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a-tcp}}
spec:
  hosts: [a.tcp.test]
  resolution: STATIC
  addresses: [127.77.0.1]
  ports: [{{number: 7001, name: tcp, protocol: TCP}}, {{number: {ports.virtual}, name: virtual, protocol: TCP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {a}, virtual: {a}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a-only}}
spec:
  hosts: [b.tcp.test]
  resolution: STATIC
  ports: [{{number: {ports.tcp}, name: tcp, protocol: TCP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {b}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: b-virtual}}
spec:
  hosts: [b.virtual.test]
  resolution: STATIC
  addresses: [127.77.0.2/31]
  ports: [{{number: {ports.virtual}, name: virtual, protocol: TCP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{virtual: {b}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: origin}}
spec:
  hosts: [o.a.tls.test]
  resolution: STATIC
  location: MESH_EXTERNAL
  ports: [{{number: {ports.origin}, name: tcp, protocol: TCP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {a_tls}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: wrong}}
spec:
  hosts: [w.a.tls.test]
  resolution: STATIC
  location: MESH_EXTERNAL
  subjectAltNames: [somebody.test]
  ports: [{{number: {ports.wrong}, name: tcp, protocol: TCP, targetPort: {a_tls}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: origin}}
spec:
  host: "*.a.tls.test"
  trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {folder}/a.tls.test.pem}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a-tls}}
spec:
  hosts: [a.tls.test]
  resolution: STATIC
  ports: [{{number: {ports.tls}, name: tls, protocol: TLS}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tls: {a_tls}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: b-tls}}
spec:
  hosts: [b.tls.test]
  resolution: STATIC
  ports: [{{number: {ports.tls}, name: tls, protocol: TLS}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tls: {b_tls}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named}}
spec:
  hosts: ["*.a.tls.test", "*.b.tls.test"]
  resolution: STATIC
  ports: [{{number: {ports.tls}, name: tls, protocol: TLS}}]
  endpoints: [{{address: 127.0.0.1, ports: {{tls: 1}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: by-name}}
spec:
  hosts: ["*.a.tls.test", "*.b.tls.test"]
  tls:
  - match: [{{port: {ports.tls}, sniHosts: [odd.a.tls.test]}}]
    route: [{{destination: {{host: b.tls.test}}}}]
  - match: [{{sniHosts: ["*.a.tls.test"]}}]
    route: [{{destination: {{host: a.tls.test}}}}]
  - match: [{{sniHosts: ["*.b.tls.test"]}}]
    route: [{{destination: {{host: b.tls.test}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web}}
spec:
  hosts: [web.test]
  resolution: STATIC
  ports: [{{number: {ports.http}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {plain}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: hidden, namespace: other}}
spec:
  hosts: [hidden.test]
  resolution: STATIC
  ports: [{{number: {ports.http}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {plain}}}}}]
"""
OTHER = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: other, namespace: default}}
spec: {{workloadSelector: {{labels: {{app: plain}}}}, {spec}}}
"""


@dataclass(frozen=True)
class World:
    mesh: EnvoyMesh
    side: Sidecar
    ports: Ports
    socket: Path
    tls_server: int

    @contextlib.contextmanager
    def other_sidecar(self, spec: str) -> Iterator[None]:
        """Another Sidecar for a while: one that selects its workloads counts before the namespace's."""
        self.mesh.apply(OTHER.format(spec=spec))
        try:
            yield
        finally:
            self.mesh.run("delete", "Sidecar", "other", "-n", "default")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("l")
    mesh = EnvoyMesh(folder)
    ports = Ports(*free_ports(9))
    path = folder / "s"
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(plain_server("plain"))
        servers = [EchoServer("a"), EchoServer("b")]
        servers += [EchoServer(f"{name}-tls", self_signed(folder, f"{name}.tls.test")) for name in ("a", "b")]
        for server in servers:
            stack.callback(server.close)
        stack.callback(mesh.close)
        a, b, a_tls, b_tls = (server.port for server in servers)
        config = CONFIG.format(ports=ports, folder=folder, socket=path, plain=plain, a=a, b=b, a_tls=a_tls, b_tls=b_tls)
        mesh.start_control_plane(config)
        side = mesh.sidecar("side", "plain", plain)
        until("SYNCED", lambda: {one["state"] for one in mesh.types("plain").values()} == {"SYNCED"})
        yield World(mesh, side, ports, path, a_tls)


def talk(connection: socket.socket) -> str:
    """Who is there; what is said must come back."""
    with connection, connection.makefile("rwb") as stream:
        name = stream.readline()
        stream.write(b"hello \x00\xff\n")
        stream.flush()
        assert stream.readline() == b"hello \x00\xff\n"
        return name.decode().strip()


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=30)


def test_connections_are_split_by_weight(world: World) -> None:
    seen = Counter(talk(connect(world.ports.tcp)) for _ in range(200))
    assert set(seen) == {"a", "b"}
    # 150 expected; 50 is more than eight standard deviations away.
    assert 100 < seen["a"] < 200


def test_a_tunnel_goes_where_the_rule_says(world: World) -> None:
    seen = set()
    for _ in range(60):
        connection = connect(int(world.side.outbound.rpartition(":")[2]))
        target = f"split.test:{world.ports.tcp}"
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 200")
        seen.add(talk(connection))
    assert seen == {"a", "b"}


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("a.tls.test", "a"),
        ("b.tls.test", "b"),
        ("x.a.tls.test", "a"),
        ("x.b.tls.test", "b"),
        ("odd.a.tls.test", "b"),
    ],
)
def test_server_names_lead_to_their_servers(world: World, host: str, server: str) -> None:
    """Two servers with certificates of their own, which the caller verifies: Envoy passes TLS on as it is."""
    context = ssl.create_default_context(cafile=str(world.mesh.folder / f"{server}.tls.test.pem"))
    context.check_hostname = host != "odd.a.tls.test"
    assert talk(context.wrap_socket(connect(world.ports.tls), server_hostname=host)) == f"{server}-tls"


def test_tls_is_originated_for_plain_tcp_and_the_server_verified(world: World) -> None:
    assert talk(connect(world.ports.origin)) == "a-tls"
    with connect(world.ports.wrong) as connection, contextlib.suppress(ConnectionError):
        assert connection.recv(1) == b""
    refused = rf"cluster.outbound.{world.ports.wrong}.*ssl.fail_verify_san"
    assert until("a refused name", lambda: sum(world.side.stats(refused).values()))


@pytest.mark.parametrize("host", ["unknown.test", "tls.test", None])
def test_an_unknown_server_name_is_closed(world: World, host: str | None) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(world.ports.tls) as connection, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(connection, server_hostname=host)


@pytest.mark.parametrize(("address", "server"), [("127.77.0.1", "a"), ("127.77.0.2", "b"), ("127.77.0.3", "b")])
def test_addresses_tell_services_of_one_port_apart(world: World, address: str, server: str) -> None:
    assert talk(connect(world.ports.virtual, address)) == server


def test_an_address_of_nobody_is_closed(world: World) -> None:
    with connect(world.ports.virtual, "127.77.0.9") as connection, contextlib.suppress(ConnectionError):
        assert connection.recv(1) == b""


def test_a_socket_of_its_own(world: World) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(world.socket))
    assert talk(connection) == "b"
    assert world.socket.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("host", "status"), [("web.test", 200), ("hidden.test", 502), ("unknown.test", 502)])
def test_an_http_listener_serves_the_hosts_it_imports(world: World, host: str, status: int) -> None:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        for name in (host, f"{host}:{world.ports.http}"):
            answer = client.get(f"http://127.0.0.1:{world.ports.http}/", headers={"host": name})
            assert answer.status_code == status, answer.text
    with world.side.client() as proxied:
        assert proxied.get(f"http://{host}:{world.ports.http}/").status_code == status


def test_ingress_listeners(world: World) -> None:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        answer = client.get(f"http://127.0.0.1:{world.ports.ingress}/")
        assert json.loads(answer.text)["name"] == "plain"
        assert answer.headers["server"] == "istio-envoy"
    assert talk(connect(world.ports.raw)) == "a"
    context = ssl.create_default_context(cafile=str(world.mesh.folder / "a.tls.test.pem"))
    with httpx2.Client(trust_env=False, timeout=30, verify=context) as client:
        answer = client.get(
            f"https://127.0.0.1:{world.ports.secure}/",
            headers={"host": "any"},
            extensions={"sni_hostname": "a.tls.test"},
        )
        assert answer.json()["name"] == "plain"


def test_an_ingress_listener_knows_its_callers(world: World) -> None:
    with world.side.client() as proxied:
        headers = proxied.get("http://inside.test/").json()["headers"]
    assert "URI=spiffe://cluster.local/ns/default/sa/plain" in headers["x-forwarded-client-cert"]


def test_library_clients_see_the_same_hosts(world: World) -> None:
    with httpx2.Client(transport=world.mesh.mesh("reader").transport(), trust_env=False, timeout=30) as client:
        for host, status in (("web.test", 200), ("hidden.test", 502), ("unknown.test", 502)):
            assert client.get(f"http://{host}:{world.ports.http}/").status_code == status, host


def test_an_unknown_server_name_is_let_out_where_that_is_allowed(world: World) -> None:
    port = world.tls_server
    listener = f"{{port: {{number: {port}, protocol: TLS}}, bind: 127.0.0.2, hosts: [~/*]}}"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def answer() -> str | None:
        with contextlib.suppress(OSError):
            return talk(context.wrap_socket(connect(port, "127.0.0.2"), server_hostname="localhost"))
        return None

    with world.other_sidecar(f"egress: [{listener}], outboundTrafficPolicy: {{mode: ALLOW_ANY}}"):
        assert until("an answer", answer) == "a-tls"


def test_an_egress_proxy_takes_what_is_unknown(world: World) -> None:
    proxy = f"{{host: web.test, port: {{number: {world.ports.http}}}}}"
    policy = f"outboundTrafficPolicy: {{mode: ALLOW_ANY, egressProxy: {proxy}}}"
    with world.other_sidecar(f"egress: [{{hosts: [~/*]}}], {policy}"), world.side.client() as client:
        answer = until("an answer", lambda: (got := client.get("http://unknown.test/")).status_code == 200 and got)
        assert answer.json()["headers"]["host"] == "unknown.test"
    with world.side.client() as client:
        until("the default again", lambda: client.get("http://unknown.test/").status_code == 502)


def test_nothing_was_refused(world: World) -> None:
    for name, one in world.mesh.types("plain").items():
        assert one["state"] == "SYNCED", (name, one)

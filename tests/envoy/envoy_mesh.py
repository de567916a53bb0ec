"""A real mesh of processes with Envoy sidecars in it, and the plain servers behind them."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx2
from free_ports import free_port

import proxyless
from proxyless.cli.demo.processes import Processes

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    peer = scope.get("extensions", {}).get("proxyless", {}).get("peer")
    body = json.dumps({"name": os.environ["NAME"], "peer": peer}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
Found = TypeVar("Found")


def until(what: str, condition: Callable[[], Found | None], timeout: float = 60.0) -> Found:
    end = time.monotonic() + timeout
    while (found := condition()) is None or found is False:
        assert time.monotonic() < end, f"waited {timeout} s in vain for {what}"
        time.sleep(0.02)
    return found


def spiffe(account: str) -> str:
    return f"spiffe://cluster.local/ns/default/sa/{account}"


@contextlib.contextmanager
def plain_server(name: str, answers: Mapping[str, str] = MappingProxyType({})) -> Iterator[int]:
    """Any HTTP server that knows nothing of the mesh: says its name and what it was sent. Gives its port.

    answers: headers of its responses.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = json.dumps({"name": name, "path": self.path, "headers": headers}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            for key, value in answers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def span_collector() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """An OTLP receiver: its address, and the spans that have come, each with the name of its service."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[tuple[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b""
            while size := int(self.rfile.readline(), 16):  # Envoy's has no length
                body += self.rfile.read(size)
                self.rfile.readline()
            for one in ExportTraceServiceRequest.FromString(body).resource_spans if self.path == "/v1/traces" else ():
                of = {pair.key: pair.value.string_value for pair in one.resource.attributes}
                for scope in one.ListFields()[1][1]:
                    spans.extend((of["service.name"], span) for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def children(pid: int) -> list[int]:
    """Of any thread of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Not gone, and no zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Sidecar:
    """A running ``proxyless envoy sidecar``. inbound: ``host:port``."""

    name: str
    pid: int
    envoy: int
    inbound: str
    outbound: str
    admin: str

    def client(self) -> httpx2.Client:
        """The application's: an HTTP client that has the sidecar as its proxy."""
        return httpx2.Client(proxy=self.outbound, trust_env=False, timeout=60)

    def stats(self, pattern: str) -> dict[str, int]:
        """Envoy's own counters by name."""
        text = httpx2.get(f"{self.admin}/stats", params={"filter": pattern}, trust_env=False).text
        lines = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in lines if value.isdigit()}


class EnvoyMesh:
    """Starts what a test asks for, on free ports and with a state dir of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.processes = Processes(self.state_dir)
        # Private folders of a launcher that is killed stay behind; there are sockets in them, so the name is short.
        self.temporary = Path(tempfile.mkdtemp(prefix="px-"))
        (folder / "app.py").write_text(APP)
        self._meshes: list[proxyless.Mesh] = []
        self.addresses: dict[str, Any] = {}

    def start_control_plane(self, config: str = "") -> None:
        path = self.folder / "config.yaml"
        path.write_text(config)
        addresses = [part for name in ("xds", "xds-tls", "http") for part in (f"--{name}-address", "127.0.0.1:0")]
        self.processes.start("control-plane", "control-plane", "--dev", "--config", str(path), *addresses)
        self.addresses = until("the control plane", self.processes.control_plane_addresses)

    def start_serving(self, name: str, service: str, *arguments: str) -> None:
        """A Python application under ``proxyless serve``."""
        own = ("--service", service, "--service-account", service, *arguments)
        self.processes.start(name, "serve", "app:app", *own, cwd=self.folder, NAME=name)

    def wait_serving(self, name: str) -> None:
        until(name, lambda: self._said(name, r"serving \S+ on"))

    def sidecar(self, name: str, service: str, app_port: int, *arguments: str, **environment: str) -> Sidecar:
        own = ("--service", service, "--service-account", service, "--app-port", str(app_port))
        ports = ("--outbound-port", "0", "--admin-port", str(free_port()), "--concurrency", "1")
        environment["TMPDIR"] = str(self.temporary)
        self.processes.start(name, "envoy", "sidecar", *own, *ports, *arguments, **environment)
        inbound = until(name, lambda: self._said(name, r"sidecar of \S+ on port (\S+) as"))
        outbound = until(name, lambda: self._said(name, r"calls through (\S+),"))
        admin = until(name, lambda: self._said(name, r"admin interface on (\S+)"))
        pid = self.processes.pid(name)
        (envoy,) = children(pid)
        return Sidecar(name, pid, envoy, inbound[1], outbound[1], admin[1])

    def log(self, name: str) -> str:
        return (self.state_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def run(self, *arguments: str) -> str:
        return self.processes.command(*arguments)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json"))

    def apply(self, text: str) -> None:
        path = self.folder / "applied.yaml"
        path.write_text(text)
        self.run("apply", "--wait", "-f", str(path))

    def types(self, service: str) -> dict[str, dict[str, Any]]:
        """What proxy-status says of each resource type of a service's Envoy."""
        clients = self.json("proxy-status")
        (found,) = [one for one in clients if one["kind"] == "envoy" and one["service"] == service]
        return {one["type"]: one for one in found["types"]}

    def mesh(self, service: str, **settings: Any) -> proxyless.Mesh:
        """A library client in this process."""
        made = proxyless.Mesh(
            control_plane=self.addresses["xds_tls"],
            service=service,
            service_account=service,
            state_dir=self.state_dir,
            **settings,
        )
        self._meshes.append(made)
        return made

    def terminate(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self.processes._running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(60)
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        for mesh in self._meshes:
            mesh.close()
        self.processes.stop_all()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _said(self, name: str, pattern: str) -> re.Match[str] | None:
        self.processes.check()
        return re.search(pattern, self.log(name))


def file_contents(folder: Path) -> Iterator[bytes]:
    """The content of every regular file below a folder."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path.is_file():
                yield path.read_bytes()

"""The mesh that is measured: a control plane with 100 services, one server behind three fronts, a pair of Envoys."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from benchmarks.requests.certificates import write_certificates
from benchmarks.requests.spans import SpanSink
from proxyless.cli.demo.processes import Processes, wait_for

APPLICATION = "benchmarks.requests.application:app"
ROOT = Path(__file__).parents[2]
SERVICES = 100
# What both sides of the comparison do: routes that are looked at in order, retries armed, mutual TLS required.
_RULES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
    - match: [{{headers: {{x-canary: {{exact: "yes"}}}}}}]
      timeout: 5s
      route: [{{destination: {{host: {name}}}}}]
    - match: [{{uri: {{prefix: /admin/}}, method: {{exact: DELETE}}}}]
      directResponse: {{status: 403}}
    - timeout: 15s
      retries: {{attempts: 2, retryOn: "{retry_on}"}}
      route: [{{destination: {{host: {name}}}}}]
---
"""
_SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{port}]}}
---
"""
_STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


@dataclass(frozen=True, slots=True)
class World:
    """Where everything listens, and which processes are behind it.

    plain, secured: bare uvicorn, plaintext and with mutual TLS. serving: ``proxyless serve``. envoy: the outbound port
    of the client's Envoy. pids: by name. services: all hosts of the mesh.
    """

    state_dir: Path
    certificates: Path
    plain: str
    secured: str
    serving: str
    envoy: str
    pids: dict[str, int]
    services: tuple[str, ...]


@contextlib.contextmanager
def world(envoy_threads: int, application: str = APPLICATION) -> Iterator[World]:
    """Start all of it, and end all of it. application: an ASGI one, ``module:name``."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        certificates = folder / "certificates"
        certificates.mkdir()
        write_certificates(certificates)
        sink = stack.enter_context(SpanSink())
        os.environ.update(sink.environment)
        services = tuple(f"service-{number:03}" for number in range(SERVICES - 2))
        hosts = ("hello", "hello-envoy", *services)
        retry_on = "connect-failure,refused-stream,reset-before-request,gateway-error"
        processes = control_plane(stack, folder, configuration(hosts, "{name: http, port: 80}", retry_on))
        plain, secured, serving, outbound, waiting = free_ports(5)
        pids = {
            "plain": _uvicorn(stack, application, plain),
            "secured": _uvicorn(stack, application, secured, *_mutual_tls(certificates)),
        }
        processes.start("serve", "serve", application, "--service", "hello", "--port", str(serving), cwd=ROOT)
        envoy_pair(processes, envoy_threads, application=plain, caller=listening(stack, waiting), outbound=outbound)
        pids |= {name: processes.pid(name) for name in ("control-plane", "serve", "envoy-in", "envoy-out")}
        started = World(
            folder / "state",
            certificates,
            f"http://127.0.0.1:{plain}",
            f"https://localhost:{secured}",
            f"https://127.0.0.1:{serving}",
            f"http://127.0.0.1:{outbound}",
            pids,
            hosts,
        )
        wait_for("bare uvicorn", lambda: _answers(started.plain, {}))
        wait_for("the pair of Envoys", lambda: _answers(started.envoy, {"host": "hello-envoy"}))
        yield started


def configuration(hosts: Sequence[str], port: str, retry_on: str) -> str:
    """YAML of a mesh of these services, each with a ``port`` and rules. retry_on: Envoy's conditions."""
    each = (_SERVICE + _RULES).format
    return _STRICT + "---\n" + "".join(each(name=host, port=port, retry_on=retry_on) for host in hosts)


def control_plane(stack: contextlib.ExitStack, folder: Path, configuration: str) -> Processes:
    """A running one, whose state is in ``folder / "state"``; what else is started of it ends with ``stack`` too."""
    config = folder / "config.yaml"
    config.write_text(configuration)
    processes = Processes(folder / "state")
    stack.callback(processes.stop_all)
    free = [part for name in ("xds", "xds-tls", "http") for part in (f"--{name}-address", "127.0.0.1:0")]
    processes.start("control-plane", "control-plane", "--dev", "--config", str(config), *free)
    wait_for("the control plane", processes.control_plane_addresses)
    return processes


def envoy_pair(
    processes: Processes, threads: int, *, application: int, caller: int, outbound: int, inbound: str = "0"
) -> None:
    """``envoy-in`` of ``hello-envoy`` before ``application``, ``envoy-out`` beside a client that calls ``outbound``.

    inbound: the port of both. caller: one that is listened on: nobody calls the application behind a client's sidecar,
    but Envoy waits for one.
    """
    for name, service, port, own in (
        ("envoy-in", "hello-envoy", application, 0),
        ("envoy-out", "caller", caller, outbound),
    ):
        processes.start(
            name,
            *("envoy", "sidecar", "--service", service, "--app-port", str(port), "--outbound-port", str(own)),
            *("--inbound-port", inbound, "--concurrency", str(threads), "--log-level", "error"),
        )


def _uvicorn(stack: contextlib.ExitStack, application: str, port: int, *arguments: str) -> int:
    command = [sys.executable, "-m", "uvicorn", application, "--port", str(port), "--no-access-log"]
    process = subprocess.Popen([*command, "--log-level", "error", "--timeout-keep-alive", "3600", *arguments], cwd=ROOT)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def _mutual_tls(certificates: Path) -> list[str]:
    own, authority = str(certificates / "server.pem"), str(certificates / "ca.pem")
    return ["--ssl-keyfile", own, "--ssl-certfile", own, "--ssl-ca-certs", authority, "--ssl-cert-reqs", "2"]


def _answers(base: str, headers: dict[str, str]) -> bool | None:
    try:
        return httpx2.get(base + "/", headers=headers, trust_env=False).status_code == 200 or None
    except httpx2.HTTPError:
        return None


def free_ports(count: int) -> list[int]:
    """Free ones, all different."""
    with contextlib.ExitStack() as probing:
        probes = [probing.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def listening(stack: contextlib.ExitStack, port: int) -> int:
    stack.enter_context(socket.create_server(("127.0.0.1", port)))
    return port

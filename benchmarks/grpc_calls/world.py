"""The mesh that is measured: a control plane, 100 services, one gRPC service behind five fronts, a pair of Envoys."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.grpc_calls.application import SERVICE, Bare
from benchmarks.requests.certificates import write_certificates
from benchmarks.requests.spans import SpanSink
from benchmarks.requests.world import ROOT, SERVICES, configuration, control_plane, envoy_pair, free_ports, listening
from proxyless.cli.demo.processes import wait_for

_ADD = "benchmarks.grpc_calls.application:add"
_PORT = 50051


@dataclass(frozen=True, slots=True)
class World:
    """What is dialled, and which processes are behind it.

    plain, secured: bare grpcio, plaintext and with mutual TLS. member: the same with the mesh's certificates. serving:
    ``proxyless serve --grpc``. hello, hello_member, hello_envoy: the last two and the Envoys' service as the mesh names
    them. envoy: the outbound port of the client's Envoy. pids: by name. services: all targets of the mesh.
    """

    state_dir: Path
    certificates: Path
    plain: str
    secured: str
    member: str
    serving: str
    envoy: str
    pids: dict[str, int]
    services: tuple[str, ...]
    hello: str = f"hello:{_PORT}"
    hello_member: str = f"hello-member:{_PORT}"
    hello_envoy: str = f"hello-envoy:{_PORT}"


@contextlib.contextmanager
def world(envoy_threads: int) -> Iterator[World]:
    """Start all of it, and end all of it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        certificates = folder / "certificates"
        certificates.mkdir()
        write_certificates(certificates)
        sink = stack.enter_context(SpanSink())
        os.environ.update(sink.environment)
        own = ("hello", "hello-member", "hello-envoy")
        hosts = (*own, *(f"service-{number:03}" for number in range(SERVICES - len(own))))
        yaml = configuration(hosts, f"{{name: grpc, port: {_PORT}}}", "connect-failure,refused-stream,unavailable")
        processes = control_plane(stack, folder, yaml)
        state_dir = folder / "state"
        plain, secured, member, serving, outbound, waiting = free_ports(6)
        pids = {
            name: _bare(stack, spec)
            for name, spec in {
                "plain": Bare(plain),
                "secured": Bare(secured, str(certificates)),
                "member": Bare(member, state_dir=str(state_dir), service="hello-member"),
            }.items()
        }
        serve = ("serve", "--grpc", _ADD, "--service", "hello", "--host", "127.0.0.1", "--port", str(serving))
        processes.start("serve", *serve, cwd=ROOT)
        envoy_pair(
            processes,
            envoy_threads,
            application=plain,
            caller=listening(stack, waiting),
            outbound=outbound,
            inbound="grpc=0",
        )
        pids |= {name: processes.pid(name) for name in ("control-plane", "serve", "envoy-in", "envoy-out")}
        plain_at, secured_at, member_at, serving_at, envoy_at = (
            f"127.0.0.1:{port}" for port in (plain, secured, member, serving, outbound)
        )
        started = World(
            state_dir,
            certificates,
            *(plain_at, secured_at, member_at, serving_at, envoy_at),
            pids,
            tuple(f"{host}:{_PORT}" for host in hosts),
        )
        wait_for("bare grpcio", lambda: _answers(plain_at))
        wait_for("the pair of Envoys", lambda: _answers(envoy_at, started.hello_envoy))
        yield started


def _bare(stack: contextlib.ExitStack, spec: Bare) -> int:
    command = [sys.executable, "-m", "benchmarks.grpc_calls.application", spec.encode()]
    process = subprocess.Popen(command, cwd=ROOT)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def _answers(address: str, authority: str = "") -> bool | None:
    options = [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(address, options) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/unary")
        try:
            call(b"", timeout=5)
        except grpc.RpcError:
            return None
        return True

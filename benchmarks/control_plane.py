"""What a control plane costs: services, clients, and a change of one service's endpoints or routes.

    make bench-control-plane   or   python -m benchmarks.control_plane [--services 1000] [--clients 500] [--grow]

One ``proxyless control-plane`` process on plaintext xDS with SQLite, as installed; one load process with a connection
and an aggregated stream for each client. Every client watches ``--watch`` services, one of them (the first) watched by
all. A change is an ``apply`` over the HTTP API; it ends when the last client that watches the service has been sent it
and has acknowledged it. CPU seconds are the server's own: both processes share this machine, so elapsed times
include the load's own work.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.xds_clients import ENDPOINT, ROUTE, Probe, XdsClient

_NAMESPACES = 10
_BATCH = 100
_TICK = os.sysconf("SC_CLK_TCK")
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Size:
    services: int
    clients: int
    endpoints: int = 10
    watch: int = 20


@dataclass(slots=True)
class Result:
    """seconds, cpu: each change's. Of the server: cpu seconds, pushes; of all clients: bytes received."""

    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0
    pushes: float = 0.0
    received: int = 0

    def cell(self) -> str:
        ordered = sorted(self.seconds)
        p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
        count = len(ordered)
        return (
            f"{statistics.median(ordered) * 1e3:.0f} / {p99 * 1e3:.0f} | {self.cpu / count * 1e3:.0f} | "
            f"{self.pushes / count:.0f} | {self.cpu / max(1.0, self.pushes) * 1e3:.2f} | "
            f"{self.received / count / 1e3:.0f}"
        )


class Server:
    """A control plane process."""

    def __init__(self, folder: Path) -> None:
        free = "127.0.0.1:0"
        addresses = ["--xds-address", free, "--xds-tls-address", free, "--http-address", free]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxyless", "control-plane", "--dev", *addresses],
            env={**os.environ, "PROXYLESS_STATE_DIR": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("wb"),
        )
        announced = folder / "control-plane.json"
        while not announced.exists():
            assert self.process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        self.at = json.loads(announced.read_text())
        self._token = (folder / "admin-token").read_text().strip()

    def apply(self, *documents: Any) -> None:
        request = urllib.request.Request(
            f"http://{self.at['http']}/api/v1/apply",
            "\n---\n".join(json.dumps(document) for document in documents).encode(),
            {"authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            answer.read()

    def cpu(self) -> float:
        """Seconds used so far, by all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory(self) -> float:
        """Resident, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1e3

    def pushes(self) -> float:
        with urllib.request.urlopen(f"http://{self.at['http']}/metrics", timeout=_PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("pilot_xds_pushes{"))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def namespace(index: int) -> str:
    return f"ns{index % _NAMESPACES}"


def host(index: int) -> str:
    return f"svc{index}.{namespace(index)}.svc.cluster.local"


def document(kind: str, api: str, index: int, **more: Any) -> dict[str, Any]:
    name = f"svc{index}"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace(index)}, **more}


def service(index: int) -> dict[str, Any]:
    return document("Service", "v1", index, spec={"ports": [{"name": "http", "port": 80, "targetPort": 8080}]})


def endpoint_slice(index: int, size: Size, extra: str = "") -> dict[str, Any]:
    number = index * size.endpoints
    addresses = [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(number, number + size.endpoints)]
    if extra:
        addresses[-1] = extra
    found = document(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        index,
        addressType="IPv4",
        ports=[{"name": "http", "port": 8080}],
        endpoints=[{"addresses": [address], "zone": f"zone{n % 3}"} for n, address in enumerate(addresses)],
    )
    found["metadata"]["labels"] = {"kubernetes.io/service-name": f"svc{index}"}
    return found


def virtual_service(index: int, name: str = "default") -> dict[str, Any]:
    route = {"name": name, "timeout": "3s", "route": [{"destination": {"host": f"svc{index}"}}]}
    return document("VirtualService", "networking.istio.io/v1", index, spec={"hosts": [f"svc{index}"], "http": [route]})


def clients(size: Size, kind: str, *, delta: bool) -> list[XdsClient]:
    """Replicas of five: clients of one workload have the same labels and namespace, and watch what they like."""
    rng = random.Random(size.clients)
    found = []
    for number in range(size.clients):
        watched = [0, *rng.sample(range(1, size.services), min(size.watch, size.services) - 1)]
        app = number // 5
        found.append(
            XdsClient(
                f"client{number}", namespace(app), f"app{app}", [host(one) for one in watched], kind=kind, delta=delta
            )
        )
    return found


async def change(
    server: Server, all_clients: Sequence[XdsClient], targets: Sequence[int], type_url: str, make: Callable[..., Any]
) -> Result:
    """One change after the other, each to a service of ``targets``, and what they cost together."""
    result = Result()
    cpu, pushes = server.cpu(), server.pushes()
    received = sum(client.received for client in all_clients)
    for number, target in enumerate(targets):
        marker, changed = make(number, target)
        probe = Probe(marker, type_url, [c for c in all_clients if c.kind == "envoy" or host(target) in c.hosts])
        for client in all_clients:
            client.probe = probe
        started = time.perf_counter()
        await asyncio.to_thread(server.apply, changed)
        async with asyncio.timeout(_PATIENCE):
            await probe.done.wait()
        result.seconds.append(probe.last - started)
    result.cpu, result.pushes = server.cpu() - cpu, server.pushes() - pushes
    result.received = sum(client.received for client in all_clients) - received
    return result


async def measure(server: Server, size: Size, kind: str, changes: int, *, delta: bool) -> str:
    for first in range(0, size.services, _BATCH):
        batch = range(first, min(first + _BATCH, size.services))
        documents = [(service(i), endpoint_slice(i, size), virtual_service(i)) for i in batch]
        await asyncio.to_thread(server.apply, *(one for each in documents for one in each))
    loaded = server.memory()
    found = clients(size, kind, delta=delta)
    cpu, started = server.cpu(), time.perf_counter()
    running = [asyncio.create_task(client.run(server.at["xds"])) for client in found]
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(client.synced.wait() for client in found))
        synced, sync_cpu = time.perf_counter() - started, server.cpu() - cpu
        sent = sum(client.received for client in found)
        # A service is watched by few, except the first, which everybody watches.
        watched = sorted({int(h.partition(".")[0][3:]) for client in found for h in client.hosts[1:]})
        some = random.Random(0).choices(watched, k=changes)
        tag = iter(range(10**6))

        def endpoints(number: int, index: int) -> tuple[str, Any]:
            new = next(tag)
            address = f"172.16.{new // 200}.{new % 200 + 10}"
            return address, endpoint_slice(index, size, address)

        def routes(number: int, index: int) -> tuple[str, Any]:
            name = f"change-{next(tag)}-end"
            return name, virtual_service(index, name)

        rows = [
            ("endpoints", "few", await change(server, found, some, ENDPOINT, endpoints)),
            ("endpoints", "all", await change(server, found, [0] * changes, ENDPOINT, endpoints)),
            ("routes", "few", await change(server, found, some, ROUTE, routes)),
            ("routes", "all", await change(server, found, [0] * changes, ROUTE, routes)),
        ]
        memory = server.memory()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    who = f"{size.services} | {size.clients} | {kind} {'delta' if delta else 'SotW'}"
    print(
        f"sync | {who} | {synced:.1f} | {sync_cpu:.1f} | {sent / 1e6:.1f} | {loaded:.0f} | {memory:.0f} |", flush=True
    )
    for what, watchers, result in rows:
        print(f"change | {who} | {what} | {watchers} | {result.cell()} |", flush=True)
    return ""


def run(size: Size, kind: str, changes: int, *, delta: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            return asyncio.run(measure(server, size, kind, changes, delta=delta))
        finally:
            server.stop()


SYNC = (
    "| services | clients | streams | initial sync, s | server CPU, s | MB sent | MB resident before | after |",
    "|---|---|---|---|---|---|---|---|",
)
CHANGE = (
    "| services | clients | streams | change | watched by | p50 / p99, ms | CPU, ms | pushes | CPU a push | kB sent |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service (default 10)")
    parser.add_argument("--watch", type=int, default=20, help="services each client watches (default 20)")
    parser.add_argument("--changes", type=int, default=30, help="of each sort (default 30)")
    parser.add_argument("--kind", choices=("grpc", "proxyless", "envoy"), default="grpc")
    parser.add_argument("--variant", choices=("sotw", "delta", "both"), default="both")
    parser.add_argument("--grow", action="store_true", help="also a tenth of the services, of the clients, and of both")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, grpcio {version('grpcio')}, protobuf {version('protobuf')},", end=" ")
    print(f"{os.cpu_count()} cores\n")
    tenths = [(10, 10), (1, 10), (10, 1), (1, 1)] if arguments.grow else [(1, 1)]
    print(*SYNC, *CHANGE, sep="\n")
    for services, clients_ in tenths:
        size = Size(arguments.services // services, arguments.clients // clients_, arguments.endpoints, arguments.watch)
        for delta in {"sotw": [False], "delta": [True], "both": [False, True]}[arguments.variant]:
            run(size, arguments.kind, arguments.changes, delta=delta)


if __name__ == "__main__":
    main()

"""What a change of certificates costs requests: none may fail, and p99 is shown beside that of rounds without one.

    make bench-rotation            or            python -m benchmarks.rotation [--rounds N] [--every S] [--write]

A client in this process calls ``proxyless serve`` with mutual TLS. In every other round both ends renew their
certificates again and again, as they else do every 12 hours; the control plane signs each. Ends with 1 if a request has
failed.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

import proxyless
from benchmarks.requests.report import machine
from benchmarks.requests.work import Done
from benchmarks.requests.world import APPLICATION, ROOT, configuration, control_plane, free_ports
from proxyless.cli.demo.processes import wait_for

URL = "http://hello/"
CONCURRENCY = 8
KINDS = ("async", "sync")


@dataclass(slots=True)
class Seen:
    """durations: nanoseconds of each answered request. renewals: certificates that the client changed to."""

    durations: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    renewals: int = 0
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rotation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each round (default: %(default)s)")
    parser.add_argument("--every", type=float, default=0.5, metavar="S", help="between renewals (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/rotation.md")
    arguments = parser.parse_args()
    found = {(kind, rotating): Seen() for kind in KINDS for rotating in (False, True)}
    with _world() as (mesh, server):
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
            for (kind, rotating), seen in found.items():
                with _rotation(mesh, server, arguments.every if rotating else 0.0, seen):
                    _load(kind, mesh, arguments.seconds, seen)
    text = "\n".join([HEADING, machine(0, ("httpx2", "uvicorn")).partition("; Envoys")[0] + ".", "", *_table(found)])
    print(text)
    if arguments.write:
        (ROOT / "docs" / "benchmarks" / "rotation.md").write_text(text + "\n")
    return int(any(seen.failed for seen in found.values()))


HEADING = f"""# What a change of certificates costs

Written by `make bench-rotation ARGS=--write`: {CONCURRENCY} requests at a time to `proxyless serve` over mutual TLS, in
rounds in which both ends renew their certificates and in rounds in which they do not, by turns.
"""


def _table(found: dict[tuple[str, bool], Seen]) -> Iterator[str]:
    yield "| client | renewals | requests | failed | p50 us | p99 us | p99.9 us |"
    yield "|---|---|---|---|---|---|---|"
    for (kind, _), seen in found.items():
        done = Done.of(seen.durations, seen.seconds)
        numbers = (seen.renewals, done.count, len(seen.failed), done.p50, done.p99, done.p999)
        yield f"| httpx2, {kind} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |"
        for what in sorted(set(seen.failed)):
            print(f"failed, {kind}: {what}", file=sys.stderr)


@contextlib.contextmanager
def _world() -> Iterator[tuple[proxyless.Mesh, int]]:
    """A mesh of this process and the process id of its server."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yaml = configuration(["hello"], "{name: http, port: 80}", "connect-failure,refused-stream,reset-before-request")
        processes = control_plane(stack, folder, yaml)
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "benchmarks.rotation", "serve", APPLICATION, "--service", "hello"]
        server = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=processes.environment)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        mesh = stack.enter_context(proxyless.Mesh(state_dir=folder / "state", service="bench"))
        mesh.wait_ready(timeout=60)
        with httpx2.Client(transport=mesh.transport(), trust_env=False) as client:
            wait_for("the server", lambda: client.get(URL).status_code == 200 or None)
        yield mesh, server.pid


@contextlib.contextmanager
def _rotation(mesh: proxyless.Mesh, server: int, every: float, seen: Seen) -> Iterator[None]:
    """While the block runs both ends renew ``every`` seconds; 0 for never."""
    ended, identity, agent = threading.Event(), mesh.runtime.identity, mesh.runtime.agent
    before = identity.generation

    def turn() -> None:
        while not ended.wait(every):
            agent._thread.call_soon(agent._rotation.renew)
            os.kill(server, signal.SIGUSR1)

    thread = threading.Thread(target=turn)
    if every:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if every:
            thread.join()
            wait_for("the last renewal", lambda: None if agent._rotation._hurry.is_set() else True)
        seen.renewals += identity.generation - before


def _load(kind: str, mesh: proxyless.Mesh, seconds: float, seen: Seen) -> None:
    begun = time.monotonic()
    until = begun + seconds
    if kind == "async":
        asyncio.run(_load_async(mesh, until, seen))
    else:
        with httpx2.Client(transport=mesh.transport(), trust_env=False, timeout=30) as client:

            def ask() -> None:
                while time.monotonic() < until:
                    started = time.perf_counter_ns()
                    try:
                        answer = client.get(URL)
                    except httpx2.HTTPError as error:
                        seen.failed.append(repr(error))
                    else:
                        _count(answer, started, seen)

            threads = [threading.Thread(target=ask) for _ in range(CONCURRENCY)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    seen.seconds += time.monotonic() - begun


async def _load_async(mesh: proxyless.Mesh, until: float, seen: Seen) -> None:
    transport = mesh.async_transport()
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=30) as client:

        async def ask() -> None:
            while time.monotonic() < until:
                started = time.perf_counter_ns()
                try:
                    answer = await client.get(URL)
                except httpx2.HTTPError as error:
                    seen.failed.append(repr(error))
                else:
                    _count(answer, started, seen)

        await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))


def _count(answer: httpx2.Response, started: int, seen: Seen) -> None:
    if answer.status_code == 200:
        seen.durations.append(time.perf_counter_ns() - started)
    else:
        seen.failed.append(f"{answer.status_code} {answer.headers.get('x-proxyless-reason', '')}")


def _serve(arguments: list[str]) -> int:
    """``proxyless serve`` that renews its certificate when it gets a SIGUSR1."""
    from proxyless.cli.main import main as command
    from proxyless.identity.rotation import CertificateRotation

    running: list[tuple[asyncio.AbstractEventLoop, CertificateRotation]] = []
    original = CertificateRotation.run

    async def run(self: CertificateRotation) -> None:
        running.append((asyncio.get_running_loop(), self))
        await original(self)

    def renew(*_: object) -> None:
        for loop, rotation in running:
            loop.call_soon_threadsafe(rotation.renew)

    CertificateRotation.run = run  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, renew)
    return command(["serve", *arguments])


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[2:]) if sys.argv[1:2] == ["serve"] else main())

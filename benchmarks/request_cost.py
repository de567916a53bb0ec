"""What one request costs, in microseconds, through the mesh and through the plain clients it wraps.

    make bench                     or    python benchmarks/request_cost.py [--requests 300] [--rounds 7]

One client process, two servers on this machine, one request at a time over a kept connection. The plain clients speak
plaintext to bare uvicorn; the mesh speaks mutual TLS to ``proxyless serve``, routing, retries and metrics included.
Rounds are interleaved (A B C D, A B C D, ...), so that a machine that changes speed changes it for all; the table shows
the median over rounds of each round's median, its spread, and the ratio to plain httpx2 within the same round.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2

import proxyless

HERE = Path(__file__).parent
Get = Callable[[], Awaitable[int]]


def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=HERE,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def get_with(client: Any, url: str) -> Get:
    async def get() -> int:
        answer = await client.get(url)
        assert answer.status_code == 200, (answer.status_code, answer.headers)
        return len(answer.content)

    return get


async def until_it_answers(get: Get) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            await get()
            return
        except (httpx.HTTPError, httpx2.HTTPError, AssertionError):
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


async def measure(get: Get, requests: int) -> float:
    """The median of ``requests`` durations, microseconds."""
    seconds = []
    for _ in range(requests):
        started = time.perf_counter()
        await get()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


async def run(requests: int, rounds: int, mesh: proxyless.Mesh, plain_url: str) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {}
    # trust_env reads the machine's certificates and proxies: not what is compared.
    async with (
        httpx.AsyncClient(trust_env=False) as plain,
        httpx2.AsyncClient(trust_env=False) as plain2,
        httpx.AsyncClient(transport=mesh.async_transport()) as meshed,
        httpx2.AsyncClient(transport=mesh.async_transport()) as meshed2,
    ):
        systems = {
            "httpx, plaintext, no mesh": get_with(plain, plain_url),
            "httpx2, plaintext, no mesh": get_with(plain2, plain_url),
            "httpx, proxyless, mutual TLS": get_with(meshed, "http://hello/"),
            "httpx2, proxyless, mutual TLS": get_with(meshed2, "http://hello/"),
        }
        for get in systems.values():
            await until_it_answers(get)
            await measure(get, requests)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for name, get in systems.items():
                results.setdefault(name, []).append(await measure(get, requests))
    return results


def report(results: dict[str, list[float]]) -> str:
    base = results["httpx2, plaintext, no mesh"]
    lines = ["| client | p50, us | spread over rounds | ratio to plain httpx2 |", "|---|---|---|---|"]
    for name, medians in results.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(medians, base, strict=True))
        spread = f"{min(medians):.0f}-{max(medians):.0f}"
        lines.append(f"| {name} | {statistics.median(medians):.0f} | {spread} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="requests per system and round (default 300)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        running: list[subprocess.Popen[bytes]] = []
        try:
            free = "127.0.0.1:0"
            addresses = ["--xds-address", free, "--xds-tls-address", free, "--http-address", free]
            running.append(start("proxyless", "control-plane", "--dev", *addresses, PROXYLESS_STATE_DIR=folder))
            while not (Path(folder) / "control-plane.json").exists():
                assert running[0].poll() is None, "the control plane did not start"
                time.sleep(0.05)
            running.append(start("proxyless", "serve", "hello:app", "--service", "hello", PROXYLESS_STATE_DIR=folder))
            port = free_port()
            running.append(start("uvicorn", "hello:app", "--port", str(port), "--no-access-log"))
            with proxyless.Mesh(state_dir=folder, service="bench") as mesh:
                mesh.wait_ready(timeout=20)
                url = f"http://127.0.0.1:{port}/"
                print(report(asyncio.run(run(arguments.requests, arguments.rounds, mesh, url))))
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

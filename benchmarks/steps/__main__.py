"""How many bytecode instructions a request takes, in the client and in the server, function by function.

    make bench-steps            or            python -m benchmarks.steps [--rows N] [--write]

Microseconds differ from minute to minute on a shared machine; these numbers do not (but for what happens once in 64
requests, or to the 1% that are traced). They tell what a change to the hot path did, not what it is worth: C code
(TLS, sockets, parsers) is not in them, and some steps cost more than others.
"""

import argparse
import asyncio
import platform
import sys
from collections.abc import Iterator

import httpx
import httpx2

import proxyless
from benchmarks.requests.world import ROOT, World, world
from benchmarks.steps.counting import Counted, Counting
from proxyless.model.cluster import UpstreamTls

APPLICATION = "benchmarks.steps.application:app"
WARM_UP, REQUESTS = 128, 640
RESULT = ROOT / "docs" / "benchmarks" / "steps.md"
HEADING = """# What a request takes the interpreter

Written by `make bench-steps ARGS=--write`. The bytecode instructions that Python executes for one request: the
same each time. What is written in C (TLS, sockets, parsers, uvloop) is not in them.

"""
Client = httpx.AsyncClient | httpx2.AsyncClient


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30, metavar="N", help="functions shown of each (default: 30)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/steps.md")
    arguments = parser.parse_args()
    with world(1, APPLICATION) as running:
        counted = asyncio.run(_all(running))
    sections = [_summary(counted), *(_rows(name, found, arguments.rows) for name, found in counted.items())]
    text = "\n".join(line for section in sections for line in section) + "\n"
    print(text)
    if arguments.write:
        RESULT.write_text(HEADING + text)


async def _all(running: World) -> dict[str, Counted]:
    found = {}
    with proxyless.Mesh(state_dir=str(running.state_dir), service="bench") as mesh:
        mesh.wait_ready(timeout=30)
        clients: dict[str, tuple[Client, str]] = {
            "client: httpx, plaintext": (httpx.AsyncClient(trust_env=False), running.plain),
            "client: httpx, proxyless": (httpx.AsyncClient(transport=mesh.async_transport()), "http://hello"),
            "client: httpx2, plaintext": (httpx2.AsyncClient(trust_env=False), running.plain),
            "client: httpx2, proxyless": (httpx2.AsyncClient(transport=mesh.async_transport()), "http://hello"),
        }
        for name, (client, base) in clients.items():
            print(name, file=sys.stderr)
            async with client:
                found[name] = await _client_steps(client, base)
        tls = mesh.runtime.identity.client_context(UpstreamTls())
        # The same requests to both; uvicorn's TLS has no steps, its loop's code is compiled.
        for name, base in (("server: bare uvicorn", running.plain), ("server: proxyless serve", running.serving)):
            print(name, file=sys.stderr)
            async with httpx2.AsyncClient(verify=tls, trust_env=False) as client:
                found[name] = await _server_steps(client, base)
    return found


async def _requests(client: Client, base: str, count: int) -> None:
    for _ in range(count):
        (await client.get(base + "/")).raise_for_status()


async def _client_steps(client: Client, base: str) -> Counted:
    await _requests(client, base, WARM_UP)
    counting = Counting()
    counting.begin()
    await _requests(client, base, REQUESTS)
    return counting.end()


async def _server_steps(client: httpx2.AsyncClient, base: str) -> Counted:
    await _requests(client, base, WARM_UP)
    (await client.get(base + "/steps/begin")).raise_for_status()
    await _requests(client, base, REQUESTS)
    return Counted.decode((await client.get(base + "/steps/end")).raise_for_status().content)


def _summary(counted: dict[str, Counted]) -> Iterator[str]:
    yield f"Python {platform.python_version()}, GET 15 B, one request at a time, {REQUESTS} requests of each.\n"
    yield "| what | bytecode instructions a request | calls of Python functions |\n|---|---|---|"
    for name, found in counted.items():
        yield f"| {name} | {found.steps.total() / REQUESTS:,.0f} | {found.calls.total() / REQUESTS:.1f} |"


def _rows(name: str, found: Counted, rows: int) -> Iterator[str]:
    yield f"\n## {name[0].upper()}{name[1:]}\n\n| instructions | calls | function |\n|---|---|---|"
    for function, steps in found.steps.most_common(rows):
        yield f"| {steps / REQUESTS:.1f} | {found.calls[function] / REQUESTS:.2f} | `{function}` |"


if __name__ == "__main__":
    main()

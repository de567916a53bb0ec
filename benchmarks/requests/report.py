"""Numbers as Markdown."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.requests.measure import Samples, describe, median
from benchmarks.requests.reach import Reach, value
from benchmarks.requests.work import Work


def machine(envoy_threads: int, packages: Sequence[str]) -> str:
    """packages: whose versions count."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return (
        f"{os.cpu_count()} CPUs ({model}), Linux {platform.release()}, Python {platform.python_version()}; {versions}; "
        f"Envoys with {envoy_threads} worker thread{'s' if envoy_threads > 1 else ''} each. Client, server and proxies "
        "share the machine."
    )


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()


def table(work: Work, results: Samples, unit: str = "request") -> str:
    lines = [
        f"### {describe(work)}",
        "",
        f"| system | p50 us | p90 us | p99 us | p99.9 us | {unit}s/s | CPU us/{unit} | resident MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, samples in results.items():
        numbers = [
            *(median(samples, lambda sample, at=at: getattr(sample.done, at)) for at in ("p50", "p90", "p99", "p999")),  # type: ignore[misc]
            median(samples, lambda sample: sample.throughput),
            median(samples, lambda sample: sample.cpu),
            median(samples, lambda sample: sample.resident / (1 << 20)),
        ]
        lines.append(f"| {name} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |")
    return "\n".join(lines)


def reached(rows: Sequence[tuple[Reach, Samples]], costs: Mapping[str, tuple[float, float, float]]) -> str:
    """costs: name to measured, at least, aim; lower is better."""
    lines = ["| what | measured (spread over rounds) | at least | aim | reached |", "|---|---|---|---|---|"]
    for reach, results in rows:
        found = value(reach, results)
        lines.append(f"| {reach.what} | {found} | {reach.at_least:g} | {reach.aim:g} | {reach.met(found.middle)} |")
    for name, (measured, at_least, aim) in costs.items():
        met = "aim" if measured <= aim else "yes" if measured <= at_least else "no"
        lines.append(f"| {name} | {measured:.0f} | {at_least:g} | {aim:g} | {met} |")
    return "\n".join(lines)

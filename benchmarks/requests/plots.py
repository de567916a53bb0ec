"""Numbers as pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.requests.measure import Sample, Samples, median, readable
from benchmarks.requests.systems import (
    AIOHTTP,
    ENVOY_HTTPX,
    ENVOY_HTTPX2,
    MESH_HTTPX,
    MESH_HTTPX2,
    PLAIN_HTTPX,
    PLAIN_HTTPX2,
)
from benchmarks.requests.work import Work

# One colour for what stands between client and server, one dash for the library.
_STYLE = {
    PLAIN_HTTPX: ("#888888", "--"),
    PLAIN_HTTPX2: ("#888888", "-"),
    ENVOY_HTTPX: ("#c2410c", "--"),
    ENVOY_HTTPX2: ("#c2410c", "-"),
    MESH_HTTPX: ("#1d4ed8", "--"),
    MESH_HTTPX2: ("#1d4ed8", "-"),
    AIOHTTP: ("#15803d", ":"),
}
# Ids in the SVG depend on nothing but the picture: a run that measured the same changes no file.
_SETTINGS = {"svg.hashsalt": "proxyless", "font.size": 10}


def by_concurrency(found: Mapping[Work, Samples], folder: Path) -> None:
    """``latency.svg``, ``throughput.svg``, ``cpu.svg``: GETs of the small body over requests at a time."""
    works = [work for work in found if work.size is None]
    across = [work.concurrency for work in works]
    for name, label, of in (
        ("latency", "p50, microseconds", lambda sample: sample.done.p50),
        ("throughput", "requests per second", lambda sample: sample.throughput),
        ("cpu", "CPU microseconds per request, all processes", lambda sample: sample.cpu),
    ):
        lines(folder / f"{name}.svg", works, found, across, "requests at a time", label, of, str)


def by_size(found: Mapping[Work, Samples], folder: Path) -> None:
    """``sizes.svg``: GETs one at a time over the size of the body."""
    works = [work for work in found if work.size and work.method == "GET" and work.concurrency == 1]
    across = [work.size or 0 for work in works]
    label = "p50, microseconds"
    lines(folder / "sizes.svg", works, found, across, "body", label, lambda sample: sample.done.p50, readable)


def lines(
    path: Path,
    works: list[Work],
    found: Mapping[Work, Samples],
    across: list[int],
    x: str,
    y: str,
    of: Callable[[Sample], float],
    tick: Callable[[int], str],
    style: Mapping[str, tuple[str, str]] = _STYLE,
) -> None:
    """``of`` over ``across``, a line for each system that all of ``works`` have. style: colour and dash by name."""
    import matplotlib

    if not works:
        return
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, (colour, dash) in style.items():
            if all(name in found[work] for work in works):
                heights = [median(found[work][name], of) for work in works]
                axes.plot(across, heights, dash, color=colour, marker="o", markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(across, [tick(number) for number in across])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, metadata={"Date": None})

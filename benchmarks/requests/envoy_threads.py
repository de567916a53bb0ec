"""How many worker threads the Envoys get."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from benchmarks.requests.measure import World, describe, interleave, loads, median
from benchmarks.requests.systems import System
from benchmarks.requests.work import Work

W = TypeVar("W", bound=World)


def better_envoy_threads(
    world: Callable[[int], AbstractContextManager[W]],
    systems: Callable[[W], Sequence[System]],
    name: str,
    concurrency: int,
    tell: Callable[[str], None],
    method: str = "GET",
) -> int:
    """1 or 2 for each: whichever answers more requests of the system of that ``name`` on this machine."""
    throughput = {}
    for threads in (1, 2):
        with world(threads) as running:
            chosen = [one for one in systems(running) if one.name == name]
            with loads(chosen, running) as clients:
                work = Work(1.5, concurrency, method)
                tell(f"Envoys with {threads} worker threads: {describe(work)}")
                results = interleave(clients, work, 3, tell)
            throughput[threads] = median(results[name], lambda sample: sample.throughput)
    tell("requests/s: " + ", ".join(f"{found:.0f} with {threads}" for threads, found in throughput.items()))
    return max(throughput, key=lambda threads: throughput[threads])

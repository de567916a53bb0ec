"""Runs systems against each other: the same work for each in turn, round after round."""

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.requests.systems import System
from benchmarks.requests.usage import usage
from benchmarks.requests.work import Done, Work
from benchmarks.requests.world import ROOT

WARM_UP = 0.4


@dataclass(frozen=True, slots=True)
class Sample:
    """One system, one round. cpu: microseconds per request and resident: bytes, over all of its processes."""

    done: Done
    cpu: float
    resident: int

    @property
    def throughput(self) -> float:
        return self.done.count / self.done.seconds


class World(Protocol):
    """What runs. pids: by the names that systems call their parts."""

    @property
    def pids(self) -> Mapping[str, int]: ...


Samples = dict[str, list[Sample]]


class Load:
    """A system's client process."""

    def __init__(self, system: System, world: World, stack: contextlib.ExitStack) -> None:
        self.system = system
        command = [sys.executable, "-m", system.client, system.spec.encode()]
        self._process = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        self.pids = [self._process.pid, *(world.pids[part] for part in system.parts)]
        stack.callback(self._end)

    def wait_ready(self) -> None:
        self._line()

    def run(self, work: Work) -> Sample:
        before = usage(self.pids)
        done = Done.decode(self._ask(work))
        after = usage(self.pids)
        return Sample(done, (after.cpu - before.cpu) / done.count * 1e6, after.resident)

    def _ask(self, work: Work) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(work.encode() + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise SystemExit(f"the client of {self.system.name!r} ended; what it said is above")

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextlib.contextmanager
def loads(found: Sequence[System], world: World) -> Iterator[list[Load]]:
    with contextlib.ExitStack() as stack:
        started = [Load(system, world, stack) for system in found]
        for load in started:
            load.wait_ready()
        yield started


def interleave(running: Sequence[Load], work: Work, rounds: int, tell: Callable[[str], None]) -> Samples:
    """Each system in turn, ``rounds`` times: a machine that changes speed changes it for all of them."""
    warm_up = Work(WARM_UP, work.concurrency, work.method, work.size)
    results: Samples = {load.system.name: [] for load in running}
    for number in range(rounds):
        tell(f"{describe(work)}: round {number + 1} of {rounds}")
        for load in running:
            load.run(warm_up)
            results[load.system.name].append(load.run(work))
    return results


def describe(work: Work) -> str:
    size = "15 B" if work.size is None else readable(work.size)
    return f"{work.method} {size}, {work.concurrency} at a time"


def readable(size: int) -> str:
    for factor, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over rounds of the ratio within each round, and its extremes."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(results: Samples, mine: str, theirs: str, of: Callable[[Sample], float]) -> Ratio:
    found = [of(a) / of(b) for a, b in zip(results[mine], results[theirs], strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(of(sample) for sample in samples)

"""What the mesh costs a process besides its requests: memory, and time to import."""

import contextlib
import statistics
import subprocess
import sys
import time

from benchmarks.requests.client import Spec
from benchmarks.requests.measure import Load
from benchmarks.requests.systems import System
from benchmarks.requests.usage import usage
from benchmarks.requests.work import Work
from benchmarks.requests.world import ROOT, World


def added_memory(world: World) -> float:
    """Bytes that a process with the mesh and all of its services has more than the same process with plain httpx2."""
    plain = Spec("httpx2", world.plain)
    meshed = Spec("httpx2", "http://hello", state_dir=str(world.state_dir), services=list(world.services))
    return _resident(meshed, world) - _resident(plain, world)


def _resident(spec: Spec, world: World) -> int:
    with contextlib.ExitStack() as stack:
        load = Load(System("memory", spec, ()), world, stack)
        load.wait_ready()
        load.run(Work(1.0))
        return usage(load.pids).resident


def import_times(repeats: int) -> dict[str, float]:
    """Milliseconds of a process that imports each, less those of one that imports nothing."""
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name in ("nothing", "httpx", "httpx2", "proxyless"):
            seconds.setdefault(name, []).append(_import(name))
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return {name: (middle[name] - middle["nothing"]) * 1e3 for name in middle if name != "nothing"}


def _import(name: str) -> float:
    code = "pass" if name == "nothing" else f"import {name}"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.perf_counter() - started

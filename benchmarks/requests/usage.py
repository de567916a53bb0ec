"""What processes use, as the kernel counts it."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu: seconds since each process began, all threads. resident: bytes, summed, shared pages counted in each."""

    cpu: float
    resident: int


def usage(pids: Iterable[int]) -> Usage:
    """Of these processes and all that descend from them."""
    cpu, resident = 0, 0
    for pid in family(pids):
        root = Path(f"/proc/{pid}")
        resident += int((root / "statm").read_text().split()[1]) * _PAGE
        # In ticks of 10 ms; the finer schedstat forgets threads that have ended.
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        cpu += int(fields[11]) + int(fields[12])
    return Usage(cpu / _TICKS, resident)


def family(pids: Iterable[int]) -> list[int]:
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread that ended meanwhile has no children any more.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found

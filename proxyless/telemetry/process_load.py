"""The load of this process, measured when somebody asks for it; nothing runs in between."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from proxyless.model.load_report import LoadReport

# Seconds that a rate is measured over at least: whoever asks more often gets the same answer.
_LEAST = 1.0
_CGROUP = Path("/sys/fs/cgroup")


class ProcessLoad:
    """Since it was last asked, at least a second ago:

    cpu_utilization: processor time of this process, over the time of the processors that it may use (its affinity, and
    the quota of its container). qps, eps: requests that ended, and errors among them. And now: memory_utilization, what
    of its memory is resident, over the limit of its container or the machine's memory (Linux only).
    """

    def __init__(self, served: Callable[[], tuple[int, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._served = served
        self._clock = clock
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._processors = processors()
        self._memory = memory_limit()
        self._taken = self._clock(), time.process_time(), self._served()
        self._report = LoadReport(memory_utilization=self._memory_utilization())

    def report(self) -> LoadReport:
        if self._pid != os.getpid():
            # Forked: what the parent did is not ours, and its lock may be held for ever.
            self._lock = threading.Lock()
            self._begin()
        with self._lock:
            then, spent, (requests, errors) = self._taken
            now = self._clock()
            seconds = now - then
            if seconds >= _LEAST:
                used, (all_requests, all_errors) = time.process_time(), self._served()
                self._taken = now, used, (all_requests, all_errors)
                self._report = LoadReport(
                    cpu_utilization=max(0.0, used - spent) / seconds / self._processors,
                    memory_utilization=self._memory_utilization(),
                    qps=max(0, all_requests - requests) / seconds,
                    eps=max(0, all_errors - errors) / seconds,
                )
            return self._report

    def _memory_utilization(self) -> float:
        return min(1.0, resident() / self._memory) if self._memory else 0.0


def processors() -> float:
    """How many this process may use at once."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period):
        count = min(count, max(0.001, int(quota) / int(period)))
    return count


def memory_limit() -> int:
    """Bytes; 0 where they are not known."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 0
    limit = _read(_CGROUP / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def resident() -> int:
    """Bytes; 0 where they are not known."""
    pages = _read(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""

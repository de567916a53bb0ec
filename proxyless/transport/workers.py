"""Threads that come when there is something to do and go when there is nothing."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from proxyless.transport.pool import fork

# Seconds that a thread waits for more.
_IDLE = 5.0

Job = Callable[[], None]


class Workers:
    """threads: so many at a time; further jobs wait for one. A forked child starts without any."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._reset()
        fork.watch(self)

    def start(self, job: Job, most: int) -> bool:
        """False, and nothing is done, if ``most`` jobs are under way or wait, or there is no thread to be had."""
        with self._changed:
            if self._under_way >= most or not self._has_hands():
                return False
            self._under_way += 1
            self._jobs.append(job)
            self._changed.notify_all()
        return True

    def wait(self, seconds: float) -> None:
        """Until all are done, at most for so long; later ones end with the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, seconds)

    def forget(self) -> tuple[()]:
        """See ``pool.fork``: threads do not survive it."""
        self._reset()
        return ()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._under_way = self._threads = self._idle = 0

    def _has_hands(self) -> bool:
        """For one job more. A process that ends, or has too many threads, gets no new one: that is not the caller's."""
        if self._idle <= len(self._jobs) and self._threads < self._most:
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._threads += 1
        return self._threads > 0

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: bool(self._jobs), _IDLE)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None

"""Ends what an application has forgotten, in a thread of its own.

The garbage collector runs wherever something is allocated, within a lock too: ending a call or a connection there waits
for ever if it needs that lock, be it ours or grpcio's. Of all ways to hand something over only
``queue.SimpleQueue.put`` may be taken there (Python's documentation of ``queue``).
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("proxyless.transport")


class _Ends:
    def __init__(self) -> None:
        self.reset()
        # What a forked child inherits is its parent's to end, and the thread is the parent's.
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self.waiting: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.started = False

    def work(self) -> None:
        waiting = self.waiting
        while True:
            end = waiting.get()
            try:
                end()
            except Exception:
                log.exception("what the application has forgotten could not be ended")
            del end  # not kept until the next one


_ends = _Ends()


def prepare() -> None:
    """To be called by what may be forgotten while it is made: its ``__del__`` cannot start a thread."""
    if not _ends.started:
        with contextlib.suppress(RuntimeError):  # there are too many threads: the next one starts it
            threading.Thread(target=_ends.work, name="proxyless-forgotten", daemon=True).start()
            _ends.started = True


def end_later(end: Callable[[], object]) -> None:
    """For ``__del__``. ``end`` is called soon, in another thread."""
    _ends.waiting.put(end)

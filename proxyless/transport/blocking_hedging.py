"""The attempts of a hedged call, under way together, for a thread that waits. Compare ``hedging``."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt, Failed, FailureKind, Outcome, Respond, Step, Wait
from proxyless.transport.workers import Workers

# Attempts of this process that are in a thread of their own; with more there is no further hedging.
MOST = 64
_workers = Workers("proxyless-hedge", MOST)


class Racer(Protocol):
    """An attempt."""

    def perform(self, patience: float | None) -> Outcome | None:
        """Its outcome; None if there was none in so many seconds. Then it can be called again, in any thread."""

    def abandon(self) -> None:
        """From any thread: nobody wants it any more. What it is waiting for ends, and ``drop`` follows."""

    def drop(self) -> None:
        """It has ended, and nobody wants what it brought."""


T = TypeVar("T", bound=Racer)


class Race(Generic[T]):
    """begin: makes an attempt."""

    def __init__(self, call: Call, begin: Callable[[Attempt, AttemptRecord], T]) -> None:
        self._call = call
        self._begin = begin
        self._under_way: dict[int, T] = {}
        # An attempt that is alone is performed in the caller's own thread until it is late.
        self._alone = 0
        self._ended: queue.SimpleQueue[tuple[int, Outcome | BaseException]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, first: Attempt) -> T | Respond:
        """The attempt that answered, or what to answer instead. What an attempt raises is raised."""
        call, clock = self._call, time.monotonic
        record = call.record
        step: Step | None = first
        try:
            while True:
                ended: int | None = None
                match step:
                    case Attempt():
                        self._start(step, record.attempts[-1])
                    case Wait():
                        ended = self._wait(step.seconds)
                    case Respond():
                        return step
                deciding = clock()
                step = call.next_step()
                record.policy += clock() - deciding
                if ended is not None:
                    attempt = self._under_way.pop(ended)
                    if step is None:
                        return attempt
                    attempt.drop()
        finally:
            self._end()

    def _start(self, step: Attempt, record: AttemptRecord) -> None:
        alone = not self._under_way
        attempt = self._under_way[step.number] = self._begin(step, record)
        if alone:
            self._alone = step.number
        elif not self._send_off(step.number, attempt):
            self._ended.put((step.number, Failed(FailureKind.OVERFLOW, f"{MOST} hedged attempts are under way")))

    def _wait(self, seconds: float | None) -> int | None:
        """The number of an attempt that has ended, if one has in this time."""
        number, outcome = self._alone, None
        if number:
            attempt = self._under_way[number]
            outcome = attempt.perform(seconds)
            if outcome is None and not self._send_off(number, attempt):
                outcome = attempt.perform(None)
            self._alone = 0
        elif not self._under_way:
            time.sleep(seconds or 0.0)
        else:
            try:
                number, found = self._ended.get(timeout=seconds)
            except queue.Empty:
                return None
            if isinstance(found, BaseException):
                raise found
            outcome = found
        if outcome is None:
            return None
        self._call.report(outcome, number)
        return number

    def _send_off(self, number: int, attempt: T) -> bool:
        """To a thread of its own."""

        def job() -> None:
            found: Outcome | BaseException | None
            try:
                found = attempt.perform(None)
            except BaseException as error:
                found = error
            assert found is not None
            with self._lock:
                if not self._over:
                    self._ended.put((number, found))
                    return
            attempt.drop()

        return _workers.start(job, MOST)

    def _end(self) -> None:
        with self._lock:
            self._over = True
        while not self._ended.empty():
            number, _ = self._ended.get()
            if (attempt := self._under_way.pop(number, None)) is not None:
                attempt.drop()
        for number, attempt in self._under_way.items():
            attempt.abandon()
            if number == self._alone:
                attempt.drop()

"""The attempts of a hedged call, under way together. The first is the caller's own thread's until it is late."""

import threading
import time
from functools import partial
from typing import Any

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt, Failed, Outcome, Respond
from proxyless.transport.blocking_hedging import Race
from proxyless.transport.http1.errors import ConnectionEnded, DeadlineExceeded
from proxyless.transport.httpx_adapter.sync_attempt import SyncExchange
from proxyless.transport.pool.blocking import BlockingUse


class HedgedExchange(SyncExchange):
    """One attempt, which another thread may end. like: of the same call."""

    __slots__ = ("_abandoned", "_deadline", "_lock", "_record", "_started", "_step")

    def __init__(self, like: SyncExchange, step: Attempt, record: AttemptRecord) -> None:
        super().__init__(like._pool, like._request, like._scheme, like._content)
        self._step = step
        self._record = record
        self._started = False
        self._deadline: float | None = None
        # While it is held the connection is not closed: what is shut down must be ours.
        self._lock = threading.Lock()
        self._abandoned = False

    def perform(self, patience: float | None) -> Outcome | None:
        now = time.monotonic()
        try:
            if not self._started:
                self._started = True
                self._deadline = None if self._step.timeout is None else now + self._step.timeout
                self._send(self._step, self._record, now, self._deadline)
            if patience is None or (self._deadline is not None and now + patience >= self._deadline):
                return self._answer(self._record, self._deadline)
            try:
                return self._answer(self._record, now + patience)
            except DeadlineExceeded:
                return None
        except BaseException as error:
            return self._broken(error)

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self.connection is not None:
                self.connection.abandon()

    def drop(self) -> None:
        if self._abandoned:
            self.abort()
        else:
            self.release()

    def _connection(self, *arguments: Any, **more: Any) -> BlockingUse:
        connection = super()._connection(*arguments, **more)
        with self._lock:
            self.connection = connection
            if self._abandoned:
                raise ConnectionEnded("another attempt was first", clean=False)
        return connection

    def _broken(self, error: BaseException) -> Failed:
        with self._lock:
            return super()._broken(error)


def race(call: Call, first: Attempt, like: SyncExchange) -> HedgedExchange | Respond:
    """The exchange whose attempt answered, or what to answer instead."""
    return Race(call, partial(HedgedExchange, like)).run(first)

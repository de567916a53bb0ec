"""What a task waits for, and goes on at once when it comes.

An asyncio future has the loop call whoever waits for it in its next turn: another poll of the selector, and a handle to
carry the news. A task whose bytes have come goes on here within the callback that received them, if it waits alone.

Where many wait, all that a poll found goes on within one turn; who asks last has no answer yet at the next poll, and is
last there again: at 32 requests at a time, one in 30 took twice as long as the rest. With turns of their own, who asked
first is answered first.
"""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from dataclasses import dataclass


@dataclass(slots=True)
class Waiters:
    """count: tasks of one loop that wait for what their connections receive."""

    count: int = 0


class Arrival:
    """Awaited once, by one task of ``loop``: whether it came (True) or was given up (False).

    To the task it is a future, by asyncio's protocol for objects that are like one.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_came", "_cancelled", "_context", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._callback: Callable[[Arrival], object] | None = None
        self._context: Context | None = None
        self._came: bool | None = None
        self._cancelled: tuple[object, ...] | None = None  # with what it was cancelled

    def __await__(self) -> Generator["Arrival", None, bool]:
        if self._came is None and self._cancelled is None:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def done(self) -> bool:
        return self._came is not None or self._cancelled is not None

    def now(self) -> None:
        """It came. For callbacks of the loop: a task that calls this cannot be left for the other one."""
        if not self.done():
            self._came = True
            if asyncio.current_task(self._loop) is None:
                self._tell()
            else:
                self._loop.call_soon(self._tell)

    def soon(self, came: bool) -> None:
        """It came, or never will; who waits goes on in the loop's next turn."""
        if not self.done():
            self._came = came
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        callback, context = self._callback, self._context
        if callback is not None and context is not None:
            self._callback = None
            context.run(callback, self)

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[["Arrival"], object], *, context: Context) -> None:
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:
        """The task was cancelled. What came just before does not reach it, as with a future.

        msg: reaches the task, because anyio knows its own cancellations by it.
        """
        if self.done():
            return False
        self._cancelled = () if msg is None else (msg,)
        self._loop.call_soon(self._tell)
        return True

    def result(self) -> bool:
        if self._came is not None:
            return self._came
        if self._cancelled is None:
            raise asyncio.InvalidStateError("it has neither come nor been given up")
        raise asyncio.CancelledError(*self._cancelled)

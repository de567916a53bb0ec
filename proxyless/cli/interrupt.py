"""Ctrl-C at a moment of our choosing: Python would raise KeyboardInterrupt between any two instructions, and drop it in
a finalizer or a callback."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

# How long what is under way may take to end by itself, in seconds: one request, not one that hangs.
PATIENCE = 1.0


class Interrupt:
    """In its ``with`` block the first Ctrl-C raises nothing: ``asked`` remembers it. The second raises as ever."""

    def __init__(self) -> None:
        self.asked = False
        self._news = threading.Event()

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def run(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread until it ends or Ctrl-C comes; it looks at ``asked`` and is left behind if it hangs.

        Raises what ``work`` raised.
        """
        raised: list[BaseException] = []

        def working() -> None:
            try:
                work()
            except BaseException as error:
                raised.append(error)
            finally:
                self._news.set()

        thread = threading.Thread(target=working, name="proxyless-command", daemon=True)
        thread.start()
        self._news.wait()
        thread.join(PATIENCE)
        if raised:
            raise raised[0]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._news.set()

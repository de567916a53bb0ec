"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt that comes up inside a finalizer or a callback."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """In its ``with`` block Ctrl-C raises KeyboardInterrupt as ever; ``asked`` remembers it, for loops to look at."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt

"""Turns a burst of changes into one push."""

import asyncio
from collections.abc import Callable

QUIET = 0.020
LONGEST = 0.500


class Debounce:
    """Calls ``action`` once changes have been quiet for ``quiet`` seconds, at the latest ``longest`` after the first.

    Istio's values are 100 ms and 10 s (PILOT_DEBOUNCE_AFTER, PILOT_DEBOUNCE_MAX): a mesh of processes on few machines
    can afford to be faster. Use it in one event loop.
    """

    def __init__(self, action: Callable[[], None], quiet: float = QUIET, longest: float = LONGEST) -> None:
        self._action = action
        self._quiet = quiet
        self._longest = longest
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Something changed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._deadline is None:
            self._deadline = now + self._longest
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(min(now + self._quiet, self._deadline), self._fire)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadline = None

    def _fire(self) -> None:
        self._timer = self._deadline = None
        self._action()

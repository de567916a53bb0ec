"""How many HTTP/2 frames that bring nothing a peer may send, before its connection ends."""

from collections.abc import Callable

# Frames at once, and frames a second.
_BURST, _RATE = 2000.0, 200.0
# A frame of ours may be answered with some that bring nothing: settings, pings, windows (Envoy allows 10).
_ANSWERS = 10.0


class FloodBudget:
    """Of one connection, as Envoy's flood limits are. clock: seconds."""

    __slots__ = ("_clock", "_left", "_refilled")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = _BURST
        self._refilled = clock()

    def spend(self, frames: float = 1.0) -> bool:
        """False: it is used up."""
        self._left -= frames
        if self._left < 0:
            now = self._clock()
            self._left = min(_BURST, self._left + (now - self._refilled) * _RATE)
            self._refilled = now
        return self._left >= 0

    def sent(self) -> None:
        """A head or data was sent."""
        left = self._left + _ANSWERS
        self._left = left if left < _BURST else _BURST

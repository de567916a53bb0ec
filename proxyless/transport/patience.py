"""How long a thread waits, in the units of ``poll``."""

import math

# Of a C int: 24 days.
_LONGEST_MS = 2**31 - 1


def milliseconds(seconds: float | None) -> int | None:
    """For ``poll``, which refuses more than it can count; None waits for ever."""
    return None if seconds is None else math.ceil(min(seconds * 1000, _LONGEST_MS))

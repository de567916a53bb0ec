"""Ids that must be unique and need not be secret: without a system call for each, and made before they are needed."""

import os
import random
from collections.abc import Callable
from typing import Generic, TypeVar

_random = random.Random(os.urandom(32))  # noqa: S311  nobody is trusted for knowing one
bits = _random.getrandbits

Id = TypeVar("Id")
_MANY = 64


def digits(count: int) -> str:
    """Random hex digits, in lower case; an even number of them."""
    return _random.randbytes(count // 2).hex()


class Supply(Generic[Id]):
    """Makes many ids at once: from request to request a processor forgets the code that makes one, and making it costs
    several times as much as in a loop. Any thread may take. make: that many of them, of one call of ``digits``.
    """

    __slots__ = ("_make", "_ready")

    def __init__(self, make: Callable[[int], list[Id]]) -> None:
        self._make = make
        self._ready: list[Id] = []
        os.register_at_fork(after_in_child=self._ready.clear)

    def take(self) -> Id:
        try:
            return self._ready.pop()
        except IndexError:
            made = self._make(_MANY)
            # Kept back before the others can be taken: another thread could be faster.
            mine = made.pop()
            self._ready += made
            return mine


# A forked child would repeat its parent's.
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

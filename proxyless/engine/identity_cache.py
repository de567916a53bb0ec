"""What is derived from a frozen model object, computed once for as long as the object is in use."""

from collections.abc import Callable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Derived = TypeVar("Derived")


class IdentityCache(Generic[Source, Derived]):
    """Keyed by identity, because hashing a deep frozen object costs more than deriving from it.

    No lock: two threads may derive the same value at once, and either result serves. Each entry keeps its source
    alive, so an id is never reused while it is a key. Past ``limit`` entries it starts again, which bounds it over
    snapshot swaps.
    """

    __slots__ = ("_derive", "_entries", "_limit")

    def __init__(self, derive: Callable[[Source], Derived], limit: int = 4096) -> None:
        self._derive = derive
        self._limit = limit
        self._entries: dict[int, tuple[Source, Derived]] = {}

    def get(self, source: Source) -> Derived:
        entry = self._entries.get(id(source))
        if entry is not None:
            return entry[1]
        derived = self._derive(source)
        entries = self._entries
        if len(entries) >= self._limit:
            entries = self._entries = {}
        entries[id(source)] = source, derived
        return derived

    def __len__(self) -> int:
        return len(self._entries)

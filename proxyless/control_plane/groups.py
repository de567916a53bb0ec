"""An index that is made anew after each change at the cost of the change, sharing everything else."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Bucket = tuple[str, ...]


class Groups(Generic[Item]):
    """Items by each of the buckets they belong to, in ``order`` within one. Immutable.

    touched: the buckets in which this one differs from the one it was made from.
    """

    def __init__(self, buckets: Callable[[Item], Iterable[Bucket]], order: Callable[[Item], Any]) -> None:
        self.touched: frozenset[Bucket] = frozenset()
        self._buckets = buckets
        self._order = order
        self._groups: dict[Bucket, tuple[Item, ...]] = {}

    def get(self, bucket: Bucket) -> tuple[Item, ...]:
        return self._groups.get(bucket, ())

    def __iter__(self) -> Iterator[Bucket]:
        """The buckets with something in them."""
        return iter(self._groups)

    def changed(self, gone: Iterable[Item], came: Iterable[Item]) -> "Groups[Item]":
        """One without the very objects that are ``gone``, and with those that ``came``."""
        lost: dict[Bucket, set[int]] = {}
        for item in gone:
            for bucket in self._buckets(item):
                lost.setdefault(bucket, set()).add(id(item))
        new: dict[Bucket, list[Item]] = {}
        for item in came:
            for bucket in self._buckets(item):
                new.setdefault(bucket, []).append(item)
        result = Groups(self._buckets, self._order)
        result.touched = frozenset(lost.keys() | new.keys())
        result._groups = dict(self._groups) if result.touched else self._groups
        for bucket in result.touched:
            without = lost.get(bucket, ())
            kept = [item for item in self.get(bucket) if id(item) not in without]
            if found := tuple(sorted((*kept, *new.get(bucket, ())), key=self._order)):
                result._groups[bucket] = found
            else:
                result._groups.pop(bucket, None)
        return result

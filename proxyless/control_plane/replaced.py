"""What differs between two mappings whose unchanged items are the same objects, so that looking is cheap."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from operator import is_not
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Replaced(Generic[Item]):
    """gone: what the first has and the second has not, or has otherwise. came: the other way round."""

    gone: list[Item] = field(default_factory=list)
    came: list[Item] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.gone or self.came)


def replaced(before: Mapping[Key, Item], after: Mapping[Key, Item]) -> Replaced[Item]:
    found: Replaced[Item] = Replaced()
    if before is after:
        return found
    # Passes over everything: without a line of Python for what is the same.
    other = list(compress(after, map(is_not, after.values(), map(before.get, after))))
    found.came.extend(after[key] for key in other)
    found.gone.extend(before[key] for key in other if key in before)
    if len(before) > len(after) - len(found.came) + len(found.gone):
        found.gone.extend(before[key] for key in before if key not in after)
    return found

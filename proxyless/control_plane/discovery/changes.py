"""What differs between two worlds. What did not change is the same object in both, so looking is cheap."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World
from proxyless.model.workload import Workload

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Replaced(Generic[Item]):
    """gone: what the first world had and the second has not, or has otherwise. came: the other way round."""

    gone: list[Item] = field(default_factory=list)
    came: list[Item] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.gone or self.came)


@dataclass(frozen=True, slots=True)
class Changes:
    """resources: by kind; a kind that is not there did not change."""

    resources: Mapping[str, Replaced[Resource[Any]]]
    workloads: Replaced[Workload]

    def of(self, kind: str) -> Replaced[Resource[Any]]:
        return self.resources.get(kind) or Replaced()


def changes(before: World | None, after: World) -> Changes:
    """Without a world before, everything came."""
    replaced = _replaced(before.resources if before else {}, after.resources)
    resources: dict[str, Replaced[Resource[Any]]] = {}
    for resource in replaced.gone:
        resources.setdefault(resource.kind, Replaced()).gone.append(resource)
    for resource in replaced.came:
        resources.setdefault(resource.kind, Replaced()).came.append(resource)
    return Changes(resources, _replaced(before.workloads if before else {}, after.workloads))


def _replaced(before: Mapping[Any, Item], after: Mapping[Any, Item]) -> Replaced[Item]:
    found: Replaced[Item] = Replaced()
    if before is after:
        return found
    common = 0
    for key, item in after.items():
        was = before.get(key)
        if was is not None:
            common += 1
        if was is not item:
            found.came.append(item)
            if was is not None:
                found.gone.append(was)
    if common < len(before):
        found.gone.extend(item for key, item in before.items() if key not in after)
    return found

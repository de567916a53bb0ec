"""What differs between two worlds. What did not change is the same object in both, so looking is cheap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.replaced import Replaced, replaced
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World
from proxyless.model.workload import Workload


@dataclass(frozen=True, slots=True)
class Changes:
    """resources: by kind; a kind that is not there did not change. key_sets: their URLs."""

    resources: Mapping[str, Replaced[Resource[Any]]]
    workloads: Replaced[Workload]
    key_sets: frozenset[str]

    def of(self, *kinds: str) -> Replaced[Resource[Any]]:
        found: Replaced[Resource[Any]] = Replaced()
        for each in (self.resources[kind] for kind in kinds if kind in self.resources):
            found.gone.extend(each.gone)
            found.came.extend(each.came)
        return found


def changes(before: World | None, after: World) -> Changes:
    """Without a world before, everything came."""
    found = replaced(before.resources if before else {}, after.resources)
    resources: dict[str, Replaced[Resource[Any]]] = {}
    for resource in found.gone:
        resources.setdefault(resource.kind, Replaced()).gone.append(resource)
    for resource in found.came:
        resources.setdefault(resource.kind, Replaced()).came.append(resource)
    sets = before.key_sets if before else {}
    urls = frozenset[str]() if sets is after.key_sets else sets.keys() | after.key_sets.keys()
    moved = frozenset(url for url in urls if sets.get(url) is not after.key_sets.get(url))
    return Changes(resources, replaced(before.workloads if before else {}, after.workloads), moved)

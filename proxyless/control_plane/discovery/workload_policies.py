"""Which policies are for a workload, of a kind of which all that select it act together.

Source: Istio's AuthorizationPolicy and RequestAuthentication: those of the root namespace are for every namespace.
"""

import copy
from collections.abc import Mapping
from typing import Any

from proxyless.control_plane.discovery.service import selects
from proxyless.control_plane.groups import Groups
from proxyless.control_plane.replaced import Replaced
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import MeshSettings


class WorkloadPolicies:
    """Of one kind. Policies with targetRefs are for gateways and waypoints, and so for no workload (Istio)."""

    def __init__(self, settings: MeshSettings) -> None:
        # Namespaces that have other policies than those that these were made from (``changed``); None for the mesh's.
        self.touched: frozenset[str | None] = frozenset()
        # Labels of servers that policies select by.
        self.label_keys: frozenset[str] = frozenset()
        self._root = settings.root_namespace
        self._namespaces: Groups[Resource[Any]] = Groups(
            lambda resource: [(resource.namespace,)], order=lambda resource: resource.age
        )

    def changed(self, replaced: Replaced[Resource[Any]]) -> "WorkloadPolicies":
        """The same after a change; itself if no policy is another."""
        gone, came = ([one for one in some if _is_for_workloads(one)] for some in (replaced.gone, replaced.came))
        if not gone and not came:
            return self
        result = copy.copy(self)
        result._namespaces = found = self._namespaces.changed(gone, came)
        result.touched = frozenset(None if name == self._root else name for (name,) in found.touched)
        result.label_keys = frozenset(
            key for bucket in found for resource in found.get(bucket) for key in _selector(resource)
        )
        return result

    def of(self, namespace: str, labels: Mapping[str, str]) -> tuple[Resource[Any], ...]:
        """Those of the root namespace first, then those of the workload's own; within each the oldest first."""
        return tuple(
            resource
            for one in dict.fromkeys((self._root, namespace))
            for resource in self._namespaces.get((one,))
            if selects(_selector(resource), labels)
        )


def _is_for_workloads(resource: Resource[Any]) -> bool:
    return resource.spec.target_ref is None and not resource.spec.target_refs


def _selector(resource: Resource[Any]) -> Mapping[str, str]:
    selector = resource.spec.selector
    return selector.match_labels if selector is not None else {}

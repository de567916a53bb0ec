"""Which policies are for a workload, of a kind of which all that select it act together.

Source: Istio's AuthorizationPolicy and RequestAuthentication: those of the root namespace are for every namespace.
"""

from collections.abc import Mapping
from typing import Any

from proxyless.control_plane.discovery.service import selects
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World


class WorkloadPolicies:
    """Of one kind. Policies with targetRefs are for gateways and waypoints, and so for no workload (Istio)."""

    def __init__(self, world: World, kind: str) -> None:
        self._root = world.settings.root_namespace
        self._namespaces: dict[str, list[Resource[Any]]] = {}
        keys: set[str] = set()
        for resource in world.of(kind):
            if resource.spec.target_ref is None and not resource.spec.target_refs:
                self._namespaces.setdefault(resource.namespace, []).append(resource)
                keys.update(_selector(resource))

        # Labels of servers that policies select by.
        self.label_keys = frozenset(keys)

    def of(self, namespace: str, labels: Mapping[str, str]) -> tuple[Resource[Any], ...]:
        """Those of the root namespace first, then those of the workload's own; within each the oldest first."""
        return tuple(
            resource
            for one in dict.fromkeys((self._root, namespace))
            for resource in self._namespaces.get(one, ())
            if selects(_selector(resource), labels)
        )


def _selector(resource: Resource[Any]) -> Mapping[str, str]:
    selector = resource.spec.selector
    return selector.match_labels if selector is not None else {}

"""Everything the control plane knows at one moment, immutable: what ``translate`` is a function of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.resources.destination_rule import LocalityLoadBalancerSetting
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.model.workload import Workload


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """The part of Istio's MeshConfig that acts here. outbound_allow_any: False is REGISTRY_ONLY.
    locality_lb: the mesh's localityLbSetting, None for the default (on, without rules).
    """

    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    cluster_domain: str = "cluster.local"
    outbound_allow_any: bool = True
    locality_lb: LocalityLoadBalancerSetting | None = None


@dataclass(frozen=True, slots=True)
class KeySet:
    """What was fetched of a JWKS. text: the last good one, "" while there is none, for the reason ``problem``."""

    text: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """resources: every valid configuration resource. workloads: every registered process, by its id. key_sets: those
    that token rules name, by URL.

    generation grows by one with every change, within one run of the control plane.
    """

    resources: Mapping[Key, Resource[Any]] = field(default_factory=lambda: MappingProxyType({}))
    workloads: Mapping[str, Workload] = field(default_factory=lambda: MappingProxyType({}))
    settings: MeshSettings = MeshSettings()
    generation: int = 0
    key_sets: Mapping[str, KeySet] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, kind: str) -> list[Resource[Any]]:
        """All resources of a kind, oldest first, then by namespace and name."""
        found = [resource for resource in self.resources.values() if resource.kind == kind]
        return sorted(found, key=lambda resource: resource.age)

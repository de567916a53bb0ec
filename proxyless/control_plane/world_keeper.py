"""The current world: one reference, replaced as a whole whenever the configuration or the registry changes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.configuration import mesh_settings
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.world import MeshSettings, World
from proxyless.model.workload import Workload


class WorldKeeper:
    """base: settings before the mesh's own configuration is read. publish: given each new world."""

    def __init__(self, base: MeshSettings, publish: Callable[[World], None]) -> None:
        self.current = World(settings=base)
        self._base = base
        self._publish = publish
        self._resources: Mapping[Key, Resource[Any]] = MappingProxyType({})
        self._workloads: Mapping[str, Workload] = MappingProxyType({})

    def restored(self, workloads: Mapping[str, Workload]) -> None:
        """What was running before a restart. Not published: without its configuration it is half of a world."""
        self._workloads = workloads

    def configured(self, resources: Mapping[Key, Resource[Any]]) -> None:
        self._resources = resources
        self._replace()

    def registered(self, workloads: Mapping[str, Workload]) -> None:
        self._workloads = workloads
        self._replace()

    def implied_hosts(self) -> set[str]:
        """Services that exist because running workloads name them."""
        domain = self.current.settings.cluster_domain
        return {f"{w.service}.{w.namespace}.svc.{domain}" for w in self._workloads.values() if w.service}

    def _replace(self) -> None:
        settings = mesh_settings(self._resources, self._base)
        self.current = World(self._resources, self._workloads, settings, self.current.generation + 1)
        self._publish(self.current)

"""The current world: one reference, replaced as a whole when the configuration or the registry changed."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.configuration import mesh_settings
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.world import KeySet, MeshSettings, World
from proxyless.model.workload import Workload


class WorldKeeper:
    """base: settings before the mesh's own configuration is read. workloads: what is registered now. key_sets: what has
    been fetched.

    announce: called after each change. The new world is made when it is looked at: a burst of changes makes one.
    """

    def __init__(
        self,
        base: MeshSettings,
        workloads: Callable[[], Mapping[str, Workload]],
        key_sets: Callable[[], Mapping[str, KeySet]],
        announce: Callable[[], None],
    ) -> None:
        self._base = base
        self._announce = announce
        self._read_workloads = workloads
        self._read_key_sets = key_sets
        self._resources: Mapping[Key, Resource[Any]] = MappingProxyType({})
        self._current = World(settings=base)
        self._changed = False
        self._registry_changed = True

    @property
    def current(self) -> World:
        if self._changed:
            before = self._current
            workloads = self._read_workloads() if self._registry_changed else before.workloads
            settings = mesh_settings(self._resources, self._base)
            self._current = World(self._resources, workloads, settings, before.generation + 1, self._read_key_sets())
            self._changed = self._registry_changed = False
        return self._current

    def configured(self, resources: Mapping[Key, Resource[Any]]) -> None:
        self._resources = resources
        self._changed = True
        self._announce()

    def fetched(self) -> None:
        self._changed = True
        self._announce()

    def registered(self) -> None:
        self._changed = self._registry_changed = True
        self._announce()

    def implied_hosts(self) -> set[str]:
        """Services that exist because running workloads name them."""
        domain = self._base.cluster_domain
        return {f"{w.service}.{w.namespace}.svc.{domain}" for w in self._read_workloads().values() if w.service}

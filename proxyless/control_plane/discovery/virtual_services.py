"""Which VirtualService rules a host, for a client of a namespace."""

from collections.abc import Container
from typing import Any

from proxyless.control_plane.discovery.visibility import Visibility, visibility
from proxyless.control_plane.resources.names import covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, VirtualServiceSpec
from proxyless.control_plane.world import World


class VirtualServices:
    """The VirtualServices that act on clients of the mesh, indexed by host.

    For one host the most specific pattern wins, then a rule private to the client's namespace before an exported
    one, then the older one; rules of several VirtualServices are not merged (Istio does so for gateways only).
    """

    def __init__(self, world: World, known: Container[str] = ()) -> None:
        domain = world.settings.cluster_domain
        self._by_host: dict[str, list[tuple[Visibility, Resource[Any]]]] = {}
        self._delegates: dict[tuple[str, str], tuple[Visibility, Resource[Any]]] = {}
        for resource in world.of("VirtualService"):
            spec: VirtualServiceSpec = resource.spec
            seen = visibility(spec.export_to, resource.namespace)
            if not spec.hosts:
                self._delegates[resource.namespace, resource.name] = (seen, resource)
                continue
            if spec.gateways and MESH_GATEWAY not in spec.gateways:
                continue
            for host in dict.fromkeys(qualify(host, resource.namespace, domain, known) for host in spec.hosts):
                self._by_host.setdefault(host, []).append((seen, resource))
        for rules in self._by_host.values():
            rules.sort(key=lambda rule: rule[0].rank)  # stable: within a rank the oldest stays first
        self._wildcards = [host for host in self._by_host if host.startswith("*")]

    def hosts(self, namespace: str) -> list[str]:
        """Every host that a rule visible to ``namespace`` names, wildcards included."""
        return sorted(host for host in self._by_host if self._visible(host, namespace) is not None)

    def of(self, host: str, namespace: str) -> Resource[Any] | None:
        """The rule for requests to ``host`` (qualified) from ``namespace``, or None."""
        if (exact := self._visible(host, namespace)) is not None:
            return exact
        patterns = [
            pattern
            for pattern in self._wildcards
            if covers(pattern, host) and self._visible(pattern, namespace) is not None
        ]
        found = most_specific(patterns, host)
        return self._visible(found, namespace) if found else None

    def delegate(self, namespace: str, name: str, root_namespace: str) -> Resource[Any] | None:
        """A VirtualService without hosts, to which one in ``root_namespace`` hands a part of its routes."""
        found = self._delegates.get((namespace, name))
        return found[1] if found and found[0].allows(root_namespace) else None

    def _visible(self, host: str, namespace: str) -> Resource[Any] | None:
        return next((rule for seen, rule in self._by_host.get(host, ()) if seen.allows(namespace)), None)

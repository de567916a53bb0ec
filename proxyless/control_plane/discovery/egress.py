"""What a Sidecar lets its workloads see: its egress listeners, and which hosts each imports."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from proxyless.control_plane.discovery.service import Service, selects
from proxyless.control_plane.resources.names import canonical, covers
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.sidecar import (
    UNIX,
    IstioEgressListener,
    SidecarOutboundTrafficPolicyMode,
    SidecarSpec,
)
from proxyless.control_plane.resources.virtual_service import Destination
from proxyless.control_plane.world import World

# Istio's protocol of a port that is an HTTP proxy for every port of its hosts.
HTTP_PROXY = "HTTP_PROXY"
_EVERYTHING = IstioEgressListener(hosts=("*/*",))


@dataclass(frozen=True, slots=True)
class EgressListener:
    """port: 0 for any (no port, or a unix socket). bind: as written. hosts: namespace, ``*`` for any, and a pattern.

    explicit: it has a port or socket of its own, as against the listener for everything else.
    """

    port: int
    protocol: str
    bind: str
    hosts: tuple[tuple[str, str], ...]
    explicit: bool

    @classmethod
    def of(cls, written: IstioEgressListener, namespace: str) -> Self:
        """namespace: of the client, which is what ``.`` means also in the root namespace's Sidecar (Istio)."""
        hosts = []
        for host in written.hosts:
            place, _, pattern = host.partition("/")
            if place != "~":
                hosts.append((namespace if place == "." else place, canonical(pattern)))
        port = written.port
        return cls(
            port=port.number if port else 0,
            protocol=port.protocol.upper() if port else "",
            bind=written.bind,
            hosts=tuple(hosts),
            explicit=port is not None,
        )

    @property
    def is_socket(self) -> bool:
        return self.bind.startswith(UNIX)

    def service(self, service: Service) -> Service | None:
        """What of it this listener imports: a listener with a port, that port only (Istio)."""
        if not any(
            place in ("*", service.namespace) and covers(pattern, service.host) for place, pattern in self.hosts
        ):
            return None
        if not self.port or self.protocol == HTTP_PROXY:
            return service
        port = service.port(self.port)
        return replace(service, ports=(port,)) if port else None

    def rule(self, namespace: str, hosts: Iterable[str]) -> bool:
        """Whether it imports a VirtualService with these (qualified) hosts: one overlaps with a host of it (Istio)."""
        patterns = [pattern for place, pattern in self.hosts if place in ("*", namespace)]
        return any(covers(pattern, host) or covers(host, pattern) for host in hosts for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Egress:
    """What workloads of one namespace see by one Sidecar.

    allow_any: None where the Sidecar says nothing and the mesh decides. proxy: where unknown traffic goes.
    """

    listeners: tuple[EgressListener, ...]
    allow_any: bool | None
    proxy: Destination | None
    proxy_namespace: str

    @classmethod
    def of(cls, sidecar: Resource[SidecarSpec], namespace: str) -> Self:
        policy = sidecar.spec.outbound_traffic_policy
        return cls(
            listeners=tuple(EgressListener.of(one, namespace) for one in sidecar.spec.egress or (_EVERYTHING,)),
            allow_any=None if policy is None else policy.mode is SidecarOutboundTrafficPolicyMode.ALLOW_ANY,
            proxy=policy.egress_proxy if policy else None,
            proxy_namespace=sidecar.namespace,
        )

    def service(self, service: Service) -> Service | None:
        """With the ports that any listener imports, None without any."""
        found = [one for listener in self.listeners if (one := listener.service(service)) is not None]
        if not found or any(one is service for one in found):
            return service if found else None
        numbers = {port.number for one in found for port in one.ports}
        return replace(service, ports=tuple(port for port in service.ports if port.number in numbers))

    def rule(self, namespace: str, hosts: Iterable[str]) -> bool:
        hosts = tuple(hosts)
        return any(listener.rule(namespace, hosts) for listener in self.listeners)


class Sidecars:
    """Which Sidecar is a workload's: the oldest of its namespace that selects it, then the oldest of its namespace that
    selects none in particular, then that of the root namespace (Istio).
    """

    def __init__(self, world: World) -> None:
        self._root = world.settings.root_namespace
        self._selecting: dict[str, list[Resource[Any]]] = {}
        self._defaults: dict[str, Resource[Any]] = {}
        self.by_key: dict[Key, Resource[Any]] = {}
        for resource in world.of("Sidecar"):
            self.by_key[resource.key] = resource
            if resource.spec.selector:
                self._selecting.setdefault(resource.namespace, []).append(resource)
            else:
                self._defaults.setdefault(resource.namespace, resource)
        # Labels of clients that Sidecars select by.
        self.label_keys = frozenset(
            key for found in self._selecting.values() for one in found for key in one.spec.selector
        )

    def of(self, namespace: str, labels: Mapping[str, str]) -> Resource[SidecarSpec] | None:
        for resource in self._selecting.get(namespace, ()):
            if selects(resource.spec.selector, labels):
                return resource
        return self._defaults.get(namespace) or self._defaults.get(self._root)

    def has(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether such a workload has one."""
        return self.of(namespace, labels) is not None

"""The catalog of a world: its services, endpoints and rules, indexed once and asked many times."""

from proxyless.control_plane.discovery.destination_rules import DestinationRules
from proxyless.control_plane.discovery.endpoints import EndpointSources
from proxyless.control_plane.discovery.peer_authentications import PeerAuthentications
from proxyless.control_plane.discovery.service import Service, ServiceEndpoint, ServicePort
from proxyless.control_plane.discovery.services import services
from proxyless.control_plane.discovery.virtual_services import VirtualServices
from proxyless.control_plane.resources.names import candidates, covers, most_specific, qualify
from proxyless.control_plane.world import MeshSettings, World


class Catalog:
    """Everything here is a function of the world given to the constructor; what is computed late is only remembered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.services: tuple[Service, ...] = tuple(services(world))
        self.peer_authentications = PeerAuthentications(world)
        self._sources = EndpointSources(world)
        self._by_host: dict[str, list[Service]] = {}
        for service in self.services:
            self._by_host.setdefault(service.host, []).append(service)
        self._wildcards = [host for host in self._by_host if host.startswith("*")]
        self.virtual_services = VirtualServices(world, self._by_host)
        self.destination_rules = DestinationRules(world, self._by_host)
        self._endpoints: dict[tuple[str, str, str, int], tuple[ServiceEndpoint, ...]] = {}

    @property
    def settings(self) -> MeshSettings:
        return self.world.settings

    def service(self, host: str, namespace: str) -> Service | None:
        """The service that ``host`` (qualified) is for clients of ``namespace``, wildcards included.

        Of several that declare one host: the client's own namespace first, then Services before ServiceEntries,
        then the oldest.
        """
        if (exact := self._visible(host, namespace)) is not None:
            return exact
        patterns = [
            pattern for pattern in self._wildcards if covers(pattern, host) and self._visible(pattern, namespace)
        ]
        found = most_specific(patterns, host)
        return self._visible(found, namespace) if found else None

    def visible(self, namespace: str) -> list[Service]:
        """Every service clients of ``namespace`` may call, one for each host, by host."""
        found = (self._visible(host, namespace) for host in sorted(self._by_host))
        return [service for service in found if service is not None]

    def qualify(self, host: str, namespace: str) -> str:
        """The full name of a host that a rule of ``namespace`` names."""
        return qualify(host, namespace, self.settings.cluster_domain, self._by_host)

    def resolve(self, name: str, namespace: str) -> tuple[str, Service | None] | None:
        """What a dialled host name means for a client: its qualified host and service, None when nothing knows it.

        A host without a service may still have a VirtualService, which is enough to route requests to it.
        """
        names = candidates(name, namespace, self.settings.cluster_domain)
        for host in names:
            if (service := self._visible(host, namespace)) is not None:
                return host, service
        for host in names:
            if (service := self.service(host, namespace)) is not None or self.virtual_services.of(host, namespace):
                return host, service
        return None

    def endpoints(self, service: Service, port: ServicePort) -> tuple[ServiceEndpoint, ...]:
        key = (service.host, service.namespace, service.resource_name, port.number)
        if (known := self._endpoints.get(key)) is None:
            known = self._endpoints[key] = self._sources.of(service, port)
        return known

    def _visible(self, host: str, namespace: str) -> Service | None:
        found = [service for service in self._by_host.get(host, ()) if service.visibility.allows(namespace)]
        # min is stable: services() yields the oldest first.
        return min(found, key=lambda service: (service.namespace != namespace, service.kind.value), default=None)

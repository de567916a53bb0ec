"""The catalog of a world: its services, endpoints and rules, indexed once and asked many times."""

import copy
from collections.abc import Mapping
from dataclasses import replace

from proxyless.control_plane.discovery.destination_rules import DestinationRules
from proxyless.control_plane.discovery.egress import Egress, EgressListener, Sidecars
from proxyless.control_plane.discovery.endpoints import EndpointSources
from proxyless.control_plane.discovery.peer_authentications import PeerAuthentications
from proxyless.control_plane.discovery.service import Kind, Service, ServiceEndpoint, ServicePort, selects
from proxyless.control_plane.discovery.services import services
from proxyless.control_plane.discovery.virtual_services import VirtualServices, destination_hosts
from proxyless.control_plane.resources.names import candidates, covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.sidecar import SidecarSpec
from proxyless.control_plane.resources.virtual_service import Destination
from proxyless.control_plane.world import MeshSettings, World


class Catalog:
    """Everything here is a function of the world given to the constructor; what is computed late is only remembered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.services: tuple[Service, ...] = tuple(services(world))
        self.peer_authentications = PeerAuthentications(world)
        self._sources = EndpointSources(world)
        self._by_host: dict[str, list[Service]] = {}
        self._by_namespace: dict[str, list[Service]] = {}
        for service in self.services:
            self._by_host.setdefault(service.host, []).append(service)
            self._by_namespace.setdefault(service.namespace, []).append(service)
        self._wildcards = [host for host in self._by_host if host.startswith("*")]
        self.virtual_services = VirtualServices(world, self._by_host)
        self.destination_rules = DestinationRules(world, self._by_host)
        # Whether anything may differ with where a client runs.
        self.locality_aware = self.destination_rules.by_locality or any(one.prefer_close for one in self.services)
        self._endpoints: dict[tuple[str, str, str, int], tuple[ServiceEndpoint, ...]] = {}
        self.sidecars = Sidecars(world)
        # What the clients of one Sidecar see; None for clients without a Sidecar, who see everything.
        self._egress: Egress | None = None
        self._sidecar: Resource[SidecarSpec] | None = None
        self._scoped: dict[tuple[str, Key], Catalog] = {}
        self._destinations: frozenset[str] | None = None

    def of_client(self, namespace: str, labels: Mapping[str, str]) -> "Catalog":
        """The catalog as a client of ``namespace`` with ``labels`` sees it: within the hosts that its Sidecar imports.

        The result is for clients of that namespace only.
        """
        sidecar = self.sidecars.of(namespace, labels)
        if sidecar is None:
            return self
        if (known := self._scoped.get((namespace, sidecar.key))) is None:
            known = self._scoped[namespace, sidecar.key] = self._within(Egress.of(sidecar, namespace))
            known._sidecar = sidecar
        return known

    def of_listener(self, listener: EgressListener) -> "Catalog":
        """The same, within what one listener of a Sidecar imports."""
        return self._within(replace(self._egress, listeners=(listener,))) if self._egress else self

    def _within(self, egress: Egress) -> "Catalog":
        scoped = copy.copy(self)  # the indexes and what is remembered of endpoints are shared
        scoped._egress = egress
        scoped.virtual_services = self.virtual_services.within(egress)
        scoped._destinations = None
        return scoped

    def sidecar(self) -> Resource[SidecarSpec] | None:
        """The Sidecar of the client; None for the catalog of the whole world, and without one."""
        return self._sidecar

    def egress_listeners(self) -> tuple[EgressListener, ...]:
        return self._egress.listeners if self._egress else ()

    def allows_unknown(self) -> bool:
        """Whether hosts that nobody declares may be called: as the Sidecar says, else the mesh."""
        said = self._egress.allow_any if self._egress else None
        return self.settings.outbound_allow_any if said is None else said

    def egress_proxy(self) -> Destination | None:
        """Where unknown hosts are sent, its host qualified; None for where they say."""
        if self._egress is None or self._egress.proxy is None:
            return None
        host = self.qualify(self._egress.proxy.host, self._egress.proxy_namespace)
        return self._egress.proxy.model_copy(update={"host": host})

    @property
    def settings(self) -> MeshSettings:
        return self.world.settings

    def service(self, host: str, namespace: str) -> Service | None:
        """The service that ``host`` (qualified) is for clients of ``namespace``, wildcards included.

        Of several that declare one host: the client's own namespace first, then Services before ServiceEntries,
        then the oldest. What an imported rule sends to is known too, though it cannot be dialled.
        """
        found = self.listed(host, namespace)
        if self._egress is None or host not in self._sent_to(namespace):
            return found
        whole = self._most_specific(host, namespace, None)
        # The same service with all of its ports, not another one of that name.
        return whole if found is None or whole is None or whole.origin == found.origin else found

    def listed(self, host: str, namespace: str) -> Service | None:
        """As ``service``, but only what clients may dial."""
        return self._most_specific(host, namespace, self._egress)

    def _most_specific(self, host: str, namespace: str, egress: Egress | None) -> Service | None:
        if (exact := self._visible(host, namespace, egress)) is not None:
            return exact
        patterns = [
            pattern
            for pattern in self._wildcards
            if covers(pattern, host) and self._visible(pattern, namespace, egress)
        ]
        found = most_specific(patterns, host)
        return self._visible(found, namespace, egress) if found else None

    def visible(self, namespace: str) -> list[Service]:
        """Every service clients of ``namespace`` may dial, one for each host, by host."""
        found = (self._visible(host, namespace, self._egress) for host in sorted(self._by_host))
        return [service for service in found if service is not None]

    def by_age(self, namespace: str) -> list[Service]:
        """The same, the oldest first; what is as old, by host."""
        order = {service.origin: index for index, service in enumerate(self.services)}
        return sorted(self.visible(namespace), key=lambda service: (order.get(service.origin, 0), service.host))

    def served(self, namespace: str, labels: Mapping[str, str]) -> list[Service]:
        """The services that somebody declared of a workload with these labels: that select it, or that it names."""

        def serves(service: Service) -> bool:
            if service.selector is not None:
                return selects(service.selector, labels)
            return service.kind is Kind.SERVICE and service.name == labels.get("app")

        return [service for service in self._by_namespace.get(namespace, ()) if serves(service)]

    def called(self, namespace: str) -> list[Service]:
        """Every service that requests of clients of ``namespace`` may go to: also those that only rules name."""
        listed = self.visible(namespace)
        if self._egress is None:
            return listed
        hosts = {service.host for service in listed}
        found = (self.service(host, namespace) for host in sorted(self._sent_to(namespace) - hosts))
        return [*listed, *(service for service in found if service is not None and service.host not in hosts)]

    def _sent_to(self, namespace: str) -> frozenset[str]:
        """The hosts that imported VirtualServices send to, and the egress proxy."""
        if self._destinations is None:
            named = [
                self.qualify(host, rule.namespace)
                for rule in self.virtual_services.all(namespace)
                for host in destination_hosts(rule.spec)
            ]
            if (proxy := self.egress_proxy()) is not None:
                named.append(proxy.host)
            self._destinations = frozenset(named)
        return self._destinations

    def qualify(self, host: str, namespace: str) -> str:
        """The full name of a host that a rule of ``namespace`` names."""
        return qualify(host, namespace, self.settings.cluster_domain, self._by_host)

    def resolve(self, name: str, namespace: str) -> tuple[str, Service | None] | None:
        """What a dialled host name means for a client: its qualified host and service, None when nothing knows it.

        A host without a service may still have a VirtualService, which is enough to route requests to it.
        """
        names = candidates(name, namespace, self.settings.cluster_domain)
        for host in names:
            if (service := self._visible(host, namespace, self._egress)) is not None:
                return host, service
        for host in names:
            if (service := self.listed(host, namespace)) is not None or self.virtual_services.of(host, namespace):
                return host, service
        return None

    def endpoints(self, service: Service, port: ServicePort) -> tuple[ServiceEndpoint, ...]:
        key = (service.host, service.namespace, service.resource_name, port.number)
        if (known := self._endpoints.get(key)) is None:
            known = self._endpoints[key] = self._sources.of(service, port)
        return known

    def _visible(self, host: str, namespace: str, egress: Egress | None) -> Service | None:
        found = [service for service in self._by_host.get(host, ()) if service.visibility.allows(namespace)]
        if egress is not None:
            found = [one for service in found if (one := egress.service(service)) is not None]
        # min is stable: services() yields the oldest first.
        return min(found, key=lambda service: (service.namespace != namespace, service.kind.value), default=None)

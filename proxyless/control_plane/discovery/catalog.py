"""The catalog of a world: its services, endpoints and rules, indexed once and asked many times."""

import copy
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from proxyless.control_plane.discovery.attached_routes import KINDS, AttachedRoutes
from proxyless.control_plane.discovery.changes import changes
from proxyless.control_plane.discovery.destination_rules import DestinationRules, priority_keys
from proxyless.control_plane.discovery.egress import Egress, EgressListener, Sidecars
from proxyless.control_plane.discovery.endpoints import TLS_MODE_LABEL, EndpointSources
from proxyless.control_plane.discovery.localities import REGION_LABEL, SUB_ZONE_LABEL, ZONE_LABEL
from proxyless.control_plane.discovery.peer_authentications import PeerAuthentications, serves_mutual_tls
from proxyless.control_plane.discovery.service import Kind, Service, ServiceEndpoint, ServicePort, selects
from proxyless.control_plane.discovery.services import Services
from proxyless.control_plane.discovery.topics import (
    EVERYTHING,
    HOSTS,
    LIMITS,
    PEERS,
    RULES,
    SERVICES,
    SIDECARS,
    Topic,
    attached_topic,
    authorizations_topic,
    key_set_topic,
    policy_topic,
    requests_topic,
    rule_topic,
    service_topic,
)
from proxyless.control_plane.discovery.virtual_services import VirtualServices
from proxyless.control_plane.discovery.workload_policies import WorkloadPolicies
from proxyless.control_plane.resources.names import candidates, covers, most_specific, qualify
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.resources.sidecar import SidecarSpec
from proxyless.control_plane.resources.virtual_service import Destination
from proxyless.control_plane.world import KeySet, MeshSettings, World
from proxyless.model.cluster import Health


class Share(enum.Enum):
    NONE = "none"
    SOME = "some"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class View:
    """What clients of ``namespace`` see by one Sidecar, or by one egress listener of it."""

    namespace: str
    sidecar: Key
    listener: EgressListener | None = None


def _serves(service: Service, labels: Mapping[str, str]) -> bool:
    if service.selector is not None:
        return selects(service.selector, labels)
    return service.kind is Kind.SERVICE and service.name == labels.get("app")


class Catalog:
    """Everything here is a function of the world given to the constructor; what is computed late is only remembered.

    before: the catalog of an earlier world, whose indexes are used as far as they are the same. touched: what the
    answers to questions may differ in from that one's; None for anything. view: what of the world this one is about,
    None for the whole.
    """

    def __init__(self, world: World, before: "Catalog | None" = None) -> None:
        self.world = world
        self.view: View | None = None
        if before is not None and before.settings != world.settings:
            before = None
        settings, change = world.settings, changes(before.world if before else None, world)
        sources = before._sources if before else EndpointSources(settings)
        services = before._services if before else Services(settings)
        virtual_services = before.virtual_services if before else VirtualServices(settings)
        destination_rules = before.destination_rules if before else DestinationRules(settings)
        self._sources: EndpointSources = sources.changed(settings, change)
        self._services: Services = services.changed(change, self._sources)
        hosts = self._services.by_host
        moved = frozenset[str]() if self._services is services else self._services.moved
        self.virtual_services: VirtualServices = virtual_services.changed(change.of("VirtualService"), moved, hosts)
        attached_routes = before.attached_routes if before else AttachedRoutes(settings)
        self.attached_routes: AttachedRoutes = attached_routes.changed(change.of(*KINDS))
        self.destination_rules: DestinationRules = destination_rules.changed(change.of("DestinationRule"), moved, hosts)
        self.peer_authentications: PeerAuthentications = (
            before.peer_authentications
            if before is not None and not change.of("PeerAuthentication")
            else PeerAuthentications(world)
        )
        authorizations = before.authorization_policies if before else WorkloadPolicies(settings)
        requests = before.request_authentications if before else WorkloadPolicies(settings)
        self.authorization_policies: WorkloadPolicies = authorizations.changed(change.of("AuthorizationPolicy"))
        self.request_authentications: WorkloadPolicies = requests.changed(change.of("RequestAuthentication"))
        self.sidecars: Sidecars = (
            before.sidecars if before is not None and not change.of("Sidecar") else Sidecars(world)
        )
        # Whether anything may differ with where a client runs.
        self.locality_aware = self.destination_rules.by_locality or self._services.prefer_close
        self.touched = None if before is None else frozenset(self._differences(before, moved, change.key_sets))
        self._endpoints: dict[tuple[Service, ServicePort], tuple[ServiceEndpoint, ...]] = {}
        # What the clients of one Sidecar see; None for clients without a Sidecar, who see everything.
        self._egress: Egress | None = None
        self._views: dict[View, Catalog] = {}
        self._destinations: frozenset[str] | None = None

    def _differences(self, before: "Catalog", moved: frozenset[str], fetched: frozenset[str]) -> Iterator[Topic]:
        yield EVERYTHING
        yield from map(key_set_topic, fetched)
        yield from (("endpoints", *bucket) for bucket in self._sources.touched)
        if moved:
            yield HOSTS
        if self._services is not before._services:
            yield SERVICES
            yield from map(service_topic, self._services.touched)
        if self._services.limited != before._services.limited:
            yield LIMITS
        if self.virtual_services is not before.virtual_services:
            yield RULES
            yield from map(rule_topic, self.virtual_services.touched)
        if self.attached_routes is not before.attached_routes:
            yield RULES
            yield from map(attached_topic, self.attached_routes.touched)
        if self.destination_rules is not before.destination_rules:
            yield from map(policy_topic, self.destination_rules.touched)
        if self.peer_authentications is not before.peer_authentications:
            yield PEERS
        if self.authorization_policies is not before.authorization_policies:
            yield from map(authorizations_topic, self.authorization_policies.touched)
        if self.request_authentications is not before.request_authentications:
            yield from map(requests_topic, self.request_authentications.touched)
        if self.sidecars is not before.sidecars:
            yield SIDECARS

    @property
    def label_keys(self) -> frozenset[str]:
        """Labels of a client that any answer may depend on; others can be left out of a Scope."""
        return (
            self.virtual_services.label_keys
            | self.destination_rules.label_keys
            | self.peer_authentications.label_keys
            | self.authorization_policies.label_keys
            | self.request_authentications.label_keys
            | self.sidecars.label_keys
            | self._services.limited_keys
            | {TLS_MODE_LABEL}
        )

    @property
    def priority_keys(self) -> frozenset[str]:
        """Labels of a client that which endpoints are near may depend on."""
        keys = self.destination_rules.priority_keys
        if self.settings.locality_lb is not None:
            keys |= priority_keys(self.settings.locality_lb)
        return keys | {REGION_LABEL, ZONE_LABEL, SUB_ZONE_LABEL} if self._services.prefer_close else keys

    def of_client(self, namespace: str, labels: Mapping[str, str]) -> "Catalog":
        """The catalog as a client of ``namespace`` with ``labels`` sees it: within the hosts that its Sidecar imports.

        The result is for clients of that namespace only.
        """
        sidecar = self.sidecars.of(namespace, labels)
        return self if sidecar is None else self._seen(View(namespace, sidecar.key), sidecar)

    def of_listener(self, listener: EgressListener) -> "Catalog":
        """The same, within what one listener of a Sidecar imports."""
        if self.view is None or (sidecar := self.sidecar()) is None:
            return self
        return self._seen(replace(self.view, listener=listener), sidecar)

    def of_view(self, view: View | None) -> "Catalog | None":
        """The part that another world's catalog had as ``view``; None if there is no such Sidecar any more."""
        if view is None:
            return self
        sidecar = self.sidecars.by_key.get(view.sidecar)
        return self._seen(view, sidecar) if sidecar else None

    def _seen(self, view: View, sidecar: Resource[SidecarSpec]) -> "Catalog":
        if (known := self._views.get(view)) is None:
            egress = Egress.of(sidecar, view.namespace)
            if view.listener is not None:
                egress = replace(egress, listeners=(view.listener,))
            known = copy.copy(self)  # the indexes and what is remembered of endpoints are shared
            known.view = view
            known._egress = egress
            known.virtual_services = self.virtual_services.within(egress)
            known.attached_routes = self.attached_routes.within(egress)
            known._destinations = None
            self._views[view] = known
        return known

    def sidecar(self) -> Resource[SidecarSpec] | None:
        """The Sidecar of the client; None for the catalog of the whole world, and without one."""
        return self.sidecars.by_key[self.view.sidecar] if self.view else None

    def egress_listeners(self) -> tuple[EgressListener, ...]:
        return self._egress.listeners if self._egress else ()

    def allows_unknown(self) -> bool:
        """Whether hosts that nobody declares may be called: as the Sidecar says, else the mesh."""
        said = self._egress.allow_any if self._egress else None
        return self.settings.outbound_allow_any if said is None else said

    def key_set(self, url: str) -> KeySet | None:
        """What has been fetched from there; None if nobody asked for it yet."""
        return self.world.key_sets.get(url)

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
            for pattern in self._services.wildcards
            if covers(pattern, host) and self._visible(pattern, namespace, egress)
        ]
        found = most_specific(patterns, host)
        return self._visible(found, namespace, egress) if found else None

    def visible(self, namespace: str) -> list[Service]:
        """Every service clients of ``namespace`` may dial, one for each host, by host."""
        if self._egress is None and self._services.common is not None:
            return self._services.common
        found = (self._visible(host, namespace, self._egress) for host in sorted(self._services.by_host))
        return [service for service in found if service is not None]

    def by_age(self, namespace: str) -> list[Service]:
        """The same, the oldest first; what is as old, by host."""
        return sorted(self.visible(namespace), key=lambda service: (self._services.age(service), service.host))

    def served(self, namespace: str, labels: Mapping[str, str]) -> list[Service]:
        """The services that somebody declared of a workload with these labels: that select it, or that it names."""
        return [service for service in self._services.declared_in(namespace) if _serves(service, labels)]

    def limited(self, namespace: str, labels: Mapping[str, str]) -> list[Service]:
        """Those of them that limit the rate of its requests, by name."""
        found = [one for one in self._services.limited.get(namespace, ()) if _serves(one, labels)]
        return sorted(found, key=lambda service: service.name)

    def called(self, namespace: str) -> list[Service]:
        """Every service that requests of clients of ``namespace`` may go to: also those that only rules name."""
        listed = self.visible(namespace)
        if self._egress is None:
            return listed
        hosts = {service.host for service in listed}
        found = (self.service(host, namespace) for host in sorted(self._sent_to(namespace) - hosts))
        return [*listed, *(service for service in found if service is not None and service.host not in hosts)]

    def under_wildcards(self, namespace: str) -> list[tuple[str, Service]]:
        """The hosts that rules name or send to and only a wildcard declares, each with that service."""
        if not self._services.wildcards:
            return []
        hosts = self._sent_to(namespace)
        found = (
            (host, self.service(host, namespace))
            for host in sorted(hosts.union(self.virtual_services.hosts(namespace)))
        )
        return [(host, service) for host, service in found if service is not None and service.host != host]

    def _sent_to(self, namespace: str) -> frozenset[str]:
        """The hosts that VirtualServices and routes send to, with a Sidecar the imported ones, and its egress proxy."""
        if self._destinations is not None:
            return self._destinations
        proxy = self.egress_proxy()
        found = self.virtual_services.sent_to(namespace) | self.attached_routes.sent_to(namespace)
        found |= {proxy.host} if proxy else set()
        if self._egress is not None:
            # All who see this part are of one namespace.
            self._destinations = found
        return found

    def qualify(self, host: str, namespace: str) -> str:
        """The full name of a host that a rule of ``namespace`` names."""
        return qualify(host, namespace, self.settings.cluster_domain, self._services.by_host)

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
        key = service, port
        if (known := self._endpoints.get(key)) is None:
            known = self._endpoints[key] = self._sources.of(service, port)
        return known

    def target_ports(self, service: Service, port: ServicePort) -> frozenset[int]:
        """The ports of its endpoints: as rarely others as ``identities``."""
        return frozenset(one.port for one in self.endpoints(service, port))

    def identities(self, service: Service, port: ServicePort) -> frozenset[str]:
        """The SPIFFE IDs of its endpoints: mostly the same when these change, and then no cluster is another."""
        return frozenset(str(one.identity) for one in self.endpoints(service, port) if one.identity is not None)

    def mutual_tls(self, service: Service, port: ServicePort) -> Share:
        """How many of its endpoints, unhealthy ones aside, serve mutual TLS: as rarely another as ``identities``."""
        found = [one for one in self.endpoints(service, port) if one.health is not Health.UNHEALTHY]
        able = [one for one in found if serves_mutual_tls(self.peer_authentications, one)]
        if not able:
            return Share.NONE
        return Share.ALL if len(able) == len(found) else Share.SOME

    def _visible(self, host: str, namespace: str, egress: Egress | None) -> Service | None:
        found = [service for service in self._services.by_host.get(host, ()) if service.visibility.allows(namespace)]
        if egress is not None:
            found = [one for service in found if (one := egress.service(service)) is not None]
        if len(found) <= 1:
            # The same for every namespace.
            return found[0] if found else None
        # min is stable: the oldest comes first.
        return min(found, key=lambda service: (service.namespace != namespace, service.kind.value))

"""Which addresses serve a service: registered workloads, EndpointSlices, WorkloadEntries, inline endpoints, DNS."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxyless.control_plane.discovery.localities import locality_of, parse_locality
from proxyless.control_plane.discovery.service import (
    Kind,
    Resolution,
    Service,
    ServiceEndpoint,
    ServicePort,
    selects,
)
from proxyless.control_plane.resources import service as k8s
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec
from proxyless.control_plane.world import World
from proxyless.model.cluster import Health, Locality
from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId
from proxyless.model.workload import Workload, WorkloadState

# Istio's label by which a workload that is not ours says that it terminates mutual TLS.
TLS_MODE_LABEL = "security.istio.io/tlsMode"


def workload_labels(workload: Workload) -> dict[str, str]:
    """A workload's labels; ``app`` is its service unless it says otherwise."""
    return {"app": workload.service, **workload.labels} if workload.service else dict(workload.labels)


def workload_name(workload: Workload) -> str:
    """What plays the part of a Deployment's name: ``reviews-v1``."""
    version = workload.labels.get("version", "")
    base = workload.service or workload.service_account
    return f"{base}-{version}" if version else base


def workload_port(port: ServicePort, ports: Mapping[str, int]) -> int | None:
    """The port a service's port goes to: named like its target or itself, else of that number, else the only one."""
    for name in (port.target, port.name):
        if isinstance(name, str) and name in ports and name:
            return ports[name]
    number = port.target if isinstance(port.target, int) else port.number
    if number in ports.values():
        return number
    return next(iter(ports.values())) if len(set(ports.values())) == 1 else None


class EndpointSources:
    """Indexes of everything that can be an endpoint, built once for a world."""

    def __init__(self, world: World) -> None:
        self._trust_domain = world.settings.trust_domain
        # Each workload beside its labels: by namespace, by the service it names, and by each of its labels.
        self._workloads: dict[str, list[tuple[Workload, dict[str, str]]]] = {}
        self._named: dict[tuple[str, str], list[tuple[Workload, dict[str, str]]]] = {}
        self._by_label: dict[tuple[str, str, str], list[tuple[Workload, dict[str, str]]]] = {}
        for workload in sorted(world.workloads.values(), key=lambda workload: workload.id):
            one = workload, workload_labels(workload)
            self._workloads.setdefault(workload.namespace, []).append(one)
            self._named.setdefault((workload.namespace, workload.service), []).append(one)
            for key, value in one[1].items():
                self._by_label.setdefault((workload.namespace, key, value), []).append(one)
        self._slices: dict[tuple[str, str], list[Resource[Any]]] = {}
        for resource in world.of("EndpointSlice"):
            service = resource.labels.get(k8s.SERVICE_NAME_LABEL, "")
            self._slices.setdefault((resource.namespace, service), []).append(resource)
        self._entries: dict[str, list[Resource[Any]]] = {}
        for resource in world.of("WorkloadEntry"):
            self._entries.setdefault(resource.namespace, []).append(resource)
        self._inline = {(r.namespace, r.name): r for r in world.of("ServiceEntry")}

    def of(self, service: Service, port: ServicePort) -> tuple[ServiceEndpoint, ...]:
        """The endpoints of one port, each address once (the first source that has it wins), in a fixed order."""
        found: dict[tuple[str, int], ServiceEndpoint] = {}
        for endpoint in self._all(service, port):
            known = found.setdefault((endpoint.address, endpoint.port), endpoint)
            # A process that restarts on its port is there twice until its predecessor's registration ends.
            if known.health is not Health.HEALTHY and endpoint.health is Health.HEALTHY:
                found[endpoint.address, endpoint.port] = endpoint
        return tuple(sorted(found.values(), key=lambda endpoint: (endpoint.address, endpoint.port)))

    def _all(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        if service.resolution is Resolution.PASSTHROUGH:
            return
        if service.external_name:
            target = port.target if isinstance(port.target, int) else port.number
            yield ServiceEndpoint(service.external_name, target, hostname=service.external_name)
            return
        yield from self._registered(service, port)
        if service.kind is Kind.SERVICE:
            yield from _of_slices(self._slices.get((service.namespace, service.name), ()), port)
        if service.selector is not None:
            yield from self._selected_entries(service, port)
        if service.kind is Kind.SERVICE_ENTRY:
            yield from self._of_service_entry(service, port)

    def _registered(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        chosen: dict[str, tuple[Workload, dict[str, str]]] = {}
        if service.kind is not Kind.SERVICE_ENTRY:
            chosen = {one[0].id: one for one in self._named.get((service.namespace, service.name), ())}
        if service.selector is not None:
            chosen |= {one[0].id: one for one in self._selected(service.namespace, service.selector)}
        for _, (workload, labels) in sorted(chosen.items()):
            number = workload_port(port, workload.ports)
            if number is None:
                continue
            yield ServiceEndpoint(
                address=workload.address,
                port=number,
                labels=labels,
                namespace=workload.namespace,
                workload=workload_name(workload),
                id=workload.id,
                health=Health.DRAINING if workload.state is WorkloadState.DRAINING else Health.HEALTHY,
                locality=locality_of(labels, Locality(workload.region, workload.zone, workload.sub_zone)),
                identity=self._identity(workload.namespace, workload.service_account),
                mutual_tls=workload.mutual_tls,
            )

    def _selected(self, namespace: str, selector: Mapping[str, str]) -> Iterator[tuple[Workload, dict[str, str]]]:
        first = next(iter(selector.items()), None)
        candidates = (
            self._workloads.get(namespace, ()) if first is None else self._by_label.get((namespace, *first), ())
        )
        return (one for one in candidates if selects(selector, one[1]))

    def _selected_entries(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        for resource in self._entries.get(service.namespace, ()):
            labels = {**resource.labels, **resource.spec.labels}
            if service.selector is not None and selects(service.selector, labels):
                yield from self._of_entry(resource.spec, port, resource.namespace, labels, resource.name)

    def _of_service_entry(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        resource = self._inline.get((service.namespace, service.resource_name))
        spec: ServiceEntrySpec | None = resource.spec if resource else None
        if spec is None or service.selector is not None:
            return
        for entry in spec.endpoints:
            yield from self._of_entry(entry, port, service.namespace, dict(entry.labels), service.resource_name)
        if not spec.endpoints and service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}:
            target = port.target if isinstance(port.target, int) else port.number
            yield ServiceEndpoint(service.host, target, hostname=service.host)

    def _of_entry(
        self, entry: WorkloadEntrySpec, port: ServicePort, namespace: str, labels: Mapping[str, str], name: str
    ) -> Iterator[ServiceEndpoint]:
        # A unix domain socket or an entry of another network cannot be dialled from here.
        if not entry.address or entry.address.startswith("unix://"):
            return
        number = entry.ports.get(port.name) if port.name else None
        if number is None and isinstance(port.target, str):
            number = entry.ports.get(port.target)
        if number is None:
            number = port.target if isinstance(port.target, int) else port.number
        yield ServiceEndpoint(
            address=entry.address,
            port=number,
            labels=labels,
            namespace=namespace,
            workload=name,
            weight=entry.weight or 1,
            locality=locality_of(labels, parse_locality(entry.locality)),
            identity=self._identity(namespace, entry.service_account) if entry.service_account else None,
            mutual_tls=labels.get(TLS_MODE_LABEL) == "istio",
        )

    def _identity(self, namespace: str, service_account: str) -> SpiffeId | None:
        try:
            return SpiffeId(self._trust_domain, namespace, service_account)
        except IdentityError:
            return None


def _of_slices(slices: Iterable[Resource[Any]], port: ServicePort) -> Iterator[ServiceEndpoint]:
    """Kubernetes' rule: an EndpointSlice's port belongs to the Service's port of the same name."""
    for resource in slices:
        spec: k8s.EndpointSliceSpec = resource.spec
        ports = {candidate.name: candidate.port for candidate in spec.ports if candidate.port is not None}
        number = ports.get(port.name) or workload_port(port, ports)
        if number is None:
            continue
        for endpoint in spec.endpoints:
            health = _health(endpoint.conditions)
            if health is None:
                continue
            target = endpoint.target_ref
            for address in endpoint.addresses:
                yield ServiceEndpoint(
                    address=address,
                    port=number,
                    namespace=resource.namespace,
                    workload=target.name if target else "",
                    health=health,
                    locality=Locality(zone=endpoint.zone),
                    hostname=endpoint.hostname,
                )


def _health(conditions: k8s.EndpointConditions) -> Health | None:
    """None: not to be used. Unknown counts as ready (Kubernetes); terminating but still serving is draining."""
    if conditions.terminating:
        return Health.DRAINING if conditions.serving is not False else None
    return None if conditions.ready is False else Health.HEALTHY

"""Which addresses serve a service: registered workloads, EndpointSlices, WorkloadEntries, inline endpoints, DNS."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxyless.control_plane.discovery.changes import Changes
from proxyless.control_plane.discovery.localities import locality_of, parse_locality
from proxyless.control_plane.discovery.service import (
    Kind,
    Resolution,
    Service,
    ServiceEndpoint,
    ServicePort,
    selects,
)
from proxyless.control_plane.groups import Bucket, Groups
from proxyless.control_plane.resources import service as k8s
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec
from proxyless.control_plane.world import MeshSettings
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
    """Everything that can be an endpoint, by what it can be found by.

    touched: the buckets that differ from those of the sources it was made from (``changed``).
    """

    def __init__(self, settings: MeshSettings) -> None:
        self.touched: frozenset[Bucket] = frozenset()
        self._trust_domain = settings.trust_domain
        self._workloads: Groups[Workload] = Groups(_workload_buckets, order=lambda one: one.id)
        self._resources: Groups[Resource[Any]] = Groups(_resource_buckets, order=lambda one: one.age)

    def changed(self, settings: MeshSettings, changes: Changes) -> "EndpointSources":
        """The same after a change of the world, at the cost of what changed."""
        resources = [changes.of(kind) for kind in ("EndpointSlice", "WorkloadEntry", "ServiceEntry")]
        gone = [one for each in resources for one in each.gone]
        came = [one for each in resources for one in each.came]
        result = EndpointSources(settings)
        result._workloads = self._workloads.changed(changes.workloads.gone, changes.workloads.came)
        result._resources = self._resources.changed(gone, came)
        result.touched = result._workloads.touched | result._resources.touched
        return result

    def naming(self, namespace: str, service: str) -> tuple[Workload, ...]:
        """The workloads that say that they are this service, by id."""
        return self._workloads.get(("named", namespace, service))

    @staticmethod
    def buckets(service: Service) -> tuple[Bucket, ...]:
        """All that ``of`` looks at for this service."""
        namespace = service.namespace
        found: list[Bucket] = []
        if service.kind is not Kind.SERVICE_ENTRY:
            found.append(("named", namespace, service.name))
        if service.kind is Kind.SERVICE:
            found.append(("slices", namespace, service.name))
        if service.kind is Kind.SERVICE_ENTRY:
            found.append(("inline", namespace, service.resource_name))
        if service.selector is not None:
            found += [
                _selected("workloads", namespace, service.selector),
                _selected("entries", namespace, service.selector),
            ]
        return tuple(found)

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
            yield from _of_slices(self._resources.get(("slices", service.namespace, service.name)), port)
        if service.selector is not None:
            yield from self._selected_entries(service.selector, service.namespace, port)
        if service.kind is Kind.SERVICE_ENTRY:
            yield from self._of_service_entry(service, port)

    def _registered(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        chosen: dict[str, Workload] = {}
        if service.kind is not Kind.SERVICE_ENTRY:
            chosen = {one.id: one for one in self.naming(service.namespace, service.name)}
        if service.selector is not None:
            candidates = self._workloads.get(_selected("workloads", service.namespace, service.selector))
            chosen |= {one.id: one for one in candidates if selects(service.selector, workload_labels(one))}
        for _, workload in sorted(chosen.items()):
            number = workload_port(port, workload.ports)
            if number is None:
                continue
            labels = workload_labels(workload)
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

    def _selected_entries(
        self, selector: Mapping[str, str], namespace: str, port: ServicePort
    ) -> Iterator[ServiceEndpoint]:
        for resource in self._resources.get(_selected("entries", namespace, selector)):
            labels = _entry_labels(resource)
            if selects(selector, labels):
                yield from self._of_entry(resource.spec, port, resource.namespace, labels, resource.name)

    def _of_service_entry(self, service: Service, port: ServicePort) -> Iterator[ServiceEndpoint]:
        found = self._resources.get(("inline", service.namespace, service.resource_name))
        if not found or service.selector is not None:
            return
        spec: ServiceEntrySpec = found[0].spec
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


def _selected(what: str, namespace: str, selector: Mapping[str, str]) -> Bucket:
    """Where to look for what a selector selects: its first label's bucket, or the namespace's if it has none."""
    first = next(iter(selector.items()), None)
    return (what, namespace) if first is None else (what, namespace, *first)


def _workload_buckets(workload: Workload) -> Iterator[Bucket]:
    namespace = workload.namespace
    yield "workloads", namespace
    yield from (("workloads", namespace, *label) for label in workload_labels(workload).items())
    if workload.service:
        yield "named", namespace, workload.service


def _resource_buckets(resource: Resource[Any]) -> Iterator[Bucket]:
    namespace = resource.namespace
    match resource.kind:
        case "EndpointSlice":
            yield "slices", namespace, resource.labels.get(k8s.SERVICE_NAME_LABEL, "")
        case "WorkloadEntry":
            yield "entries", namespace
            yield from (("entries", namespace, *label) for label in _entry_labels(resource).items())
        case "ServiceEntry":
            yield "inline", namespace, resource.name


def _entry_labels(resource: Resource[Any]) -> dict[str, str]:
    return {**resource.labels, **resource.spec.labels}


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

"""The services of a world: configured Services, ServiceEntries, and those implied by workloads that name one."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxyless.control_plane.discovery.changes import Changes
from proxyless.control_plane.discovery.endpoints import EndpointSources
from proxyless.control_plane.discovery.protocol import declared, select
from proxyless.control_plane.discovery.service import Kind, Resolution, Service, ServicePort
from proxyless.control_plane.discovery.visibility import EXPORT_TO_ANNOTATION, visibility
from proxyless.control_plane.groups import Groups
from proxyless.control_plane.resources import service as k8s
from proxyless.control_plane.resources import service_entry as istio
from proxyless.control_plane.resources.names import canonical, service_host
from proxyless.control_plane.resources.rate_limit import rates
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import MeshSettings
from proxyless.model.workload import Workload

# Every implied service can be dialled without a port in the URL.
_IMPLIED_PORT = 80

# Values of a Service's trafficDistribution, the older name first; Istio takes both for the same.
_CLOSE = ("PreferClose", "PreferSameZone")

_RESOLUTIONS = {
    istio.Resolution.NONE: Resolution.PASSTHROUGH,
    istio.Resolution.STATIC: Resolution.ENDPOINTS,
    istio.Resolution.DNS: Resolution.DNS,
    istio.Resolution.DNS_ROUND_ROBIN: Resolution.DNS_ROUND_ROBIN,
    # The name is only known when it is dialled: what Envoy's dynamic forward proxy does, the library does by dialling.
    istio.Resolution.DYNAMIC_DNS: Resolution.PASSTHROUGH,
}


@dataclass(frozen=True, slots=True)
class _Declared:
    service: Service
    resource: Resource[Any]


class Services:
    """Every service by its host; of one host Services come first, then implied ones, then ServiceEntries by age."""

    def __init__(self, settings: MeshSettings) -> None:
        # Hosts, wildcards among them, that are other services than in those that these were made from (``changed``),
        # and those of them that came or went.
        self.touched: frozenset[str] = frozenset()
        self.moved: frozenset[str] = frozenset()
        self.by_host: Mapping[str, tuple[Service, ...]] = {}
        self.wildcards: tuple[str, ...] = ()
        # Every service by host, if clients of all namespaces see the same ones; else None.
        self.common: list[Service] | None = []
        # Those that limit the rate of requests, by namespace.
        self.limited: Mapping[str, tuple[Service, ...]] = {}
        # Whether clients of some service use the endpoints nearest to them first.
        self.prefer_close = False
        self._domain = settings.cluster_domain
        # What resources declare, by host and by resource, and what the names that workloads gave themselves imply,
        # by host.
        self._by_host: Groups[_Declared] = Groups(lambda one: [(one.service.host,)], order=_order)
        self._by_origin: Groups[_Declared] = Groups(lambda one: [(one.service.origin,)], order=_order)
        self._by_namespace: Groups[_Declared] = Groups(lambda one: [(one.service.namespace,)], order=_order)
        self._implied: dict[str, Service] = {}

    @property
    def limited_keys(self) -> frozenset[str]:
        """Labels of workloads by which those in ``limited`` are theirs."""
        every = [service for services in self.limited.values() for service in services]
        return frozenset(key for service in every for key in (service.selector or ("app",)))

    def age(self, service: Service) -> tuple[int, float, str, str]:
        """To sort by where the older service counts."""
        if found := self._by_origin.get((service.origin,)):
            return _order(found[0])
        return 1, 0.0, service.namespace, service.name

    def declared_in(self, namespace: str) -> Iterator[Service]:
        """Those of a namespace that a resource declares."""
        return (one.service for one in self._by_namespace.get((namespace,)))

    def changed(self, changes: Changes, sources: EndpointSources) -> "Services":
        """The same after a change of the world; itself if no service is another. sources: those of the new world."""
        implied, other = self._implied_now(sources)
        resources = [changes.of(kind) for kind in ("Service", "ServiceEntry")]
        if not other and not any(resources):
            return self
        gone = [one for each in resources for old in each.gone for one in self._by_origin.get((str(old.key),))]
        came = [
            _Declared(service, resource)
            for each in resources
            for resource in each.came
            for service in _declared_by(resource, self._domain)
        ]
        result = copy.copy(self)
        result._implied = implied
        result._by_host = self._by_host.changed(gone, came)
        result._by_origin = self._by_origin.changed(gone, came)
        result._by_namespace = self._by_namespace.changed(gone, came)
        by_host = dict(self.by_host)
        result.touched = frozenset(other | {host for (host,) in result._by_host.touched})
        for host in result.touched:
            if found := tuple(result._of_host(host, implied.get(host))):
                by_host[host] = found
            else:
                by_host.pop(host, None)
        result.by_host = by_host
        result.moved = frozenset(host for host in result.touched if (host in by_host) != (host in self.by_host))
        if any(host.startswith("*") for host in result.moved):
            result.wildcards = tuple(host for host in by_host if host.startswith("*"))
        result.limited = result._limited_now(gone, came)
        one_for_all = all(len(found) == 1 and found[0].visibility.everywhere for found in by_host.values())
        result.common = [by_host[host][0] for host in sorted(by_host)] if one_for_all else None
        result.prefer_close = any(one.prefer_close for found in by_host.values() for one in found)
        return result

    def _limited_now(self, gone: list[_Declared], came: list[_Declared]) -> Mapping[str, tuple[Service, ...]]:
        found = dict(self.limited)
        for namespace in {one.service.namespace for one in (*gone, *came) if one.service.rates}:
            found[namespace] = tuple(service for service in self.declared_in(namespace) if service.rates)
        return {namespace: services for namespace, services in found.items() if services}

    def _of_host(self, host: str, implied: Service | None) -> Iterator[Service]:
        declared = [one.service for one in self._by_host.get((host,))]
        yield from (one for one in declared if one.kind is Kind.SERVICE)
        # What is configured is not implied.
        if implied is not None and not any(one.kind is Kind.SERVICE for one in declared):
            yield implied
        yield from (one for one in declared if one.kind is not Kind.SERVICE)

    def _implied_now(self, sources: EndpointSources) -> tuple[dict[str, Service], set[str]]:
        """And the hosts of which it is another than before."""
        other: dict[str, Service | None] = {}
        for bucket in sources.touched:
            if bucket[0] == "named":
                _, namespace, name = bucket
                workloads = sources.naming(namespace, name)
                host = service_host(name, namespace, self._domain)
                service = _implied(namespace, name, workloads, self._domain) if workloads else None
                if self._implied.get(host) != service:
                    other[host] = service
        if not other:
            return self._implied, set()
        implied = {**self._implied, **other}
        return {host: service for host, service in implied.items() if service is not None}, set(other)


def _order(one: _Declared) -> tuple[int, float, str, str]:
    return 0 if one.service.kind is Kind.SERVICE else 2, *one.resource.age


def _declared_by(resource: Resource[Any], cluster_domain: str) -> Iterator[Service]:
    if resource.kind == "Service":
        yield _from_service(resource, cluster_domain)
    else:
        yield from _from_service_entry(resource)


def _from_service(resource: Resource[Any], cluster_domain: str) -> Service:
    spec: k8s.ServiceSpec = resource.spec
    external_name = spec.external_name if spec.type is k8s.ServiceType.EXTERNAL_NAME else ""
    return Service(
        host=service_host(resource.name, resource.namespace, cluster_domain),
        name=resource.name,
        namespace=resource.namespace,
        kind=Kind.SERVICE,
        ports=tuple(
            ServicePort(
                number=port.port,
                name=port.name,
                protocol=select(port.name, port.app_protocol, port.protocol),
                target=port.target_port,
            )
            for port in spec.ports
        ),
        visibility=visibility(resource.annotations.get(EXPORT_TO_ANNOTATION, "").split(","), resource.namespace),
        resolution=Resolution.DNS if external_name else Resolution.ENDPOINTS,
        external=bool(external_name),
        prefer_close=spec.traffic_distribution in _CLOSE,
        selector=dict(spec.selector) or None,
        external_name=canonical(external_name),
        origin=str(resource.key),
        resource_name=resource.name,
        rates=rates(resource.annotations),
    )


def _from_service_entry(resource: Resource[Any]) -> Iterator[Service]:
    spec: istio.ServiceEntrySpec = resource.spec
    ports = tuple(
        ServicePort(port.number, port.name, declared(port.protocol, port.name), port.target_port) for port in spec.ports
    )
    for host in dict.fromkeys(canonical(host) for host in spec.hosts):
        resolution = _RESOLUTIONS[spec.resolution]
        if host.startswith("*") and resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN} and not spec.endpoints:
            resolution = Resolution.PASSTHROUGH  # a wildcard is no name to resolve
        yield Service(
            host=host,
            name=host.partition(".")[0] if host.partition(".")[2].startswith(f"{resource.namespace}.svc.") else host,
            namespace=resource.namespace,
            kind=Kind.SERVICE_ENTRY,
            ports=ports,
            visibility=visibility(spec.export_to, resource.namespace),
            resolution=resolution,
            external=spec.location is istio.Location.MESH_EXTERNAL,
            selector=dict(spec.workload_selector.labels) if spec.workload_selector else None,
            subject_alt_names=spec.subject_alt_names,
            addresses=spec.addresses,
            origin=str(resource.key),
            resource_name=resource.name,
        )


def _implied(namespace: str, name: str, workloads: Iterable[Workload], cluster_domain: str) -> Service:
    """The service that workloads name and nobody configured: its workloads' ports, and 80. workloads: by id."""
    ports: dict[int, str] = {}
    for workload in workloads:
        for port_name, number in sorted(workload.ports.items()):
            # A name says more than none, whichever workload came first.
            ports[number] = ports.get(number) or port_name
    all_ports = {_IMPLIED_PORT: _implied_name(ports), **ports}
    return Service(
        host=service_host(name, namespace, cluster_domain),
        name=name,
        namespace=namespace,
        kind=Kind.IMPLIED,
        ports=tuple(
            ServicePort(number, port_name, select(port_name)) for number, port_name in sorted(all_ports.items())
        ),
        origin=f"workloads of {namespace}/{name}",
        resource_name=name,
    )


def _implied_name(ports: dict[int, str]) -> str:
    """Port 80 goes where its name says: to the port called ``http``, or to the only port there is."""
    return next(iter(ports.values())) or "http" if len(ports) == 1 else "http"

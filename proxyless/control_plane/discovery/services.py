"""The services of a world: configured Services, ServiceEntries, and those implied by workloads that name one."""

from collections.abc import Iterator
from typing import Any

from proxyless.control_plane.discovery.protocol import declared, select
from proxyless.control_plane.discovery.service import Kind, Resolution, Service, ServicePort
from proxyless.control_plane.discovery.visibility import EXPORT_TO_ANNOTATION, visibility
from proxyless.control_plane.resources import service as k8s
from proxyless.control_plane.resources import service_entry as istio
from proxyless.control_plane.resources.names import canonical, service_host
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World

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


def services(world: World) -> Iterator[Service]:
    """Every service, in a fixed order: Services, then implied ones, then ServiceEntries by age."""
    domain = world.settings.cluster_domain
    configured: set[str] = set()
    for resource in world.of("Service"):
        service = _from_service(resource, domain)
        configured.add(service.host)
        yield service
    yield from _implied(world, configured)
    for resource in world.of("ServiceEntry"):
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


def _implied(world: World, configured: set[str]) -> Iterator[Service]:
    """Services that registered workloads name and nobody configured: their workloads' ports, and 80."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for workload in sorted(world.workloads.values(), key=lambda workload: workload.id):
        if not workload.service:
            continue
        if service_host(workload.service, workload.namespace, world.settings.cluster_domain) in configured:
            continue
        ports = found.setdefault((workload.namespace, workload.service), {})
        for name, number in sorted(workload.ports.items()):
            # A name says more than none, whichever workload came first.
            ports[number] = ports.get(number) or name
    for (namespace, name), ports in sorted(found.items()):
        all_ports = {_IMPLIED_PORT: _implied_name(ports), **ports}
        yield Service(
            host=service_host(name, namespace, world.settings.cluster_domain),
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

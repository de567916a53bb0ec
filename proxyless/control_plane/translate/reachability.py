"""What can be dialled: whether a host and port have HTTP routes, are opaque to the mesh, or are unknown to it."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.discovery.service import Resolution, Service
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import PASSTHROUGH, ClusterName

# Where Istio attaches a VirtualService host that is no service.
_RULE_PORT = 80


def unknown_goes_to(catalog: Catalog) -> str:
    """The cluster of what the mesh does not know, where it is let out: as it is, or by a Sidecar's egress proxy."""
    proxy = catalog.egress_proxy()
    if proxy is None or proxy.port is None:
        return PASSTHROUGH
    return str(ClusterName(proxy.port.number, proxy.subset, proxy.host))


class Reach(enum.Enum):
    ROUTED = "routed"
    OPAQUE = "opaque"  # TCP or TLS: known, but no requests to route
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Target:
    """name: ``host:port`` to dial. service: what declared the host, for people."""

    name: str
    host: str
    port: int
    protocol: PortProtocol
    service: str
    reach: Reach


def reach(catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int) -> Reach:
    if service is None:
        return Reach.ROUTED if port in rule_ports(catalog, scope, host) else Reach.UNKNOWN
    declared = service.port(port)
    if declared is None or declared.protocol is PortProtocol.UDP:
        return Reach.UNKNOWN
    if scope.kind is ClientKind.GRPC:
        # gRPC speaks nothing but HTTP/2, whatever the port is called, and cannot dial an address it was not given.
        opaque = declared.protocol in {PortProtocol.HTTPS, PortProtocol.TLS}
        return Reach.UNKNOWN if opaque or service.resolution is Resolution.PASSTHROUGH else Reach.ROUTED
    return Reach.ROUTED if declared.protocol.is_http else Reach.OPAQUE


def rule_ports(catalog: Catalog, scope: Scope, host: str) -> set[int]:
    """Ports on which a VirtualService's host acts that is no service: those of the services beside it, else 80."""
    rule = catalog.virtual_services.of(host, scope.namespace)
    if rule is None:
        return set()
    ports: set[int] = set()
    for name in rule.spec.hosts:
        service = catalog.listed(catalog.qualify(name, rule.namespace), scope.namespace)
        if service is not None:
            ports.update(port.number for port in service.ports if port.protocol.is_http)
    return ports or {_RULE_PORT}


def targets(catalog: Catalog, scope: Scope) -> Iterator[Target]:
    """Every target that has a name of its own (a wildcard has none), by host and port."""
    seen: set[str] = set()
    for service in catalog.visible(scope.namespace):
        if service.host.startswith("*"):
            continue
        seen.add(service.host)
        for port in sorted(service.ports, key=lambda port: port.number):
            found = reach(catalog, scope, service.host, service, port.number)
            if found is not Reach.UNKNOWN:
                name = f"{service.host}:{port.number}"
                yield Target(name, service.host, port.number, port.protocol, service.origin, found)
    for host in catalog.virtual_services.hosts(scope.namespace):
        if host.startswith("*") or host in seen or catalog.listed(host, scope.namespace) is not None:
            continue
        for number in sorted(rule_ports(catalog, scope, host)):
            rule = catalog.virtual_services.of(host, scope.namespace)
            origin = str(rule.key) if rule else ""
            yield Target(f"{host}:{number}", host, number, PortProtocol.HTTP, origin, Reach.ROUTED)

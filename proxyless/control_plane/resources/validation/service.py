"""Service and EndpointSlice: what Kubernetes' API server checks."""

import ipaddress
import re

from proxyless.control_plane.resources.names import is_dns_label, is_dns_subdomain
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.service import (
    SERVICE_NAME_LABEL,
    AddressType,
    EndpointSliceSpec,
    ServiceSpec,
    ServiceType,
)
from proxyless.control_plane.resources.validation.checks import Checks

_PROTOCOLS = ("TCP", "UDP", "SCTP")
# RFC 6335: what a port of a container may be called.
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?\Z")
_MOST_ENDPOINTS = 1000
_MOST_ADDRESSES = 100


def check_service(checks: Checks, spec: ServiceSpec) -> None:
    if spec.type is ServiceType.EXTERNAL_NAME:
        if not is_dns_subdomain(spec.external_name.removesuffix(".")):
            checks.error("spec.externalName", "must be a DNS name when type is ExternalName")
    elif not spec.ports and spec.cluster_ip != "None":
        checks.error("spec.ports", "must list at least one port")
    names: set[str] = set()
    numbers: set[tuple[int, str]] = set()
    for index, port in enumerate(spec.ports):
        path = child("spec.ports", index)
        if not port.name and len(spec.ports) > 1:
            checks.error(f"{path}.name", "is required when there is more than one port")
        elif port.name and not is_dns_label(port.name):
            checks.error(f"{path}.name", f"{port.name!r} is not a port name (lower case letters, digits, '-')")
        elif port.name in names:
            checks.error(f"{path}.name", f"the port {port.name} is defined twice")
        if port.protocol not in _PROTOCOLS:
            checks.error(f"{path}.protocol", f"{port.protocol!r} is not one of {', '.join(_PROTOCOLS)}")
        if (port.port, port.protocol) in numbers:
            checks.error(f"{path}.port", f"the port {port.port}/{port.protocol} is defined twice")
        if isinstance(port.target_port, str):
            if not _PORT_NAME.match(port.target_port):
                checks.error(f"{path}.targetPort", f"{port.target_port!r} is not the name of a port")
        elif port.target_port is not None and not 1 <= port.target_port <= 65535:
            checks.error(f"{path}.targetPort", "must be from 1 to 65535")
        names.add(port.name)
        numbers.add((port.port, port.protocol))
    checks.labels("spec.selector", spec.selector)


def check_endpoint_slice(checks: Checks, spec: EndpointSliceSpec) -> None:
    if not checks.resource.labels.get(SERVICE_NAME_LABEL):
        message = f"the label {SERVICE_NAME_LABEL} is missing, so these endpoints belong to no Service"
        checks.warning("metadata.labels", message, code="EndpointSliceWithoutService")
    if len(spec.endpoints) > _MOST_ENDPOINTS:
        checks.error("endpoints", f"at most {_MOST_ENDPOINTS} are allowed; use several EndpointSlices")
    for index, endpoint in enumerate(spec.endpoints):
        path = child("endpoints", index)
        if not endpoint.addresses:
            checks.error(f"{path}.addresses", "must list at least one address")
        if len(endpoint.addresses) > _MOST_ADDRESSES:
            checks.error(f"{path}.addresses", f"at most {_MOST_ADDRESSES} are allowed")
        for position, address in enumerate(endpoint.addresses):
            if not _is_of_type(address, spec.address_type):
                here = f"{path}.addresses[{position}]"
                checks.error(here, f"{address!r} is not an address of addressType {spec.address_type}")
    names: set[str] = set()
    for index, port in enumerate(spec.ports):
        if port.name in names:
            checks.error(f"ports[{index}].name", f"the port {port.name!r} is defined twice")
        names.add(port.name)
        if port.protocol not in _PROTOCOLS:
            checks.error(f"ports[{index}].protocol", f"{port.protocol!r} is not one of {', '.join(_PROTOCOLS)}")


def _is_of_type(address: str, address_type: AddressType) -> bool:
    if address_type is AddressType.FQDN:
        return is_dns_subdomain(address.removesuffix("."))
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return version == (4 if address_type is AddressType.IPV4 else 6)

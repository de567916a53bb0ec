"""ServiceEntry and WorkloadEntry: what Istio's validation checks."""

from collections.abc import Collection

from proxyless.control_plane.resources.names import is_dns_label, is_host, is_ip, is_ip_or_cidr
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.service_entry import Resolution, ServiceEntrySpec
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec

_UNIX = "unix://"
_HTTP_OR_TLS = {"HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY", "HTTPS", "TLS"}
PROTOCOLS = _HTTP_OR_TLS | {"TCP", "UDP", "MONGO", "REDIS", "MYSQL", "HBONE"}


def check_service_entry(checks: Checks, spec: ServiceEntrySpec) -> None:
    if not spec.hosts:
        checks.error("spec.hosts", "must list at least one host")
    for index, host in enumerate(spec.hosts):
        if host == "*" or not is_host(host):
            checks.error(child("spec.hosts", index), f"{host!r} is not a DNS name")
    if spec.workload_selector is not None and spec.endpoints:
        checks.error("spec.workloadSelector", "may not be set together with endpoints; remove one of the two")
    for index, address in enumerate(spec.addresses):
        if not is_ip_or_cidr(address):
            checks.error(child("spec.addresses", index), f"{address!r} is not an IP address or CIDR")
    cidr = any("/" in address for address in spec.addresses)
    if cidr and spec.resolution not in (Resolution.NONE, Resolution.STATIC):
        checks.error("spec.addresses", "CIDRs are allowed only with resolution NONE or STATIC")
    _ports(checks, spec)
    _endpoints(checks, spec)
    checks.export_to("spec.exportTo", spec.export_to)


def _ports(checks: Checks, spec: ServiceEntrySpec) -> None:
    names: set[str] = set()
    numbers: set[int] = set()
    for index, port in enumerate(spec.ports):
        path = child("spec.ports", index)
        if not is_dns_label(port.name):
            checks.error(f"{path}.name", f"{port.name!r} is not a port name (lower case letters, digits, '-')")
        if port.name in names:
            checks.error(f"{path}.name", f"the port {port.name} is defined twice")
        if port.number in numbers:
            checks.error(f"{path}.number", f"the port {port.number} is defined twice")
        names.add(port.name)
        numbers.add(port.number)
        if port.protocol and port.protocol.upper() not in PROTOCOLS:
            checks.error(f"{path}.protocol", f"{port.protocol!r} is not one of {', '.join(sorted(PROTOCOLS))}")
    if spec.resolution is not Resolution.NONE and len(spec.hosts) > 1:
        for index, port in enumerate(spec.ports):
            if port.protocol.upper() not in _HTTP_OR_TLS:
                message = "with several hosts every port must be HTTP or TLS, else the hosts cannot be told apart"
                checks.error(f"spec.ports[{index}].protocol", message)
                break


def _endpoints(checks: Checks, spec: ServiceEntrySpec) -> None:
    names = {port.name for port in spec.ports}
    match spec.resolution:
        case Resolution.NONE:
            if spec.endpoints:
                checks.error("spec.endpoints", "are not allowed with resolution NONE; use STATIC or DNS")
            if spec.workload_selector is not None:
                checks.warning("spec.workloadSelector", "has no effect with resolution NONE; use STATIC")
        case Resolution.STATIC:
            for index, endpoint in enumerate(spec.endpoints):
                _entry(checks, child("spec.endpoints", index), endpoint, names, dns=False)
        case Resolution.DNS | Resolution.DNS_ROUND_ROBIN:
            if not spec.endpoints:
                for index, host in enumerate(spec.hosts):
                    if "*" in host:
                        message = "a wildcard cannot be resolved; list endpoints or name a host"
                        checks.error(child("spec.hosts", index), message)
            if spec.resolution is Resolution.DNS_ROUND_ROBIN and len(spec.endpoints) > 1:
                checks.error("spec.endpoints", "resolution DNS_ROUND_ROBIN takes at most one endpoint")
            for index, endpoint in enumerate(spec.endpoints):
                _entry(checks, child("spec.endpoints", index), endpoint, names, dns=True)
        case Resolution.DYNAMIC_DNS:
            if spec.endpoints:
                checks.error("spec.endpoints", "are not allowed with resolution DYNAMIC_DNS")


def check_workload_entry(checks: Checks, spec: WorkloadEntrySpec) -> None:
    _entry(checks, "spec", spec, None, dns=True)


def _entry(checks: Checks, path: str, entry: WorkloadEntrySpec, names: Collection[str] | None, *, dns: bool) -> None:
    """names: of the service's ports, if known. dns: the address may be a DNS name."""
    if not entry.address:
        if not entry.network:
            checks.error(f"{path}.address", "is required")
    elif entry.address.startswith(_UNIX):
        if entry.ports:
            checks.error(f"{path}.ports", "are not allowed for a unix socket")
        if not entry.address.removeprefix(_UNIX).startswith(("/", "@")):
            checks.error(f"{path}.address", "a unix socket needs an absolute path")
    elif not is_ip(entry.address) and not dns:
        checks.error(f"{path}.address", f"{entry.address!r} is not an IP address; resolution DNS takes names")
    elif not is_ip(entry.address) and not is_host(entry.address, wildcard=False):
        checks.error(f"{path}.address", f"{entry.address!r} is neither an IP address nor a DNS name")
    for name in entry.ports:
        here = child(f"{path}.ports", name)
        if not is_dns_label(name):
            checks.error(here, f"{name!r} is not a port name (lower case letters, digits, '-')")
        elif names is not None and name not in names:
            checks.error(here, f"the service has no port {name}; it has: {', '.join(sorted(names)) or 'none'}")
    checks.labels(f"{path}.labels", entry.labels)

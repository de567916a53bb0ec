"""EDS: a ClusterLoadAssignment, validated as gRPC does (gRFC A27), which is stricter than Envoy."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2

from proxyless.model.cluster import DropOverload, Endpoint, Health, Locality
from proxyless.xds_client.compile import metadata
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, parts_per_million, set_fields

# core.v3.HealthStatus. A status of a newer API counts as unhealthy.
_HEALTH = {
    0: Health.HEALTHY,
    1: Health.HEALTHY,
    2: Health.UNHEALTHY,
    3: Health.DRAINING,
    4: Health.UNHEALTHY,
    5: Health.DEGRADED,
}


@dataclass(frozen=True, slots=True)
class AssignedEndpoint:
    """An endpoint before its cluster has chosen the TLS for it by ``socket_match``."""

    endpoint: Endpoint
    socket_match: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AssignedLocality:
    locality: Locality
    priority: int
    weight: int
    endpoints: tuple[AssignedEndpoint, ...]
    socket_match: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadAssignment:
    name: str
    localities: tuple[AssignedLocality, ...] = ()
    drops: tuple[DropOverload, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        """How many endpoints may get a request."""
        usable = (Health.HEALTHY, Health.DEGRADED)
        return sum(one.endpoint.health in usable for group in self.localities for one in group.endpoints)


def compile_load_assignment(message: endpoint_pb2.ClusterLoadAssignment) -> LoadAssignment:
    try:
        return load_assignment(message, names_allowed=False)
    except FieldError as error:
        raise InvalidResource(message.cluster_name, str(error)) from error


def load_assignment(message: Any, *, names_allowed: bool) -> LoadAssignment:
    """``names_allowed``: addresses may be DNS names (STRICT_DNS, LOGICAL_DNS), else they are IP addresses."""
    ignored: list[str] = []
    groups = []
    seen: set[tuple[str, int]] = set()
    for index, group in enumerate(message.endpoints):
        what = f"endpoints[{index}]"
        if group.HasField("load_balancing_weight") and not group.load_balancing_weight.value:
            continue  # gRPC: a locality without weight takes no part
        if group.WhichOneof("lb_config") not in (None, "load_balancer_endpoints"):
            raise FieldError(f"{what}.{group.WhichOneof('lb_config')} is not supported")
        if group.priority > 128:
            raise FieldError(f"{what}.priority {group.priority} is more than 128")
        listed = group.lb_endpoints or group.load_balancer_endpoints.lb_endpoints
        endpoints = tuple(
            _endpoint(one, names_allowed, ignored, f"{what}.lb_endpoints[{i}]") for i, one in enumerate(listed)
        )
        for one in endpoints:
            if one.endpoint.key in seen:
                raise FieldError(f"{what}: the endpoint {one.endpoint} is listed twice")
            seen.add(one.endpoint.key)
        place = Locality(group.locality.region, group.locality.zone, group.locality.sub_zone)
        weight = group.load_balancing_weight.value if group.HasField("load_balancing_weight") else 0
        groups.append(AssignedLocality(place, group.priority, weight, endpoints, metadata.socket_match(group.metadata)))
    groups = _weighted(groups, ignored)
    _check_priorities(groups)
    return LoadAssignment(message.cluster_name, tuple(groups), _drops(message.policy, ignored), tuple(ignored))


def _weighted(groups: list[AssignedLocality], ignored: list[str]) -> list[AssignedLocality]:
    """Weights count when some locality has one: those without then get nothing, as in gRPC and Envoy."""
    if not any(group.weight for group in groups):
        return groups
    weighted = [group for group in groups if group.weight]
    if len(weighted) < len(groups):
        ignored.append("endpoints: localities without load_balancing_weight beside ones with it get no requests")
    return weighted


def _check_priorities(groups: list[AssignedLocality]) -> None:
    priorities = {group.priority for group in groups}
    if priorities and max(priorities) != len(priorities) - 1:
        raise FieldError(f"endpoints: priorities {sorted(priorities)} must start at 0 and leave none out")
    seen: set[tuple[int, Locality]] = set()
    for group in groups:
        if group.locality != Locality() and (group.priority, group.locality) in seen:
            raise FieldError(f"endpoints: locality {group.locality} is listed twice in priority {group.priority}")
        seen.add((group.priority, group.locality))
    for priority in priorities:
        if sum(group.weight for group in groups if group.priority == priority) >= 2**32:
            raise FieldError(f"endpoints: the locality weights of priority {priority} add up to more than a uint32")


def _endpoint(message: Any, names_allowed: bool, ignored: list[str], what: str) -> AssignedEndpoint:
    if message.WhichOneof("host_identifier") != "endpoint":
        raise FieldError(f"{what}: only an inline endpoint is supported")
    weight = 1
    if message.HasField("load_balancing_weight"):
        weight = message.load_balancing_weight.value
        if not weight:
            raise FieldError(f"{what}.load_balancing_weight must be more than 0")
    address, port = socket_address(message.endpoint.address, names_allowed, f"{what}.endpoint.address")
    if not port:
        raise FieldError(f"{what}.endpoint.address has no port")
    if message.endpoint.additional_addresses:
        ignored.append("endpoint.additional_addresses")
    endpoint = Endpoint(
        address=address,
        port=port,
        weight=weight,
        health=_HEALTH.get(int(message.health_status), Health.UNHEALTHY),
        hostname=message.endpoint.hostname,
        labels=metadata.endpoint_labels(message.metadata),
    )
    return AssignedEndpoint(endpoint, metadata.socket_match(message.metadata))


def socket_address(address: Any, names_allowed: bool, what: str) -> tuple[str, int]:
    if address.WhichOneof("address") != "socket_address":
        raise FieldError(
            f"{what} is a {address.WhichOneof('address') or 'missing address'}: only a TCP socket_address is supported"
        )
    socket = address.socket_address
    host, port = socket.address, int(socket.port_value)
    if socket.protocol != 0:
        raise FieldError(f"{what}: only TCP is supported")
    if not host or port > 65535 or socket.WhichOneof("port_specifier") == "named_port":
        raise FieldError(f"{what} must have an address and a port_value up to 65535")
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        if not names_allowed:
            raise FieldError(
                f"{what}: {host[:300]!r} is not an IP address (DNS names need a STRICT_DNS cluster)"
            ) from None
    if len(host) > 253 or any(character.isspace() or character == "\0" for character in host):
        raise FieldError(f"{what}: {host[:300]!r} is not a host name")
    return host, port


def _drops(policy: Any, ignored: list[str]) -> tuple[DropOverload, ...]:
    ignored += set_fields(policy, ("overprovisioning_factor", "endpoint_stale_after"), "policy")
    drops = []
    for index, drop in enumerate(policy.drop_overloads):
        if not drop.category:
            raise FieldError(f"policy.drop_overloads[{index}] has no category")
        drops.append(DropOverload(drop.category, parts_per_million(drop.drop_percentage)))
    return tuple(drops)

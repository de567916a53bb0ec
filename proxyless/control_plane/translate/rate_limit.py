"""Limits of requests as Envoy's local rate limit filter has them, for servers and for clients.

Both sides have it last before the router, where Istio's users put it: what authorization refuses, and what faults
abort, takes no token.
"""

from collections.abc import Iterator
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as rl
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Service, ServicePort
from proxyless.control_plane.resources.rate_limit import Rate, rates
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.matchers import fraction

FILTER = "envoy.filters.http.local_ratelimit"
_ALWAYS = base_pb2.RuntimeFractionalPercent(default_value=fraction(100.0))


def client_filter() -> hcm_pb2.HttpFilter:
    """It limits nothing itself, routes do. Libraries that do not know it yet may leave it out."""
    idle = rl.LocalRateLimit(stat_prefix="outbound")
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=pack(idle), is_optional=True)


def server_filters(catalog: Catalog, scope: Scope, port: int, notes: Notes) -> list[hcm_pb2.HttpFilter]:
    """One for each Service of the workload that limits this port of it; a request needs a token of each."""
    found = list(_limits(catalog, scope, port))
    if found and scope.kind is ClientKind.GRPC:
        for service, _ in found:
            notes.add(f"{service.origin}: rate limit left out, {scope.kind.value} servers have none")
        return []
    return [
        hcm_pb2.HttpFilter(name=f"{FILTER}.{service.name}", typed_config=pack(_limit(service.origin, rate)))
        for service, rate in found
    ]


def limit_routes(to: rc.VirtualHost | rc.Route, resource: Resource[Any], scope: Scope, notes: Notes) -> None:
    """For clients: the routes of ``to`` together send as many requests as their resource says."""
    for rate in rates(resource.annotations):
        if scope.kind is ClientKind.GRPC:
            notes.add(f"{resource.key}: rate limit left out, {scope.kind.value} clients have none")
        else:
            to.typed_per_filter_config[FILTER].CopyFrom(pack(_limit(str(resource.key), rate)))


def _limit(origin: str, rate: Rate) -> rl.LocalRateLimit:
    limit = rl.LocalRateLimit(
        stat_prefix=origin,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limited_as_resource_exhausted=True,
    )
    limit.token_bucket.max_tokens = rate.burst
    limit.token_bucket.tokens_per_fill.value = rate.requests
    limit.token_bucket.fill_interval.CopyFrom(duration(rate.seconds))
    # Who retries on 429 or RESOURCE_EXHAUSTED must not by that make it worse: Envoy and we do not retry such an answer,
    # unless asked to by the name of it (``envoy-ratelimited``).
    option = limit.response_headers_to_add.add(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key, option.header.value = "x-envoy-ratelimited", "true"
    return limit


def _limits(catalog: Catalog, scope: Scope, port: int) -> Iterator[tuple[Service, Rate]]:
    for service in catalog.limited(scope.namespace, scope.label_map):
        for rate in service.rates:
            ports = (one for one in service.ports if rate.port in ("", one.name, str(one.number)))
            if any(_goes_to(catalog, service, one, port) for one in ports):
                yield service, rate
                break


def _goes_to(catalog: Catalog, service: Service, port: ServicePort, number: int) -> bool:
    """Whether requests to a service's port arrive at this port of a workload: as far as endpoints tell, else as is
    declared; where neither does, they may.
    """
    known = catalog.target_ports(service, port)
    if not known and isinstance(port.target, int):
        known = frozenset({port.target})
    return not known or number in known

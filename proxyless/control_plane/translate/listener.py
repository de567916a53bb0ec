"""LDS, outbound: an API listener for each target a client dials (gRFC A27), named exactly as it was dialled."""

from envoy.config.core.v3 import config_source_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources.names import split_target
from proxyless.control_plane.translate import cors, fault, rate_limit
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import PASSTHROUGH
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.metadata import metadata
from proxyless.control_plane.translate.reachability import Reach, reach, unknown_goes_to
from proxyless.control_plane.translate.route_action import set_timeout

# Istio's names of the virtual hosts for what the mesh does not know.
_BLOCK_ALL, _ALLOW_ANY = "block_all", "allow_any"


def outbound_listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> listener_pb2.Listener | None:
    """None: the mesh has nothing to say about the target, and with ALLOW_ANY the client dials it directly."""
    parts = split_target(name)
    if parts is None:
        return None
    dialled, port = parts
    registry_only = not catalog.allows_unknown()
    resolved = catalog.resolve(dialled, scope.namespace)
    found = Reach.UNKNOWN if resolved is None else reach(catalog, scope, resolved[0], resolved[1], port)
    if resolved is not None and found is Reach.ROUTED:
        return _api_listener(name, scope, rds=f"{resolved[0]}:{port}")
    if found is Reach.OPAQUE:
        notes.add(f"{name}: the port's protocol is not HTTP, requests are passed through unrouted")
        return _api_listener(name, scope, inline=_pass_through(name, scope.kind)) if registry_only else None
    if registry_only and scope.kind is not ClientKind.GRPC:
        return _api_listener(name, scope, inline=_block_all(name))
    if (elsewhere := unknown_goes_to(catalog)) != PASSTHROUGH:
        return _api_listener(name, scope, inline=_pass_through(name, scope.kind, elsewhere))
    return None


def _api_listener(
    name: str, scope: Scope, *, rds: str = "", inline: route_pb2.RouteConfiguration | None = None
) -> listener_pb2.Listener:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="outbound", http_filters=_filters(scope.kind))
    if inline is not None:
        manager.route_config.CopyFrom(inline)
    else:
        manager.rds.route_config_name = rds
        manager.rds.config_source.CopyFrom(ads())
    return listener_pb2.Listener(name=name, api_listener=api_listener_pb2.ApiListener(api_listener=pack(manager)))


def ads() -> config_source_pb2.ConfigSource:
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )


def _filters(kind: ClientKind) -> list[hcm_pb2.HttpFilter]:
    filters = [hcm_pb2.HttpFilter(name=fault.FILTER, typed_config=pack(fault_pb2.HTTPFault()))]
    if kind is ClientKind.ENVOY:
        filters.append(hcm_pb2.HttpFilter(name=cors.FILTER, typed_config=pack(cors_pb2.Cors())))
    if kind is not ClientKind.GRPC:
        filters.append(rate_limit.client_filter())
    return [*filters, router_filter()]


def router_filter() -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router()))


def _inline(name: str, virtual_host: str, route: rc.Route) -> route_pb2.RouteConfiguration:
    return route_pb2.RouteConfiguration(
        name=name, virtual_hosts=[rc.VirtualHost(name=virtual_host, domains=["*"], routes=[route])]
    )


def _block_all(name: str) -> route_pb2.RouteConfiguration:
    """REGISTRY_ONLY, unknown host: Istio answers 502."""
    route = rc.Route(
        name=_BLOCK_ALL,
        match=rc.RouteMatch(prefix="/"),
        direct_response=rc.DirectResponseAction(status=502),
        metadata=metadata(proxyless={"origin": "outboundTrafficPolicy REGISTRY_ONLY"}),
    )
    return _inline(name, _BLOCK_ALL, route)


def _pass_through(name: str, kind: ClientKind, cluster: str = PASSTHROUGH) -> route_pb2.RouteConfiguration:
    route = rc.Route(
        name=_ALLOW_ANY,
        match=rc.RouteMatch(prefix="/"),
        route=rc.RouteAction(cluster=cluster),
        metadata=metadata(proxyless={"origin": "default"}),
    )
    set_timeout(route.route, 0.0, kind)
    return _inline(name, _ALLOW_ANY, route)

"""RDS of a sidecar's outbound port: every host that the client may call, each a virtual host (Istio's ``http_proxy``).

A request names its target in the Host header or, as HTTP proxies are addressed, in an absolute URL; a tunnel in
CONNECT.
"""

from collections.abc import Iterator

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.discovery.service import Service
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import PASSTHROUGH, ClusterName
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.metadata import metadata
from proxyless.control_plane.translate.reachability import Reach, reach, rule_ports
from proxyless.control_plane.translate.route_action import set_timeout
from proxyless.control_plane.translate.route_configuration import routes_to

# Istio's name of the route configuration of an explicit proxy (MeshConfig.proxyHttpPort).
NAME = "http_proxy"
_HTTP_PORT = 80
# Envoy's default of 4 KiB would make it refuse every route because of one long directResponse; Istio's value.
_MAX_DIRECT_RESPONSE = 1 << 20


def http_proxy(catalog: Catalog, scope: Scope, notes: Notes) -> route_pb2.RouteConfiguration:
    result = route_pb2.RouteConfiguration(name=NAME)
    result.max_direct_response_body_size_bytes.value = _MAX_DIRECT_RESPONSE
    taken: set[str] = set()
    for host, service in _hosts(catalog, scope):
        for port in _ports(catalog, scope, host, service):
            # Envoy refuses a configuration in which two virtual hosts share a domain.
            domains = [name for name in _domains(catalog, scope, host, port) if name not in taken]
            routes = _routes(catalog, scope, host, service, port, notes=notes)
            if domains and routes:
                taken.update(domains)
                result.virtual_hosts.append(_virtual_host(f"{host}:{port}", domains, routes))
    result.virtual_hosts.append(_everything_else(catalog))
    return result


def clusters(configuration: route_pb2.RouteConfiguration) -> Iterator[str]:
    """The names of the clusters that requests may be sent to."""
    for host in configuration.virtual_hosts:
        for route in host.routes:
            if route.route.cluster:
                yield route.route.cluster
            yield from (one.name for one in route.route.weighted_clusters.clusters)
            yield from (one.cluster for one in route.route.request_mirror_policies)


def _hosts(catalog: Catalog, scope: Scope) -> Iterator[tuple[str, Service | None]]:
    """Services, then hosts that only a VirtualService names. ``*`` is nobody's: it would swallow what is unknown."""
    services = catalog.visible(scope.namespace)
    yield from ((service.host, service) for service in services)
    named = {service.host for service in services}
    for host in catalog.virtual_services.hosts(scope.namespace):
        if host not in named and host != "*":
            yield host, catalog.service(host, scope.namespace)


def _ports(catalog: Catalog, scope: Scope, host: str, service: Service | None) -> list[int]:
    if service is None:
        return sorted(rule_ports(catalog, scope, host))
    return sorted(port.number for port in service.ports if port.protocol is not PortProtocol.UDP)


def _routes(
    catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int, *, notes: Notes
) -> list[rc.Route]:
    match reach(catalog, scope, host, service, port):
        case Reach.ROUTED:
            return routes_to(catalog, scope, host, service, port, notes=notes)
        case Reach.OPAQUE:
            # Bytes of a tunnel go to the service; requests to a port that takes none are no affair of the mesh.
            return [_tunnel(str(ClusterName(port, "", service.host if service else host))), _pass_through()]
        case _:
            return []


def _domains(catalog: Catalog, scope: Scope, host: str, port: int) -> Iterator[str]:
    for name in _names(catalog, scope, host):
        if port == _HTTP_PORT:
            yield name
        yield f"{name}:{port}"


def _names(catalog: Catalog, scope: Scope, host: str) -> Iterator[str]:
    """The host's own name, and the shorter ones by which this client's namespace means it."""
    yield host
    name, separator, rest = host.removesuffix(f".{catalog.settings.cluster_domain}").partition(".")
    namespace = rest.removesuffix(".svc")
    if host.startswith("*") or not separator or namespace == rest or "." in namespace:
        return
    for short in (f"{name}.{namespace}.svc", f"{name}.{namespace}", name):
        resolved = catalog.resolve(short, scope.namespace)
        if resolved is not None and resolved[0] == host:
            yield short


def _virtual_host(name: str, domains: list[str], routes: list[rc.Route]) -> rc.VirtualHost:
    return rc.VirtualHost(name=name, domains=domains, routes=routes, include_request_attempt_count=True)


def _everything_else(catalog: Catalog) -> rc.VirtualHost:
    """ALLOW_ANY sends it where it says, REGISTRY_ONLY answers 502; names and status are Istio's."""
    if catalog.settings.outbound_allow_any:
        return _virtual_host("allow_any", ["*"], [_tunnel(PASSTHROUGH), _pass_through()])
    refused = rc.DirectResponseAction(status=502)
    origin = metadata(proxyless={"origin": "outboundTrafficPolicy REGISTRY_ONLY"})
    return _virtual_host(
        "block_all",
        ["*"],
        [
            rc.Route(name="block_all", match=match, direct_response=refused, metadata=origin)
            for match in (_connect(), rc.RouteMatch(prefix="/"))
        ],
    )


def _pass_through() -> rc.Route:
    route = rc.Route(name="allow_any", match=rc.RouteMatch(prefix="/"), route=rc.RouteAction(cluster=PASSTHROUGH))
    route.metadata.CopyFrom(metadata(proxyless={"origin": "default"}))
    set_timeout(route.route, 0.0, ClientKind.ENVOY)
    return route


def _tunnel(cluster: str) -> rc.Route:
    route = rc.Route(name="tunnel", match=_connect(), route=rc.RouteAction(cluster=cluster))
    route.metadata.CopyFrom(metadata(proxyless={"origin": "default"}))
    upgrade = route.route.upgrade_configs.add(upgrade_type="CONNECT")
    upgrade.connect_config.SetInParent()
    set_timeout(route.route, 0.0, ClientKind.ENVOY)
    return route


def _connect() -> rc.RouteMatch:
    return rc.RouteMatch(connect_matcher=rc.RouteMatch.ConnectMatcher())

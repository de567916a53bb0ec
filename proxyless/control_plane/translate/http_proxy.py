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
from proxyless.control_plane.resources.names import covers
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import PASSTHROUGH, ClusterName
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.l4_routes import L4Route, L4Routes
from proxyless.control_plane.translate.metadata import config_path, metadata
from proxyless.control_plane.translate.reachability import Reach, reach, rule_ports, unknown_goes_to
from proxyless.control_plane.translate.route_action import set_timeout
from proxyless.control_plane.translate.route_configuration import routes_to

# Istio's name of the route configuration of an explicit proxy (MeshConfig.proxyHttpPort).
NAME = "http_proxy"
HTTP_PORT = 80
# Envoy's default of 4 KiB would make it refuse every route because of one long directResponse; Istio's value.
_MAX_DIRECT_RESPONSE = 1 << 20


def http_proxy(catalog: Catalog, scope: Scope, notes: Notes) -> route_pb2.RouteConfiguration:
    return proxy_routes(catalog, scope, NAME, notes, bare=HTTP_PORT)


def proxy_routes(catalog: Catalog, scope: Scope, name: str, notes: Notes, *, bare: int) -> route_pb2.RouteConfiguration:
    """Every host of ``catalog``. bare: the port that is meant by a host without one."""
    result = route_pb2.RouteConfiguration(name=name)
    result.max_direct_response_body_size_bytes.value = _MAX_DIRECT_RESPONSE
    # What Envoy says of the application, which is nobody else's business.
    result.request_headers_to_remove.append("x-envoy-internal")
    taken: set[str] = set()
    for host, service in _hosts(catalog, scope):
        for port in _ports(catalog, scope, host, service):
            # Envoy refuses a configuration in which two virtual hosts share a domain.
            domains = [name for name in _domains(catalog, scope, host, port, bare) if name not in taken]
            routes = _routes(catalog, scope, host, service, port, notes=notes)
            if domains and routes:
                taken.update(domains)
                result.virtual_hosts.append(_virtual_host(f"{host}:{port}", domains, routes))
    result.virtual_hosts.append(_everything_else(catalog))
    return result


def _hosts(catalog: Catalog, scope: Scope) -> Iterator[tuple[str, Service | None]]:
    """Services, then hosts that only a VirtualService names. ``*`` is nobody's: it would swallow what is unknown."""
    services = catalog.visible(scope.namespace)
    yield from ((service.host, service) for service in services)
    named = {service.host for service in services}
    for host in catalog.virtual_services.hosts(scope.namespace):
        if host not in named and host != "*":
            yield host, catalog.listed(host, scope.namespace)


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
            return [*_tunnels(catalog, scope, host, service, port, notes=notes), _pass_through()]
        case _:
            return []


def _domains(catalog: Catalog, scope: Scope, host: str, port: int, bare: int) -> Iterator[str]:
    for name in _names(catalog, scope, host):
        if port == bare:
            yield name
        yield f"{name}:{port}"


def _names(catalog: Catalog, scope: Scope, host: str) -> Iterator[str]:
    """The host's own name, and the shorter ones by which this client's namespace means it."""
    yield host
    if "." in host and not host.startswith("*"):
        yield f"{host}."  # as a resolver's absolute name is written; Istio serves it too
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
    if catalog.allows_unknown():
        cluster = unknown_goes_to(catalog)
        return _virtual_host("allow_any", ["*"], [_tunnel(cluster), _pass_through(cluster)])
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


def _pass_through(cluster: str = PASSTHROUGH) -> rc.Route:
    route = rc.Route(name="allow_any", match=rc.RouteMatch(prefix="/"), route=rc.RouteAction(cluster=cluster))
    route.metadata.CopyFrom(metadata(proxyless={"origin": "default"}))
    set_timeout(route.route, 0.0, ClientKind.ENVOY)
    return route


def _tunnels(
    catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int, *, notes: Notes
) -> list[rc.Route]:
    """Where the bytes of a tunnel go: as a rule's ``tcp`` or ``tls`` says, the tunnel's host being the server name."""
    if service is None:
        return [_tunnel(str(ClusterName(port, "", host)))]
    declared = service.port(port)
    tls = declared is not None and declared.protocol in {PortProtocol.TLS, PortProtocol.HTTPS}
    found = L4Routes(catalog, scope, service, port, notes)
    for route in found.tls() if tls else found.tcp():
        # A tunnel has no address that was dialled.
        if not route.subnets and (not route.sni or any(covers(name, host) for name in route.sni)):
            return [_tunnel_of(route)]
    return []


def _tunnel_of(route: L4Route) -> rc.Route:
    result = _tunnel(str(route.targets[0][0]))
    if len(route.targets) > 1:
        for name, weight in route.targets:
            one = result.route.weighted_clusters.clusters.add(name=str(name))
            one.weight.value = weight
    istio = {"config": config_path(route.rule)} if route.rule else {}
    result.metadata.CopyFrom(metadata(istio=istio, proxyless={"origin": route.origin}))
    return result


def _tunnel(cluster: str) -> rc.Route:
    route = rc.Route(name="tunnel", match=_connect(), route=rc.RouteAction(cluster=cluster))
    route.metadata.CopyFrom(metadata(proxyless={"origin": "default"}))
    upgrade = route.route.upgrade_configs.add(upgrade_type="CONNECT")
    upgrade.connect_config.SetInParent()
    set_timeout(route.route, 0.0, ClientKind.ENVOY)
    return route


def _connect() -> rc.RouteMatch:
    return rc.RouteMatch(connect_matcher=rc.RouteMatch.ConnectMatcher())

"""RDS of a sidecar's outbound port: every host that the client may call, each a virtual host (Istio's ``http_proxy``).

A request names its target in the Host header or, as HTTP proxies are addressed, in an absolute URL; a tunnel in
CONNECT.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from proxyless.control_plane.discovery.anyone import ANYONE
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
from proxyless.control_plane.translate.route_configuration import add_routes

# Istio's name of the route configuration of an explicit proxy (MeshConfig.proxyHttpPort).
NAME = "http_proxy"
HTTP_PORT = 80
# Envoy's default of 4 KiB would make it refuse every route because of one long directResponse; Istio's value.
_MAX_DIRECT_RESPONSE = 1 << 20


@dataclass(frozen=True, slots=True)
class HostRoutes:
    """What a route configuration has for one host: its virtual hosts, each with its domains and as a serialised
    RouteConfiguration that has nothing else.
    """

    virtual_hosts: tuple[tuple[tuple[str, ...], bytes], ...]
    notes: tuple[str, ...]


def host_routes(catalog: Catalog, scope: Scope, host: str, *, bare: int) -> HostRoutes:
    """One virtual host for each port. bare: the port that is meant by a host without one."""
    service, notes = catalog.listed(host, scope.namespace), Notes()
    found = []
    for port in _ports(catalog, scope, host, service):
        virtual_host = _virtual_host(f"{host}:{port}", (), [])
        _add_routes(catalog, scope, host, service, port, to=virtual_host, notes=notes)
        if virtual_host.routes:
            domains = tuple(_domains(catalog, scope, host, port, bare))
            virtual_host.domains.extend(domains)
            found.append((domains, _serialised(virtual_host)))
    return HostRoutes(tuple(found), notes.all)


def proxy_routes(
    catalog: Catalog, scope: Scope, name: str, notes: Notes, routes_of: Callable[[str, bool], HostRoutes]
) -> bytes:
    """A serialised RouteConfiguration with every host of ``catalog``. routes_of: the ``host_routes`` of each, which are
    others for clients of its own namespace.

    Serialised messages that are joined are one message with the fields of all: so a host of which nothing changed
    costs no more than its bytes.
    """
    # What Envoy says of the application is nobody else's business.
    rest = route_pb2.RouteConfiguration(request_headers_to_remove=["x-envoy-internal"])
    rest.max_direct_response_body_size_bytes.value = _MAX_DIRECT_RESPONSE
    joined = [route_pb2.RouteConfiguration(name=name).SerializeToString()]
    taken: set[str] = set()
    for host in _hosts(catalog, scope):
        parts = _in_mesh(host, catalog.settings.cluster_domain)
        found = routes_of(host, parts is not None and parts[1] == scope.namespace)
        for domains, serialised in found.virtual_hosts:
            if taken.isdisjoint(domains):
                joined.append(serialised)
            elif left := [domain for domain in domains if domain not in taken]:
                # Envoy refuses a configuration in which two virtual hosts share a domain.
                joined.append(_with_domains(serialised, left))
            taken.update(domains)
        for note in found.notes:
            notes.add(note)
    joined.append(_serialised(_everything_else(catalog)))
    joined.append(rest.SerializeToString(deterministic=True))
    return b"".join(joined)


def _serialised(virtual_host: rc.VirtualHost) -> bytes:
    alone = route_pb2.RouteConfiguration(virtual_hosts=[virtual_host])
    body: bytes = alone.SerializeToString(deterministic=True)
    return body


def _with_domains(serialised: bytes, domains: list[str]) -> bytes:
    (virtual_host,) = route_pb2.RouteConfiguration.FromString(serialised).virtual_hosts
    virtual_host.domains[:] = domains
    return _serialised(virtual_host)


def _hosts(catalog: Catalog, scope: Scope) -> Iterator[str]:
    """Services, then hosts that only a VirtualService names. ``*`` is nobody's: it would swallow what is unknown."""
    services = dict.fromkeys(service.host for service in catalog.visible(scope.namespace))
    yield from services
    yield from (
        host for host in catalog.virtual_services.hosts(scope.namespace) if host not in services and host != "*"
    )


def _ports(catalog: Catalog, scope: Scope, host: str, service: Service | None) -> list[int]:
    if service is None:
        return sorted(rule_ports(catalog, scope, host))
    return sorted(port.number for port in service.ports if port.protocol is not PortProtocol.UDP)


def _add_routes(
    catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int, *, to: rc.VirtualHost, notes: Notes
) -> None:
    match reach(catalog, scope, host, service, port):
        case Reach.ROUTED:
            add_routes(catalog, scope, host, service, port, to=to, notes=notes)
        case Reach.OPAQUE:
            # Bytes of a tunnel go to the service; requests to a port that takes none are no affair of the mesh.
            to.routes.extend([*_tunnels(catalog, scope, host, service, port, notes=notes), _pass_through()])


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
    if (parts := _in_mesh(host, catalog.settings.cluster_domain)) is None:
        return
    name, namespace = parts
    own = (name,) if scope.namespace is not ANYONE and scope.namespace == namespace else ()
    for short in (f"{name}.{namespace}.svc", f"{name}.{namespace}", *own):
        resolved = catalog.resolve(short, scope.namespace)
        if resolved is not None and resolved[0] == host:
            yield short


def _in_mesh(host: str, cluster_domain: str) -> tuple[str, str] | None:
    """Name and namespace of a service of the cluster, None for another host."""
    name, separator, rest = host.removesuffix(f".{cluster_domain}").partition(".")
    namespace = rest.removesuffix(".svc")
    if host.startswith("*") or not separator or namespace == rest or "." in namespace:
        return None
    return name, namespace


def _virtual_host(name: str, domains: Iterable[str], routes: list[rc.Route]) -> rc.VirtualHost:
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

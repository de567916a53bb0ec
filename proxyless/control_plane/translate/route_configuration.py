"""RDS: one RouteConfiguration for each target, named ``HOST:PORT`` with the qualified host."""

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from proxyless.control_plane.discovery.attached_routes import comes_first
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Service
from proxyless.control_plane.resources.names import canonical, split_target
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.reachability import Reach, reach
from proxyless.control_plane.translate.routes import RouteBuilder


def route_configuration(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> route_pb2.RouteConfiguration | None:
    """None for a target that no service and no rule knows on that port."""
    parts = split_target(name)
    if parts is None:
        return None
    host, port = canonical(parts[0]), parts[1]
    service = catalog.listed(host, scope.namespace)
    if reach(catalog, scope, host, service, port) is not Reach.ROUTED:
        return None
    routes = routes_to(catalog, scope, host, service, port, notes=notes)
    return route_pb2.RouteConfiguration(
        name=name,
        # The target chose this configuration already; the Host header is free to say something else.
        virtual_hosts=[rc.VirtualHost(name=f"{host}:{port}", domains=["*"], routes=routes)],
    )


def routes_to(
    catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int, *, notes: Notes
) -> list[rc.Route]:
    """The routes of a host that is ``Reach.ROUTED`` on this port."""
    builder = RouteBuilder(catalog, scope, host, port, notes)
    if service is not None and (declared := service.port(port)) is not None:
        attached = catalog.attached_routes.of(host, scope.namespace, port, declared.name)
        named = catalog.virtual_services.named(host, scope.namespace) if attached else None
        if attached and not (named is not None and comes_first(named, attached, scope.namespace)):
            return builder.of_attached(attached)
    rule = catalog.virtual_services.of(host, scope.namespace)
    routes = builder.of_rule(rule) if rule is not None else []
    if not routes and service is not None:
        # A rule none of whose routes is for this client and port leaves the service as it is (Istio).
        routes = [builder.default()]
    return routes

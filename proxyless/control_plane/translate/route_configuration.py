"""RDS: one RouteConfiguration for each target, named ``HOST:PORT`` with the qualified host."""

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from proxyless.control_plane.discovery.attached_routes import comes_first
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Service
from proxyless.control_plane.resources.names import canonical, split_target
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.rate_limit import limit_routes
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
    # The target chose this configuration already; the Host header is free to say something else.
    virtual_host = rc.VirtualHost(name=f"{host}:{port}", domains=["*"])
    add_routes(catalog, scope, host, service, port, to=virtual_host, notes=notes)
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[virtual_host])


def add_routes(
    catalog: Catalog, scope: Scope, host: str, service: Service | None, port: int, *, to: rc.VirtualHost, notes: Notes
) -> None:
    """The routes of a host that is ``Reach.ROUTED`` on this port, and what is said of all of them."""
    builder = RouteBuilder(catalog, scope, host, port, notes)
    if service is not None and (declared := service.port(port)) is not None:
        attached = catalog.attached_routes.of(host, scope.namespace, port, declared.name)
        named = catalog.virtual_services.named(host, scope.namespace) if attached else None
        if attached and not (named is not None and comes_first(named, attached, scope.namespace)):
            to.routes.extend(builder.of_attached(attached))
            if len(attached) == 1:
                limit_routes(to, attached[0].resource, scope, notes)
            return
    rule = catalog.virtual_services.of(host, scope.namespace)
    if rule is not None and (routes := builder.of_rule(rule)):
        to.routes.extend(routes)
        limit_routes(to, rule, scope, notes)
    elif service is not None:
        # A rule none of whose routes is for this client and port leaves the service as it is (Istio).
        to.routes.append(builder.default())

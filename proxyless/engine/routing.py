"""Which route of a virtual host a request takes: the first that matches, as in Envoy."""

from proxyless.engine.matching import Subject, route_matches
from proxyless.engine.request import Request
from proxyless.model.route import Route, VirtualHost


def find_route(virtual_host: VirtualHost, request: Request, draw: float) -> Route | None:
    """``draw`` is uniform in [0, 1), for routes that take a fraction of the requests."""
    subject = Subject(request)
    for route in virtual_host.routes:
        if route_matches(route.match, subject, draw):
            return route
    return None

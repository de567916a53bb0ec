"""Which route of a virtual host a request takes: the first that matches, as in Envoy."""

from proxyless.engine.matching import Subject, conditions_match, path_matches
from proxyless.engine.request import Request
from proxyless.model.route import Route, VirtualHost


def find_route(virtual_host: VirtualHost, request: Request, draw: float) -> Route | None:
    """``draw`` is uniform in [0, 1), for routes that take a fraction of the requests."""
    subject = Subject(request)
    path = subject.path
    for route in virtual_host.routes:
        if path_matches(route.match.path, path) and conditions_match(route.match, subject, draw):
            return route
    return None

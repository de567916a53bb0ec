"""The head of a request as its attempts send it."""

from proxyless.engine import hygiene, mutations, rewrite
from proxyless.engine.decision import Decision
from proxyless.engine.request import Request
from proxyless.model.route import Forward


def head(request: Request, decision: Decision, *, concerned: bool) -> tuple[list[tuple[str, str]], str, str]:
    """Headers, path and authority, the same for all attempts. concerned: see ``hygiene.concerned``."""
    headers = hygiene.sendable(request.headers) if concerned else request.headers
    if decision.request_mutations:
        headers = mutations.apply_all(decision.request_mutations, headers)
    route = decision.route
    path = request.path
    action = route.action if route is not None else None
    if isinstance(action, Forward) and (action.prefix_rewrite or action.regex_rewrite is not None):
        assert route is not None
        path = rewrite.forwarded_path(request, route.match.path, action)
        # Also where the rewrite changes nothing, as Envoy does.
        headers = [*headers, ("x-envoy-original-path", request.path)]
    return headers, path, decision.host_rewrite or request.authority

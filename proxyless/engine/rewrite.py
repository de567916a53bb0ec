"""Rewrites of path and host, and the URL of a redirect, as Envoy's router builds them."""

from proxyless.engine.request import Request
from proxyless.model.matching import PathKind, PathMatcher
from proxyless.model.route import Forward, Redirect, RegexRewrite

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def rewrite_path(path: str, match: PathMatcher, prefix_rewrite: str | None, regex_rewrite: RegexRewrite | None) -> str:
    """The path and query to send. A prefix rewrite replaces what the route matched: the prefix, or the whole path
    without query for exact and regex routes. A regex rewrite works on the whole path without query; one that leaves
    nothing is not done.
    """
    if prefix_rewrite:
        return prefix_rewrite + path[len(_matched(path, match)) :]
    if regex_rewrite is not None and regex_rewrite.regex.substitute is not None:
        whole = _without_query(path)
        changed = regex_rewrite.regex.substitute(regex_rewrite.substitution, whole)
        return changed + path[len(whole) :] if changed else path
    return path


def forwarded_path(request: Request, match: PathMatcher, action: Forward) -> str:
    return rewrite_path(request.path, match, action.prefix_rewrite, action.regex_rewrite)


def redirect_location(request: Request, match: PathMatcher, action: Redirect) -> str:
    """Envoy's ``newUri``: scheme, host, port and path of the request, each replaced where the action says so."""
    scheme = action.scheme or ("https" if action.https else request.scheme)
    port = f":{action.port}" if action.port else ""
    host = action.host or _redirect_host(request, scheme, bool(port))
    path = rewrite_path(request.path, match, action.prefix_rewrite, action.regex_rewrite)
    keeps_query = False
    if action.path:
        # A query written in the redirect replaces the request's and survives strip_query.
        keeps_query = "?" in action.path
        path = action.path if keeps_query else action.path + _query(request.path)
    if not path.startswith("/"):
        path = f"/{path}"
    if action.strip_query and not keeps_query:
        path = path.partition("?")[0]
    return f"{scheme}://{host}{port}{path}"


def shadow_host(authority: str) -> str:
    """``-shadow`` after the host, before the port (Envoy's ShadowWriterImpl)."""
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        return f"{authority}-shadow"
    return f"{host}-shadow:{port}"


def _matched(path: str, match: PathMatcher) -> str:
    if match.kind in (PathKind.PREFIX, PathKind.SEPARATED_PREFIX):
        return path[: len(match.value)]
    return _without_query(path)


def _without_query(path: str) -> str:
    return path.partition("?")[0].partition("#")[0]


def _query(path: str) -> str:
    start = path.find("?")
    return path[start:] if start >= 0 else ""


def _redirect_host(request: Request, scheme: str, new_port: bool) -> str:
    # The old port goes when a new one comes, and when it was the old scheme's default and the scheme changes.
    host = request.authority
    end = host.rfind("]:") + 1 if host.startswith("[") else host.rfind(":")
    if end <= 0:
        return host
    if new_port or (scheme != request.scheme and host[end:] == _DEFAULT_PORTS.get(request.scheme)):
        return host[:end]
    return host

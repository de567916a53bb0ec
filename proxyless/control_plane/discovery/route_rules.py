"""HTTPRoute and GRPCRoute, read as rules of a VirtualService: one for each match, with its place among all others.

Source: https://gateway-api.sigs.k8s.io/reference/spec/ for precedence and what each filter does; where that leaves it
to implementations, Istio's conversion of routes to virtual services.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from proxyless.control_plane.resources import http_route as hr
from proxyless.control_plane.resources import virtual_service as vs
from proxyless.control_plane.resources.attached_rule import AttachedRule, Backend, RuleRedirect, SegmentPrefix
from proxyless.control_plane.resources.base import Percent, PortSelector, StringMatch
from proxyless.control_plane.resources.gateway_route import (
    BackendObjectReference,
    GRPCRouteFilter,
    HTTPHeader,
    HTTPHeaderFilter,
    HTTPHeaderMatch,
    HTTPRequestMirrorFilter,
    MatchType,
)
from proxyless.control_plane.resources.grpc_route import GRPCMethodMatch, GRPCRouteMatch, GRPCRouteRule, GRPCRouteSpec
from proxyless.control_plane.resources.http_route import HTTPRouteRule, PathMatchType, PathModifierType
from proxyless.control_plane.resources.names import service_host
from proxyless.control_plane.resources.resource import Resource

# A backend that is not there: 500, and for gRPC the status that its clients read as UNAVAILABLE.
_HTTP_FAULT, _GRPC_FAULT = 500, 503
_NO_BACKEND = 404
# Istio's number of retries where nobody says one.
_ATTEMPTS = 2
# GEP-1731: with a retry stanza, whatever breaks a connection is tried again too. gRPC knows the last two only.
_RETRY_ON = "connect-failure,refused-stream,reset,unavailable,cancelled"
_ANY_SEGMENT = "[^/]+"

_Filters = Sequence[hr.HTTPRouteFilter] | Sequence[GRPCRouteFilter]


@dataclass(frozen=True, slots=True)
class RouteRule:
    """rank: rules are tried in this order, over all routes of a service."""

    rank: tuple[Any, ...]
    http: AttachedRule
    resource: Resource[Any]
    origin: str


def read_rules(resource: Resource[Any], cluster_domain: str) -> tuple[RouteRule, ...]:
    return tuple(_Reader(resource, cluster_domain).rules())


class _Reader:
    def __init__(self, resource: Resource[Any], cluster_domain: str) -> None:
        self._resource = resource
        self._domain = cluster_domain

    def rules(self) -> Iterator[RouteRule]:
        for index, rule in enumerate(self._resource.spec.rules):
            if isinstance(self._resource.spec, GRPCRouteSpec):
                found = [self._grpc(rule, match) for match in rule.matches or (GRPCRouteMatch(),)]
            else:
                found = [self._http(rule, match) for match in rule.matches or (hr.HTTPRouteMatch(),)]
            origin = f"{self._resource.kind} {self._resource.namespace}/{self._resource.name} rules[{index}]"
            for position, (rank, http) in enumerate(found):
                yield RouteRule((*rank, *self._resource.age, index, position), http, self._resource, origin)

    def _http(self, rule: HTTPRouteRule, match: hr.HTTPRouteMatch) -> tuple[tuple[int, ...], AttachedRule]:
        path = match.path or hr.HTTPPathMatch()
        condition = vs.HTTPMatchRequest(
            uri=_path(path),
            method=StringMatch(exact=match.method.value) if match.method else None,
            headers=_conditions(match.headers, lower=True),
            query_params=_conditions(match.query_params, lower=False),
        )
        timeouts = rule.timeouts or hr.HTTPRouteTimeouts()
        http = AttachedRule(
            name=rule.name,
            match=(condition,),
            timeout=timeouts.request,
            retries=_retries(rule.retry, timeouts.backend_request or None),
            fault_status=_HTTP_FAULT,
        )
        prefix = path.value if path.type is PathMatchType.PATH_PREFIX else ""
        rank = (
            *_path_rank(path),
            0 if match.method else 1,
            -len(condition.headers),
            -len(condition.query_params),
        )
        return rank, self._acting(http, rule, prefix)

    def _grpc(self, rule: GRPCRouteRule, match: GRPCRouteMatch) -> tuple[tuple[int, ...], AttachedRule]:
        method = match.method or GRPCMethodMatch()
        condition = vs.HTTPMatchRequest(
            uri=_method(method),
            headers=_conditions(match.headers, lower=True),
        )
        http = AttachedRule(name=rule.name, match=(condition,), fault_status=_GRPC_FAULT)
        any_method = not (method.service or method.method)
        tier = 2 if any_method else 0 if method.type is MatchType.EXACT else 1
        rank = (tier, -len(method.service), -len(method.method), -len(condition.headers))
        return rank, self._acting(http, rule, "")

    def _acting(self, http: AttachedRule, rule: HTTPRouteRule | GRPCRouteRule, prefix: str) -> AttachedRule:
        backends = self._backends(rule)
        # What a filter of the only backend does, is done to all requests of the rule.
        only = rule.backend_refs[0].filters if len(rule.backend_refs) == 1 else ()
        filters = (*rule.filters, *(one for one in only if one.type.value not in _OF_BACKENDS))
        update: dict[str, Any] = {
            "headers": _headers(rule.filters),
            "mirrors": self._mirrors(filters),
            "rewrite": _rewrite(filters, prefix),
            "cors_policy": _cors(rule.filters),
        }
        if any(one.extension_ref is not None for one in rule.filters):
            update["direct_response"] = vs.HTTPDirectResponse(status=http.fault_status)
        elif (redirect := _redirect(rule.filters, prefix)) is not None:
            update["redirect"] = redirect
        elif backends:
            update["route"] = backends
        else:
            # All weights 0: these are requests that go nowhere; without backends nobody said where they go.
            status = http.fault_status if rule.backend_refs else _NO_BACKEND
            update["direct_response"] = vs.HTTPDirectResponse(status=status)
        return http.model_copy(update=update)

    def _backends(self, rule: HTTPRouteRule | GRPCRouteRule) -> tuple[Backend, ...]:
        return tuple(
            Backend(
                destination=self._destination(ref),
                weight=ref.weight,
                headers=_headers(ref.filters, authority=_hostname(ref.filters)),
                fault=_fault(ref, ref.filters),
            )
            for ref in rule.backend_refs
            if ref.weight > 0
        )

    def _destination(self, ref: BackendObjectReference) -> vs.Destination:
        host = service_host(ref.name, ref.namespace or self._resource.namespace, self._domain)
        return vs.Destination(host=host, port=PortSelector(number=ref.port) if ref.port else None)

    def _mirrors(self, filters: _Filters) -> tuple[vs.HTTPMirrorPolicy, ...]:
        return tuple(
            vs.HTTPMirrorPolicy(
                destination=self._destination(one.request_mirror.backend_ref), percentage=_share(one.request_mirror)
            )
            for one in filters
            if one.request_mirror is not None and one.request_mirror.backend_ref.is_service
        )


# Filters that each of several backends can have for itself.
_OF_BACKENDS = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier", "ExtensionRef"})


def _path(path: hr.HTTPPathMatch) -> StringMatch:
    match path.type:
        case PathMatchType.EXACT:
            return StringMatch(exact=path.value)
        case PathMatchType.PATH_PREFIX:
            return SegmentPrefix(prefix=path.value.rstrip("/"))
        case PathMatchType.REGULAR_EXPRESSION:
            return StringMatch(regex=path.value)


def _path_rank(path: hr.HTTPPathMatch) -> tuple[int, int]:
    """Exact paths, then prefixes, longer ones first, then regexes (Istio); the prefix of all paths is the last, or it
    would leave nothing to regexes.
    """
    length = len(path.value)
    match path.type:
        case PathMatchType.EXACT:
            return 0, -length
        case PathMatchType.PATH_PREFIX:
            return (1, -len(path.value.rstrip("/"))) if path.value != "/" else (3, 0)
        case PathMatchType.REGULAR_EXPRESSION:
            return 2, -length


def _method(method: GRPCMethodMatch) -> StringMatch | None:
    """A gRPC method is the path ``/SERVICE/METHOD``."""
    if not (method.service or method.method):
        return None
    if method.type is MatchType.REGULAR_EXPRESSION:
        parts = [f"(?:{part})" if part else _ANY_SEGMENT for part in (method.service, method.method)]
        return StringMatch(regex="/" + "/".join(parts))
    if not method.method:
        return StringMatch(prefix=f"/{method.service}/")
    if not method.service:
        return StringMatch(regex=f"/{_ANY_SEGMENT}/{re2.escape(method.method)}")
    return StringMatch(exact=f"/{method.service}/{method.method}")


def _conditions(matches: Sequence[HTTPHeaderMatch], *, lower: bool) -> dict[str, StringMatch]:
    """Of several for one name the first counts."""
    found: dict[str, StringMatch] = {}
    for match in matches:
        is_exact = match.type is MatchType.EXACT
        condition = StringMatch(exact=match.value) if is_exact else StringMatch(regex=match.value)
        found.setdefault(match.name.lower() if lower else match.name, condition)
    return found


def _values(headers: Sequence[HTTPHeader]) -> dict[str, str]:
    """Of several for one name the first counts. A percent sign is one, not the start of a command (Envoy)."""
    found: dict[str, str] = {}
    for header in headers:
        found.setdefault(header.name.lower(), header.value.replace("%", "%%"))
    return found


def _operations(filters: Sequence[HTTPHeaderFilter]) -> vs.HeaderOperations | None:
    if not filters:
        return None
    (one, *_) = filters
    return vs.HeaderOperations(set=_values(one.set), add=_values(one.add), remove=one.remove)


def _headers(filters: _Filters, *, authority: str = "") -> vs.Headers | None:
    """authority: beside the changes, the host that requests are for from there on."""
    request = _operations([one.request_header_modifier for one in filters if one.request_header_modifier])
    response = _operations([one.response_header_modifier for one in filters if one.response_header_modifier])
    if authority:
        request = request or vs.HeaderOperations()
        request = request.model_copy(update={"set": {**request.set, ":authority": authority}})
    return vs.Headers(request=request, response=response) if request or response else None


def _hostname(filters: _Filters) -> str:
    rewrites = [one.url_rewrite for one in filters if isinstance(one, hr.HTTPRouteFilter) and one.url_rewrite]
    return rewrites[0].hostname if rewrites else ""


def _rewrite(filters: _Filters, prefix: str) -> vs.HTTPRewrite | None:
    for one in filters:
        if isinstance(one, hr.HTTPRouteFilter) and one.url_rewrite is not None:
            regex = _path_rewrite(one.url_rewrite.path, prefix)
            return vs.HTTPRewrite(authority=one.url_rewrite.hostname, uri_regex_rewrite=regex)
    return None


def _path_rewrite(path: hr.HTTPPathModifier | None, prefix: str) -> vs.RegexRewrite | None:
    """A prefix is replaced by whole segments: a slash at the end of either counts for nothing."""
    if path is None:
        return None
    if path.type is PathModifierType.FULL_PATH:
        return vs.RegexRewrite(match="^/.*", rewrite=_literal(path.replace_full_path or "/"))
    old, new = prefix.rstrip("/"), (path.replace_prefix_match or "").rstrip("/")
    if old and new:
        return vs.RegexRewrite(match=f"^{re2.escape(old)}", rewrite=_literal(new))
    return vs.RegexRewrite(match=f"^{re2.escape(old)}/?", rewrite=_literal(f"{new}/")) if old or new else None


def _literal(replacement: str) -> str:
    return replacement.replace("\\", "\\\\")


def _redirect(filters: _Filters, prefix: str) -> RuleRedirect | None:
    for one in filters:
        if isinstance(one, hr.HTTPRouteFilter) and one.request_redirect is not None:
            asked = one.request_redirect
            whole = asked.path is not None and asked.path.type is PathModifierType.FULL_PATH
            # Without a scheme the port stays the one that was requested.
            derive = None if asked.port or asked.scheme else vs.RedirectPortSelection.FROM_REQUEST_PORT
            return RuleRedirect(
                scheme=asked.scheme,
                authority=asked.hostname,
                port=asked.port or _SCHEME_PORTS.get(asked.scheme),
                derive_port=derive,
                uri=(asked.path.replace_full_path or "/") if asked.path and whole else "",
                uri_regex_rewrite=None if whole else _path_rewrite(asked.path, prefix),
                redirect_code=asked.status_code,
            )
    return None


_SCHEME_PORTS = {"http": 80, "https": 443}


def _cors(filters: _Filters) -> vs.CorsPolicy | None:
    for one in filters:
        if isinstance(one, hr.HTTPRouteFilter) and one.cors is not None:
            return vs.CorsPolicy(
                allow_origins=tuple(map(_origin, one.cors.allow_origins)),
                allow_methods=one.cors.allow_methods,
                allow_headers=one.cors.allow_headers,
                expose_headers=one.cors.expose_headers,
                max_age=float(one.cors.max_age),
                allow_credentials=one.cors.allow_credentials,
                unmatched_preflights=vs.UnmatchedPreflights.IGNORE,
            )
    return None


def _origin(written: str) -> StringMatch:
    """A ``*`` in it stands for any text."""
    if "*" not in written:
        return StringMatch(exact=written)
    return StringMatch(regex=".*".join(re2.escape(part) for part in written.split("*")))


def _share(mirror: HTTPRequestMirrorFilter) -> Percent | None:
    if mirror.fraction is not None:
        return Percent(value=100.0 * mirror.fraction.numerator / mirror.fraction.denominator)
    return Percent(value=float(mirror.percent)) if mirror.percent is not None else None


def _retries(retry: hr.HTTPRouteRetry | None, per_try: float | None) -> vs.HTTPRetry | None:
    if retry is None:
        return None if per_try is None else vs.HTTPRetry(attempts=_ATTEMPTS, per_try_timeout=per_try)
    return vs.HTTPRetry(
        attempts=_ATTEMPTS if retry.attempts is None else retry.attempts,
        per_try_timeout=per_try,
        retry_on=",".join((_RETRY_ON, *map(str, retry.codes))),
        backoff=retry.backoff,
    )


def _fault(ref: BackendObjectReference, filters: _Filters) -> str:
    if not ref.is_service:
        return f"no requests are sent to a {ref.kind}"
    if any(one.extension_ref is not None for one in filters):
        return "has a filter that does not exist here"
    return ""

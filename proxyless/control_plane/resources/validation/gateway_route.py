"""HTTPRoute and GRPCRoute: what the Gateway API's own schemas check, and which filters stand beside each other.

Source: the CEL rules and patterns of https://github.com/kubernetes-sigs/gateway-api/tree/main/config/crd
"""

import re
from collections.abc import Iterable, Sequence

from proxyless.control_plane.resources.base import camel
from proxyless.control_plane.resources.gateway_route import (
    BackendObjectReference,
    GRPCRouteFilter,
    HTTPHeaderFilter,
    HTTPHeaderMatch,
    HTTPRequestMirrorFilter,
    MatchType,
    ParentReference,
)
from proxyless.control_plane.resources.grpc_route import GRPCBackendRef, GRPCMethodMatch, GRPCRouteSpec
from proxyless.control_plane.resources.http_route import (
    HTTPBackendRef,
    HTTPPathMatch,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
    HTTPRouteRule,
    HTTPRouteSpec,
    HTTPURLRewriteFilter,
    PathMatchType,
    PathModifierType,
)
from proxyless.control_plane.resources.names import is_dns_label, is_host
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.validation.checks import MAX_REGEX, Checks
from proxyless.control_plane.resources.validation.hedging import check_hedging

_MOST_RULES = 16
_MOST_WEIGHT = 1_000_000
_PATH = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+\Z")
_NOT_IN_PATH = ("//", "/./", "/../", "%2f", "%2F")
_SERVICE = re.compile(r"\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*\Z", re.IGNORECASE)
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z")
_STATUSES = (301, 302, 303, 307, 308)
# What several backends of a rule can have each for itself.
_OF_BACKENDS = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier", "ExtensionRef"})
# Those of which a rule may have several.
_REPEATED = frozenset({"RequestMirror", "ExtensionRef"})

_Filter = HTTPRouteFilter | GRPCRouteFilter
_Backend = HTTPBackendRef | GRPCBackendRef


def check_http_route(checks: Checks, spec: HTTPRouteSpec) -> None:
    _parents(checks, spec.parent_refs)
    _most_rules(checks, len(spec.rules))
    for index, rule in enumerate(spec.rules):
        path = f"spec.rules[{index}]"
        for position, match in enumerate(rule.matches):
            here = f"{path}.matches[{position}]"
            if match.path is not None:
                _path_match(checks, f"{here}.path", match.path)
            _conditions(checks, f"{here}.headers", match.headers, headers=True)
            _conditions(checks, f"{here}.queryParams", match.query_params, headers=False)
        _filters(checks, f"{path}.filters", rule.filters)
        _backends(checks, f"{path}.backendRefs", rule.backend_refs)
        _combinations(checks, path, rule)
        _times(checks, path, rule)
    patient = any(
        rule.timeouts and rule.timeouts.backend_request and not (rule.retry and rule.retry.attempts == 0)
        for rule in spec.rules
    )
    check_hedging(checks, "" if patient else "no rule with retries has timeouts.backendRequest; add it")


def check_grpc_route(checks: Checks, spec: GRPCRouteSpec) -> None:
    _parents(checks, spec.parent_refs)
    _most_rules(checks, len(spec.rules))
    for index, rule in enumerate(spec.rules):
        path = f"spec.rules[{index}]"
        for position, match in enumerate(rule.matches):
            here = f"{path}.matches[{position}]"
            if match.method is not None:
                _method_match(checks, f"{here}.method", match.method)
            _conditions(checks, f"{here}.headers", match.headers, headers=True)
        _filters(checks, f"{path}.filters", rule.filters)
        _backends(checks, f"{path}.backendRefs", rule.backend_refs)
    check_hedging(checks, "a GRPCRoute cannot set a per-try timeout; use a VirtualService's retries.perTryTimeout")


def _most_rules(checks: Checks, rules: int) -> None:
    if rules > _MOST_RULES:
        checks.error("spec.rules", f"has more than {_MOST_RULES} rules; make two routes, which act together")


def _parents(checks: Checks, parents: Sequence[ParentReference]) -> None:
    for index, parent in enumerate(parents):
        path = f"spec.parentRefs[{index}]"
        _reference(checks, path, parent)
        if not parent.is_service:
            continue
        if parent in parents[:index]:
            checks.error(path, "is there twice; remove one of the two")


def _reference(checks: Checks, path: str, reference: ParentReference | BackendObjectReference) -> None:
    if reference.is_service and not is_dns_label(reference.name):
        checks.error(f"{path}.name", f"{reference.name!r} is not the name of a Service")
    if reference.namespace and not is_dns_label(reference.namespace):
        checks.error(f"{path}.namespace", f"{reference.namespace!r} is not a namespace")


def _backend(checks: Checks, path: str, reference: BackendObjectReference) -> None:
    _reference(checks, path, reference)
    if reference.is_service and reference.port is None:
        checks.error(f"{path}.port", "is required for a Service")


def _backends(checks: Checks, path: str, backends: Sequence[_Backend]) -> None:
    for index, backend in enumerate(backends):
        here = child(path, index)
        _backend(checks, here, backend)
        if not 0 <= backend.weight <= _MOST_WEIGHT:
            checks.error(f"{here}.weight", f"must be from 0 to {_MOST_WEIGHT}")
        _filters(checks, f"{here}.filters", backend.filters)
        filters: Sequence[_Filter] = backend.filters
        for position, one in enumerate(filters):
            if reason := _not_of_a_backend(one, only=len(backends) == 1):
                checks.error(f"{here}.filters[{position}]", f"{reason}; move it to the filters of the rule")


def _not_of_a_backend(one: _Filter, *, only: bool) -> str:
    """Why a backend cannot have this filter, empty if it can. only: there is no other backend."""
    if one.type.value in ("RequestRedirect", "CORS"):
        return f"a backend cannot have a filter {one.type.value}"
    if only or one.type.value in _OF_BACKENDS:
        return ""
    if isinstance(one, HTTPRouteFilter) and one.url_rewrite is not None and one.url_rewrite.path is None:
        return ""
    return f"one of several backends cannot have a filter {one.type.value}"


def _path_match(checks: Checks, path: str, match: HTTPPathMatch) -> None:
    if match.type is PathMatchType.REGULAR_EXPRESSION:
        checks.regex(f"{path}.value", match.value)
        return
    value = match.value
    if not value.startswith("/"):
        checks.error(f"{path}.value", "must start with /")
    elif len(value) > MAX_REGEX:
        checks.error(f"{path}.value", f"may have at most {MAX_REGEX} characters")
    elif not _PATH.match(value) or any(part in value for part in _NOT_IN_PATH) or value.endswith(("/.", "/..")):
        checks.error(f"{path}.value", f"{value!r} is not a normalised path without query")


def _conditions(checks: Checks, path: str, matches: Iterable[HTTPHeaderMatch], *, headers: bool) -> None:
    for index, match in enumerate(matches):
        here = child(path, index)
        if headers:
            _header_name(checks, f"{here}.name", match.name)
        elif not match.name:
            checks.error(f"{here}.name", "must not be empty")
        if match.type is MatchType.REGULAR_EXPRESSION:
            checks.regex(f"{here}.value", match.value)
        elif not match.value:
            checks.error(f"{here}.value", "must not be empty")


def _header_name(checks: Checks, path: str, name: str) -> None:
    if name.startswith(":"):
        checks.error(path, f"{name!r} is not an HTTP header name")
    else:
        checks.header_name(path, name)


def _method_match(checks: Checks, path: str, match: GRPCMethodMatch) -> None:
    if not (match.service or match.method):
        checks.error(path, "service, method or both are required")
    if len(match.service) + len(match.method) > MAX_REGEX:
        # Together they are one expression for a path.
        checks.error(path, f"service and method together may have at most {MAX_REGEX} characters")
    for field, value, pattern in (("service", match.service, _SERVICE), ("method", match.method, _METHOD)):
        if not value:
            continue
        if match.type is MatchType.REGULAR_EXPRESSION:
            checks.regex(f"{path}.{field}", value)
        elif not pattern.match(value):
            checks.error(f"{path}.{field}", f"{value!r} is not the name of a gRPC {field}")


def _filters(checks: Checks, path: str, filters: Sequence[_Filter]) -> None:
    seen: set[str] = set()
    for index, one in enumerate(filters):
        here = child(path, index)
        wanted = _FIELDS[one.type.value]
        for field in type(one).model_fields:
            present = getattr(one, field) is not None
            if field != "type" and present != (field == wanted):
                says = "is required for" if field == wanted else "does not belong to"
                checks.error(child(here, camel(field)), f"{says} a filter of type {one.type.value}")
        if one.type.value in seen and one.type.value not in _REPEATED:
            checks.error(here, f"there is already a filter of type {one.type.value}; join the two")
        seen.add(one.type.value)
        _changes(checks, f"{here}.requestHeaderModifier", one.request_header_modifier)
        _changes(checks, f"{here}.responseHeaderModifier", one.response_header_modifier)
        _mirror(checks, f"{here}.requestMirror", one.request_mirror)
        if isinstance(one, HTTPRouteFilter):
            _redirect(checks, f"{here}.requestRedirect", one.request_redirect)
            _rewrite(checks, f"{here}.urlRewrite", one.url_rewrite)
            if one.cors is not None and one.cors.max_age < 1:
                checks.error(f"{here}.cors.maxAge", "must be at least 1 (seconds)")


_FIELDS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
    "ExtensionRef": "extension_ref",
}


def _changes(checks: Checks, path: str, changes: HTTPHeaderFilter | None) -> None:
    if changes is None:
        return
    for field, headers in (("set", changes.set), ("add", changes.add)):
        for index, header in enumerate(headers):
            here = f"{path}.{field}[{index}]"
            _header_name(checks, f"{here}.name", header.name)
            # A percent sign is nothing special here.
            checks.header_value(f"{here}.value", header.value.replace("%", "%%"))
    for index, name in enumerate(changes.remove):
        here = f"{path}.remove[{index}]"
        _header_name(checks, here, name)
        if name.lower() == "host":
            checks.error(here, "the header 'host' cannot be removed")


def _mirror(checks: Checks, path: str, mirror: HTTPRequestMirrorFilter | None) -> None:
    if mirror is None:
        return
    _backend(checks, f"{path}.backendRef", mirror.backend_ref)
    if mirror.percent is not None and mirror.fraction is not None:
        checks.error(path, "only one of percent and fraction may be set")
    if mirror.percent is not None and not 0 <= mirror.percent <= 100:
        checks.error(f"{path}.percent", "must be from 0 to 100")
    if mirror.fraction is not None:
        if mirror.fraction.denominator < 1:
            checks.error(f"{path}.fraction.denominator", "must be at least 1")
        elif not 0 <= mirror.fraction.numerator <= mirror.fraction.denominator:
            checks.error(f"{path}.fraction.numerator", "must be from 0 to the denominator")


def _redirect(checks: Checks, path: str, redirect: HTTPRequestRedirectFilter | None) -> None:
    if redirect is None:
        return
    if redirect.scheme not in ("", "http", "https"):
        checks.error(f"{path}.scheme", "must be http or https")
    if redirect.status_code not in _STATUSES:
        checks.error(f"{path}.statusCode", f"must be one of {', '.join(map(str, _STATUSES))}")
    _hostname(checks, f"{path}.hostname", redirect.hostname)
    _modifier(checks, f"{path}.path", redirect.path)


def _rewrite(checks: Checks, path: str, rewrite: HTTPURLRewriteFilter | None) -> None:
    if rewrite is not None:
        _hostname(checks, f"{path}.hostname", rewrite.hostname)
        _modifier(checks, f"{path}.path", rewrite.path)


def _hostname(checks: Checks, path: str, hostname: str) -> None:
    if hostname and not is_host(hostname, wildcard=False):
        checks.error(path, f"{hostname!r} is not a host name")


def _modifier(checks: Checks, path: str, modifier: HTTPPathModifier | None) -> None:
    if modifier is None:
        return
    for field, kind in (
        ("replace_full_path", PathModifierType.FULL_PATH),
        ("replace_prefix_match", PathModifierType.PREFIX_MATCH),
    ):
        value, here = getattr(modifier, field), f"{path}.{camel(field)}"
        if (value is not None) != (modifier.type is kind):
            says = "is required for" if modifier.type is kind else "does not belong to"
            checks.error(here, f"{says} {modifier.type.value}")
        elif value and not value.startswith("/"):
            checks.error(here, "must start with /")
        elif value and any(ord(character) <= 0x20 or character == "\x7f" for character in value):
            checks.error(here, "must not contain spaces, line breaks or control characters")


def _combinations(checks: Checks, path: str, rule: HTTPRouteRule) -> None:
    """What cannot be beside each other in one rule."""
    types = {one.type.value for one in rule.filters}
    if "RequestRedirect" in types:
        if "URLRewrite" in types:
            checks.error(f"{path}.filters", "RequestRedirect and URLRewrite cannot be combined; remove one of the two")
        if rule.backend_refs:
            checks.error(f"{path}.backendRefs", "is not allowed beside RequestRedirect; remove one of the two")
    filters = [(f"{path}.filters[{index}]", one) for index, one in enumerate(rule.filters)]
    for index, backend in enumerate(rule.backend_refs):
        filters += [(f"{path}.backendRefs[{index}].filters[{i}]", one) for i, one in enumerate(backend.filters)]
    (match, *more) = rule.matches or (None,)
    by_prefix = not more and (match is None or match.path is None or match.path.type is PathMatchType.PATH_PREFIX)
    for here, one in filters:
        for modifier in (one.url_rewrite, one.request_redirect):
            asked = modifier.path if modifier is not None else None
            if asked is not None and asked.type is PathModifierType.PREFIX_MATCH and not by_prefix:
                message = "ReplacePrefixMatch needs a rule with one match, by PathPrefix; make a rule of each match"
                checks.error(here, message)


def _times(checks: Checks, path: str, rule: HTTPRouteRule) -> None:
    if (timeouts := rule.timeouts) is not None:
        checks.duration(f"{path}.timeouts.request", timeouts.request, zero=True)
        checks.duration(f"{path}.timeouts.backendRequest", timeouts.backend_request, zero=True)
        if timeouts.request and (timeouts.backend_request or 0) > timeouts.request:
            checks.error(f"{path}.timeouts.backendRequest", "must not be longer than timeouts.request")
    if (retry := rule.retry) is not None:
        for index, code in enumerate(retry.codes):
            if not 400 <= code <= 599:
                checks.error(f"{path}.retry.codes[{index}]", f"HTTP status {code} is not in the range 400 to 599")
        checks.not_negative(f"{path}.retry.attempts", retry.attempts or 0)
        checks.duration(f"{path}.retry.backoff", retry.backoff)

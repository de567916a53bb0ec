"""VirtualService: what Istio's ValidateVirtualService checks."""

import base64
import binascii
import http
from collections.abc import Sequence
from itertools import combinations

from proxyless.control_plane.resources.names import covers, is_dns_label, is_host, is_ip, is_ip_or_cidr
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.validation.checks import Checks, regex_fault, substitution_fault
from proxyless.control_plane.resources.validation.hedging import check_hedging
from proxyless.control_plane.resources.validation.reachability import check_reachability
from proxyless.control_plane.resources.virtual_service import (
    MESH_GATEWAY,
    Abort,
    Delay,
    Destination,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    L4MatchAttributes,
    RouteDestination,
    TLSMatchAttributes,
    VirtualServiceSpec,
)

# Envoy: x-envoy-retry-on and x-envoy-retry-grpc-on; a status code is allowed too (Istio).
RETRY_ON = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)
GRPC_STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_STATUS_CODES = frozenset(str(int(status)) for status in http.HTTPStatus)
_MAX_BODY = 1024 * 1024


def check_virtual_service(checks: Checks, spec: VirtualServiceSpec) -> None:
    delegate = not spec.hosts
    if delegate:
        for field, value in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
            if value:
                checks.error(
                    f"spec.{field}", "is not allowed in a delegate (a VirtualService without hosts); add spec.hosts"
                )
    for_mesh = not spec.gateways or MESH_GATEWAY in spec.gateways
    _hosts(checks, spec.hosts, for_mesh)
    _gateways(checks, "spec.gateways", spec.gateways)
    if not (spec.http or spec.tls or spec.tcp):
        checks.error("spec", "one of http, tls, tcp is required")
    for index, route in enumerate(spec.http):
        _http_route(checks, child("spec.http", index), route, delegate)
    # A delegate's routes may have the retries of the route that delegates to it.
    patient = delegate or any(_is_patient(route) for route in spec.http)
    check_hedging(checks, "" if patient else "no route has retries with a perTryTimeout; add spec.http[].retries")
    for index, tls in enumerate(spec.tls):
        path = child("spec.tls", index)
        if not tls.match:
            checks.error(f"{path}.match", "must have at least one match with sniHosts")
        for position, match in enumerate(tls.match):
            here = f"{path}.match[{position}]"
            _l4_match(checks, here, match)
            if not match.sni_hosts:
                checks.error(f"{here}.sniHosts", "must list at least one server name")
            for at, host in enumerate(match.sni_hosts):
                if not is_host(host):
                    checks.error(f"{here}.sniHosts[{at}]", f"{host!r} is not a DNS name")
                elif not any(covers(pattern.lower(), host.lower()) for pattern in spec.hosts):
                    checks.error(f"{here}.sniHosts[{at}]", f"{host} is not among spec.hosts")
        _l4_destinations(checks, f"{path}.route", tls.route)
    for index, tcp in enumerate(spec.tcp):
        path = child("spec.tcp", index)
        for position, l4 in enumerate(tcp.match):
            here = f"{path}.match[{position}]"
            _l4_match(checks, here, l4)
            if l4.source_subnet and not is_ip_or_cidr(l4.source_subnet):
                checks.error(f"{here}.sourceSubnet", f"{l4.source_subnet!r} is not an IP address or CIDR")
        _l4_destinations(checks, f"{path}.route", tcp.route)
    checks.export_to("spec.exportTo", spec.export_to)
    check_reachability(checks, spec)


def _hosts(checks: Checks, hosts: tuple[str, ...], for_mesh: bool) -> None:
    for index, host in enumerate(hosts):
        path = child("spec.hosts", index)
        if host == "*" and for_mesh:
            checks.error(path, 'the host "*" is only allowed for gateways, not for the mesh; name a host or "*.DOMAIN"')
        elif not is_host(host) and not is_ip(host):
            checks.error(path, f"{host!r} is neither a DNS name nor an IP address")
    for (_, one), (second, other) in combinations(enumerate(hosts), 2):
        if covers(one, other) or covers(other, one):
            checks.error(child("spec.hosts", second), f"{other} is a duplicate of {one}")


def _gateways(checks: Checks, path: str, gateways: tuple[str, ...]) -> None:
    for index, gateway in enumerate(gateways):
        namespace, slash, name = gateway.rpartition("/")
        if (slash and not (is_dns_label(namespace) and is_dns_label(name))) or not is_host(name, wildcard=False):
            checks.error(child(path, index), f"{gateway!r} is not a gateway; write NAME, NAMESPACE/NAME or mesh")


def _http_route(checks: Checks, path: str, route: HTTPRoute, delegate: bool) -> None:
    _action(checks, path, route, delegate)
    for index, match in enumerate(route.match):
        _match(checks, f"{path}.match[{index}]", match)
    _headers(checks, f"{path}.headers", route.headers)
    if route.fault is not None:
        if route.fault.delay is None and route.fault.abort is None:
            checks.error(f"{path}.fault", "needs a delay, an abort or both")
        _delay(checks, f"{path}.fault.delay", route.fault.delay)
        _abort(checks, f"{path}.fault.abort", route.fault.abort)
    _destinations(checks, f"{path}.route", route.route)
    _redirect(checks, f"{path}.redirect", route.redirect)
    _direct_response(checks, f"{path}.directResponse", route.direct_response)
    _rewrite(checks, f"{path}.rewrite", route)
    _retries(checks, f"{path}.retries", route.retries)
    checks.duration(f"{path}.timeout", route.timeout, zero=True)
    if route.mirror is not None:
        check_destination(checks, f"{path}.mirror", route.mirror)
    checks.percentage(f"{path}.mirrorPercentage", route.mirror_percentage)
    for index, mirror in enumerate(route.mirrors):
        check_destination(checks, f"{path}.mirrors[{index}].destination", mirror.destination)
        checks.percentage(f"{path}.mirrors[{index}].percentage", mirror.percentage)
    for field, percent in (("mirror_percent", route.mirror_percent), ("mirrorPercent", route.mirror_percent_camel)):
        if percent is not None:
            checks.warning(f"{path}.{field}", "is deprecated; use mirrorPercentage", code="Deprecated")
            if percent > 100:
                checks.error(f"{path}.{field}", "must be at most 100")
    if route.cors_policy is not None:
        for index, origin in enumerate(route.cors_policy.allow_origins):
            checks.string_match(f"{path}.corsPolicy.allowOrigins[{index}]", origin)
        checks.duration(f"{path}.corsPolicy.maxAge", route.cors_policy.max_age)


def _action(checks: Checks, path: str, route: HTTPRoute, delegate: bool) -> None:
    """Which combinations of route, redirect, directResponse and delegate there may be."""
    if route.delegate is not None:
        if delegate:
            checks.error(f"{path}.delegate", "a delegate cannot delegate again")
        for field, value in (
            ("route", route.route),
            ("redirect", route.redirect),
            ("directResponse", route.direct_response),
        ):
            if value:
                checks.error(f"{path}.{field}", "is not allowed beside delegate; remove one of the two")
        return
    others = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "fault": route.fault is not None,
        "rewrite": route.rewrite is not None,
    }
    for field in ("redirect", "directResponse"):
        if not others[field]:
            continue
        # Istio lets a direct response have a fault: the fault comes first.
        excluded = set(others) - {field} - ({"fault"} if field == "directResponse" else set())
        for other in sorted(name for name in excluded if others[name]):
            if other != "redirect":
                checks.error(f"{path}.{other}", f"is not allowed beside {field}; remove one of the two")
        return
    if not route.route:
        checks.error(path, "one of route, redirect, directResponse, delegate is required")


def _match(checks: Checks, path: str, match: HTTPMatchRequest) -> None:
    for field, value in (
        ("uri", match.uri),
        ("scheme", match.scheme),
        ("method", match.method),
        ("authority", match.authority),
    ):
        checks.string_match(child(path, field), value)
    for field, table in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name, header in table.items():
            here = child(f"{path}.{field}", name)
            checks.header_name(here, name)
            checks.string_match(here, header, presence=True)
    for name, query in match.query_params.items():
        checks.string_match(child(f"{path}.queryParams", name), query, presence=True)
    checks.labels(f"{path}.sourceLabels", match.source_labels)
    _gateways(checks, f"{path}.gateways", match.gateways)
    if match.source_namespace and not is_dns_label(match.source_namespace):
        checks.error(f"{path}.sourceNamespace", f"{match.source_namespace!r} is not a namespace")


def _headers(checks: Checks, path: str, headers: Headers | None) -> None:
    if headers is None:
        return
    for side, operations in (("request", headers.request), ("response", headers.response)):
        if operations is not None:
            _operations(checks, f"{path}.{side}", operations, authority=side == "request")


def _operations(checks: Checks, path: str, operations: HeaderOperations, *, authority: bool) -> None:
    for field, table in (("set", operations.set), ("add", operations.add)):
        for name, value in table.items():
            here = child(f"{path}.{field}", name)
            _mutable(checks, here, name, authority=authority)
            checks.header_value(here, value)
    for index, name in enumerate(operations.remove):
        _mutable(checks, f"{path}.remove[{index}]", name, authority=False)


def _mutable(checks: Checks, path: str, name: str, *, authority: bool) -> None:
    internal = name.startswith(":") or name.lower() == "host"
    if internal and not (authority and is_authority(name)):
        checks.error(path, f"the header {name!r} cannot be changed here")
    checks.header_name(path, name)


def is_authority(name: str) -> bool:
    return name.lower() in (":authority", "host")


def _delay(checks: Checks, path: str, delay: Delay | None) -> None:
    if delay is None:
        return
    checks.percentage(f"{path}.percentage", delay.percentage)
    if not 0 <= delay.percent <= 100:
        checks.error(f"{path}.percent", f"{delay.percent} is not a percentage from 0 to 100")
    elif "percent" in delay.model_fields_set:
        checks.warning(f"{path}.percent", "is deprecated; use percentage", code="Deprecated")
    if delay.exponential_delay is not None:
        checks.error(f"{path}.exponentialDelay", "is not supported by Istio either; use fixedDelay")
    elif delay.fixed_delay is None:
        checks.warning(path, "has no fixedDelay and does nothing")
    elif delay.percentage is None and delay.percent == 0:
        checks.warning(path, "has no percentage, so no request is delayed; add percentage: {value: 100}")
    checks.duration(f"{path}.fixedDelay", delay.fixed_delay)


def _abort(checks: Checks, path: str, abort: Abort | None) -> None:
    if abort is None:
        return
    checks.percentage(f"{path}.percentage", abort.percentage)
    if abort.http_status is not None:
        checks.status(f"{path}.httpStatus", abort.http_status)
    elif abort.grpc_status is not None:
        if abort.grpc_status not in GRPC_STATUS:
            checks.error(f"{path}.grpcStatus", f"{abort.grpc_status!r} is not a gRPC status such as UNAVAILABLE")
    elif abort.http2_error is not None:
        checks.error(f"{path}.http2Error", "is not supported by Istio either; use httpStatus")
    else:
        checks.warning(path, "has no httpStatus or grpcStatus and does nothing")
    if abort.percentage is None:
        checks.warning(path, "has no percentage, so no request is aborted; add percentage: {value: 100}")


def check_destination(checks: Checks, path: str, destination: Destination) -> None:
    if destination.host == "*" or not (is_host(destination.host) or is_ip(destination.host)):
        checks.error(f"{path}.host", f"{destination.host!r} is not a host")
    if destination.subset and not is_dns_label(destination.subset):
        checks.error(f"{path}.subset", f"{destination.subset!r} is not a subset name (lower case letters, digits, '-')")


def _destinations(checks: Checks, path: str, destinations: Sequence[HTTPRouteDestination | RouteDestination]) -> None:
    for index, choice in enumerate(destinations):
        here = child(path, index)
        check_destination(checks, f"{here}.destination", choice.destination)
        checks.not_negative(f"{here}.weight", choice.weight)
        if isinstance(choice, HTTPRouteDestination):
            _headers(checks, f"{here}.headers", choice.headers)
    if len(destinations) > 1 and sum(choice.weight for choice in destinations) == 0:
        checks.error(path, "all weights are 0; give at least one destination a weight")


def _redirect(checks: Checks, path: str, redirect: HTTPRedirect | None) -> None:
    if redirect is None:
        return
    if not (redirect.uri or redirect.authority or redirect.scheme or redirect.port or redirect.derive_port):
        checks.error(path, "one of uri, authority, scheme, port, derivePort is required")
    # Envoy's RedirectResponseCode has these five.
    if redirect.redirect_code not in (0, 301, 302, 303, 307, 308):
        checks.error(f"{path}.redirectCode", f"{redirect.redirect_code} must be one of 301, 302, 303, 307, 308")
    if redirect.scheme not in ("", "http", "https"):
        checks.error(f"{path}.scheme", "must be http or https")
    for field, value in (("uri", redirect.uri), ("authority", redirect.authority)):
        if any(ord(character) < 0x20 or character == "\x7f" for character in value):
            checks.error(f"{path}.{field}", "must not contain line breaks or control characters")


def _direct_response(checks: Checks, path: str, response: HTTPDirectResponse | None) -> None:
    if response is None:
        return
    checks.status(f"{path}.status", response.status)
    if response.body is None:
        return
    if response.body.bytes is not None:
        try:
            base64.b64decode(response.body.bytes, validate=True)
        except (binascii.Error, ValueError):
            checks.error(f"{path}.body.bytes", "is not base64; use body.string for plain text")
    if len(response.body.string or response.body.bytes or "") > _MAX_BODY:
        checks.error(f"{path}.body", "must be smaller than 1 MiB")


def _rewrite(checks: Checks, path: str, route: HTTPRoute) -> None:
    rewrite: HTTPRewrite | None = route.rewrite
    if rewrite is not None:
        if rewrite.uri and rewrite.uri_regex_rewrite is not None:
            checks.error(path, "only one of uri, uriRegexRewrite may be set")
        if not (rewrite.uri or rewrite.authority or rewrite.uri_regex_rewrite):
            checks.error(path, "one of uri, authority, uriRegexRewrite is required")
        for field, value in (("uri", rewrite.uri), ("authority", rewrite.authority)):
            if any(ord(character) < 0x20 or character == "\x7f" for character in value):
                checks.error(f"{path}.{field}", "must not contain line breaks or control characters")
        regex = rewrite.uri_regex_rewrite
        if regex is not None:
            checks.regex(f"{path}.uriRegexRewrite.match", regex.match)
            if not regex.rewrite:
                checks.error(f"{path}.uriRegexRewrite.rewrite", "is required")
            elif not regex_fault(regex.match) and (reason := substitution_fault(regex.match, regex.rewrite)):
                checks.error(f"{path}.uriRegexRewrite.rewrite", reason)
    request = route.headers.request if route.headers else None
    authorities = [
        name for table in ((request.set, request.add) if request else ()) for name in table if is_authority(name)
    ]
    if len(authorities) + bool(rewrite and rewrite.authority) > 1:
        checks.error(path.removesuffix(".rewrite"), "the authority is set more than once; keep one")


def _is_patient(route: HTTPRoute) -> bool:
    retries = route.retries
    return route.delegate is None and retries is not None and retries.attempts > 0 and bool(retries.per_try_timeout)


def _retries(checks: Checks, path: str, retries: HTTPRetry | None) -> None:
    if retries is None:
        return
    checks.not_negative(f"{path}.attempts", retries.attempts)
    if retries.attempts == 0 and retries.model_fields_set - {"attempts"}:
        checks.error(path, "attempts is 0, which disables retries; remove the other fields or set attempts")
    checks.duration(f"{path}.perTryTimeout", retries.per_try_timeout, zero=True)
    checks.duration(f"{path}.backoff", retries.backoff)
    for token in filter(None, retries.retry_on.split(",")):
        if token.strip() not in RETRY_ON and token.strip() not in _STATUS_CODES:
            checks.error(f"{path}.retryOn", f"{token!r} is not a retry condition; known: {', '.join(sorted(RETRY_ON))}")


def _l4_match(checks: Checks, path: str, match: TLSMatchAttributes | L4MatchAttributes) -> None:
    _subnets(checks, f"{path}.destinationSubnets", match.destination_subnets)
    checks.labels(f"{path}.sourceLabels", match.source_labels)
    _gateways(checks, f"{path}.gateways", match.gateways)
    if match.source_namespace and not is_dns_label(match.source_namespace):
        checks.error(f"{path}.sourceNamespace", f"{match.source_namespace!r} is not a namespace")


def _l4_destinations(checks: Checks, path: str, destinations: Sequence[RouteDestination]) -> None:
    if not destinations:
        checks.error(path, "must have at least one destination")
    _destinations(checks, path, destinations)


def _subnets(checks: Checks, path: str, subnets: tuple[str, ...]) -> None:
    for index, subnet in enumerate(subnets):
        if not is_ip_or_cidr(subnet):
            checks.error(child(path, index), f"{subnet!r} is not an IP address or CIDR")

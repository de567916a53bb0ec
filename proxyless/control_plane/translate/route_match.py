"""VirtualService match conditions as Envoy's RouteMatch."""

from collections.abc import Iterator, Mapping

import re2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from proxyless.control_plane.discovery.service import selects
from proxyless.control_plane.resources.attached_rule import SegmentPrefix
from proxyless.control_plane.resources.base import StringMatch
from proxyless.control_plane.resources.virtual_service import MESH_GATEWAY, HTTPMatchRequest
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.matchers import is_presence, regex, string_matcher

# Istio's prefix for conditions on claims of a verified token; only gateways have those before routing.
_CLAIMS = "@request.auth.claims"
# For gRPC each of them doubles the routes.
_MOST_WITHOUT = 4


def applies(match: HTTPMatchRequest | None, scope: Scope, port: int) -> bool:
    """Whether a condition can be true at all for this client and port: what Istio decides before Envoy sees the route.

    sourceLabels and sourceNamespace are looked at only when the condition names no gateways.
    """
    if match is None:
        return True
    if match.port is not None and match.port != port:
        return False
    if match.gateways:
        return MESH_GATEWAY in match.gateways
    return selects(match.source_labels, scope.label_map) and match.source_namespace in ("", scope.namespace)


def route_match(match: HTTPMatchRequest | None, scope: Scope, notes: Notes, origin: str) -> rc.RouteMatch | None:
    """None: this client cannot evaluate the condition, so the route must not be sent: it would match too much."""
    if match is None:
        return rc.RouteMatch(prefix="/")
    if claims := [name for name in (*match.headers, *match.without_headers) if name.startswith(_CLAIMS)]:
        notes.add(f"{origin}: left out, {claims[0]} can be matched by gateways only")
        return None
    if match.query_params and scope.kind is ClientKind.GRPC:
        notes.add(f"{origin}: left out, gRPC cannot match query parameters")
        return None
    result = _path(match.uri, scope.kind)
    result.case_sensitive.CopyFrom(BoolValue(value=not match.ignore_uri_case))
    result.headers.extend(_headers(match))
    for pseudo, condition in (
        (":method", match.method),
        (":authority", match.authority),
        (":scheme", match.scheme),
    ):
        if condition is not None:
            result.headers.append(_header(pseudo, condition))
    result.query_parameters.extend(_query(match.query_params))
    return result


def alternatives(match: rc.RouteMatch, kind: ClientKind, notes: Notes, origin: str) -> list[rc.RouteMatch]:
    """What a client must be sent for the one condition: for gRPC, which does not take a missing header for an empty one
    (gRFC A28), one match for the header's absence and one for its presence.
    """
    if kind is not ClientKind.GRPC:
        return [match]
    if sum(header.treat_missing_header_as_empty for header in match.headers) > _MOST_WITHOUT:
        notes.add(
            f"{origin}: more than {_MOST_WITHOUT} withoutHeaders, gRPC clients match only requests that have them"
        )
        return [match]
    return list(_alternatives(match))


def _alternatives(match: rc.RouteMatch) -> Iterator[rc.RouteMatch]:
    chosen = next((i for i, header in enumerate(match.headers) if header.treat_missing_header_as_empty), None)
    if chosen is None:
        yield match
        return
    present = rc.RouteMatch()
    present.CopyFrom(match)
    present.headers[chosen].treat_missing_header_as_empty = False
    yield from _alternatives(present)
    if not _takes_nothing(match.headers[chosen].string_match):
        absent = rc.RouteMatch()
        absent.CopyFrom(match)
        name = match.headers[chosen].name
        absent.headers[chosen].CopyFrom(rc.HeaderMatcher(name=name, present_match=True, invert_match=True))
        yield from _alternatives(absent)


def _takes_nothing(matcher: string_pb2.StringMatcher) -> bool:
    """Whether the empty text matches."""
    if matcher.HasField("safe_regex"):
        return re2.fullmatch(matcher.safe_regex.regex, "") is not None
    return not (matcher.exact or matcher.prefix)


def is_catch_all(match: rc.RouteMatch) -> bool:
    """Nothing gets past such a route, so those after it are not sent (Istio)."""
    everything = match.prefix == "/" or match.safe_regex.regex == ".*"
    return everything and not (match.headers or match.query_parameters or match.HasField("runtime_fraction"))


def _path(uri: StringMatch | None, kind: ClientKind) -> rc.RouteMatch:
    if uri is None or uri.is_presence:
        return rc.RouteMatch(prefix="/")
    if isinstance(uri, SegmentPrefix) and uri.prefix:
        # gRPC does not have it (gRFC A28).
        if kind is ClientKind.GRPC:
            return rc.RouteMatch(safe_regex=regex(f"{re2.escape(uri.prefix)}(?:/.*)?"))
        return rc.RouteMatch(path_separated_prefix=uri.prefix)
    if uri.exact is not None:
        return rc.RouteMatch(path=uri.exact)
    if uri.prefix is not None:
        return rc.RouteMatch(prefix=uri.prefix or "/")
    return rc.RouteMatch(safe_regex=regex(uri.regex or ""))


def _headers(match: HTTPMatchRequest) -> list[rc.HeaderMatcher]:
    found = [_header(name, condition) for name, condition in match.headers.items()]
    for name, condition in match.without_headers.items():
        without = _header(name, condition)
        without.invert_match = True
        # Envoy refuses it beside a presence match.
        without.treat_missing_header_as_empty = not is_presence(condition)
        found.append(without)
    return sorted(found, key=lambda header: (header.name, header.invert_match))


def _header(name: str, condition: StringMatch) -> rc.HeaderMatcher:
    if is_presence(condition):
        return rc.HeaderMatcher(name=name.lower(), present_match=True)
    return rc.HeaderMatcher(name=name.lower(), string_match=string_matcher(condition))


def _query(params: Mapping[str, StringMatch]) -> list[rc.QueryParameterMatcher]:
    return [
        rc.QueryParameterMatcher(name=name, present_match=True)
        if is_presence(condition)
        else rc.QueryParameterMatcher(name=name, string_match=string_matcher(condition))
        for name, condition in sorted(params.items())
    ]

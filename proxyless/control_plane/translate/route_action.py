"""What a matched route does: forward, redirect, answer."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from proxyless.control_plane.resources.attached_rule import RuleRedirect
from proxyless.control_plane.resources.virtual_service import (
    Destination,
    HTTPDirectResponse,
    HTTPRedirect,
    HTTPRoute,
    HTTPRouteDestination,
    RedirectPortSelection,
)
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.header_operations import header_changes
from proxyless.control_plane.translate.matchers import fraction, regex
from proxyless.control_plane.translate.retry_policy import retry_policy

_REDIRECTS = {
    0: rc.RedirectAction.MOVED_PERMANENTLY,
    301: rc.RedirectAction.MOVED_PERMANENTLY,
    302: rc.RedirectAction.FOUND,
    303: rc.RedirectAction.SEE_OTHER,
    307: rc.RedirectAction.TEMPORARY_REDIRECT,
    308: rc.RedirectAction.PERMANENT_REDIRECT,
}
_DEFAULT_PORTS = {("http", 80), ("https", 443)}


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What forwarding needs to know of its surroundings.

    cluster_of: the name of a destination's cluster. hash_policy_of: what must be hashed for a cluster of that name.
    hedge: retry beside what is late.
    """

    cluster_of: Callable[[Destination], str]
    hash_policy_of: Callable[[str], rc.RouteAction.HashPolicy | None]
    kind: ClientKind
    notes: Notes
    origin: str
    hedge: bool


def set_timeout(action: rc.RouteAction, seconds: float, kind: ClientKind) -> None:
    """0 is no limit, which must be said: Envoy's own default is 15 s. gRPC reads max_stream_duration (gRFC A31)."""
    action.timeout.CopyFrom(duration(seconds))
    if kind is ClientKind.GRPC:
        action.max_stream_duration.max_stream_duration.CopyFrom(duration(seconds))
    elif kind is ClientKind.ENVOY and not seconds:
        # The caller's grpc-timeout counts, capped by nothing. Beside a timeout this would be instead of it: Envoy does
        # not look at ``timeout`` where there is a max_stream_duration.
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(seconds))


def redirect(asked: HTTPRedirect, port: int, notes: Notes, origin: str) -> rc.RedirectAction | None:
    """None for a code that Envoy does not have."""
    if asked.redirect_code not in _REDIRECTS:
        notes.add(f"{origin}: redirectCode {asked.redirect_code} is not one of 301, 302, 303, 307, 308")
        return None
    action = rc.RedirectAction(host_redirect=asked.authority, response_code=_REDIRECTS[asked.redirect_code])
    if asked.uri:
        action.path_redirect = asked.uri
    if asked.scheme:
        action.scheme_redirect = asked.scheme
    chosen = asked.port or (port if asked.derive_port is RedirectPortSelection.FROM_REQUEST_PORT else 0)
    if (asked.scheme or "http", chosen) not in _DEFAULT_PORTS:
        action.port_redirect = chosen
    if isinstance(asked, RuleRedirect):
        if asked.uri_regex_rewrite is not None:
            action.regex_rewrite.pattern.CopyFrom(regex(asked.uri_regex_rewrite.match))
            action.regex_rewrite.substitution = asked.uri_regex_rewrite.rewrite
        # The host that was requested has a port with it, which would stay.
        if not asked.authority and ("http", port) not in _DEFAULT_PORTS:
            action.port_redirect = chosen
    return action


def direct_response(asked: HTTPDirectResponse) -> rc.DirectResponseAction:
    action = rc.DirectResponseAction(status=asked.status)
    if asked.body is None:
        return action
    if asked.body.bytes is not None:
        try:
            content = base64.b64decode(asked.body.bytes, validate=True)
        except (binascii.Error, ValueError):
            content = b""
        action.body.CopyFrom(base_pb2.DataSource(inline_bytes=content))
    elif asked.body.string is not None:
        action.body.CopyFrom(base_pb2.DataSource(inline_string=asked.body.string))
    return action


def forward(route: rc.Route, http: HTTPRoute, around: Forwarding) -> None:
    """Fill ``route`` (whose header changes are already there) so that it forwards to the destinations of ``http``."""
    action = route.route
    set_timeout(action, http.timeout or 0.0, around.kind)
    authority = header_changes(http.headers).authority
    if http.rewrite is not None:
        if (rewrite := http.rewrite.uri_regex_rewrite) is not None and rewrite.match:
            action.regex_rewrite.pattern.CopyFrom(regex(rewrite.match))
            action.regex_rewrite.substitution = rewrite.rewrite
        elif http.rewrite.uri:
            action.prefix_rewrite = http.rewrite.uri
        authority = http.rewrite.authority or authority
    if authority:
        action.host_rewrite_literal = authority
    _mirrors(action, http, around)
    if len(http.route) == 1:
        # The weight of an only destination counts for nothing, 0 included.
        clusters = [_single(route, http.route[0], around)]
    else:
        weighted = [_weighted(one, around) for one in http.route if one.weight > 0]
        if not weighted:
            route.direct_response.CopyFrom(rc.DirectResponseAction(status=500))
            around.notes.add(f"{around.origin}: every destination has weight 0, requests are answered with 500")
            return
        action.weighted_clusters.clusters.extend(weighted)
        clusters = [one.name for one in weighted]
    policies = [policy for name in clusters if (policy := around.hash_policy_of(name)) is not None]
    # Several destinations may hash by the same thing; one policy says it once.
    action.hash_policy.extend(policy for index, policy in enumerate(policies) if policy not in policies[:index])
    if http.retries is not None and http.retries.retry_remote_localities and around.kind is not ClientKind.ENVOY:
        around.notes.add(f"{around.origin}: retries.retryRemoteLocalities left out, only Envoy does that")
    retries = retry_policy(http.retries, around.kind, sticky=bool(policies))
    if retries is not None:
        action.retry_policy.CopyFrom(retries)
        if around.hedge:
            action.hedge_policy.hedge_on_per_try_timeout = True


def _single(route: rc.Route, only: HTTPRouteDestination, around: Forwarding) -> str:
    action = route.route
    cluster = around.cluster_of(only.destination)
    action.cluster = cluster
    changes = header_changes(only.headers)
    route.request_headers_to_add.extend(changes.request_add)
    route.request_headers_to_remove.extend(changes.request_remove)
    route.response_headers_to_add.extend(changes.response_add)
    route.response_headers_to_remove.extend(changes.response_remove)
    if changes.authority and not action.WhichOneof("host_rewrite_specifier"):
        action.host_rewrite_literal = changes.authority
    return cluster


def _weighted(one: HTTPRouteDestination, around: Forwarding) -> rc.WeightedCluster.ClusterWeight:
    changes = header_changes(one.headers)
    return rc.WeightedCluster.ClusterWeight(
        name=around.cluster_of(one.destination),
        weight=UInt32Value(value=one.weight),
        request_headers_to_add=changes.request_add,
        request_headers_to_remove=changes.request_remove,
        response_headers_to_add=changes.response_add,
        response_headers_to_remove=changes.response_remove,
        host_rewrite_literal=changes.authority or None,
    )


def _mirrors(action: rc.RouteAction, http: HTTPRoute, around: Forwarding) -> None:
    wanted: list[tuple[Destination, float]] = []
    if http.mirror is not None:
        older = http.mirror_percent if http.mirror_percent is not None else http.mirror_percent_camel
        share = 100.0 if older is None else float(older)
        wanted.append((http.mirror, http.mirror_percentage.value if http.mirror_percentage else share))
    wanted += [(one.destination, one.percentage.value if one.percentage else 100.0) for one in http.mirrors]
    wanted = [(destination, share) for destination, share in wanted if share > 0]
    if wanted and around.kind is ClientKind.GRPC:
        around.notes.add(f"{around.origin}: mirroring left out, {around.kind.value} clients do not mirror")
        return
    for destination, share in wanted:
        action.request_mirror_policies.add(
            cluster=around.cluster_of(destination),
            runtime_fraction=base_pb2.RuntimeFractionalPercent(default_value=fraction(share)),
            trace_sampled=BoolValue(value=False),
            # Istio's default since 1.28: a copy has the host of its request.
            disable_shadow_host_suffix_append=True,
        )

"""The Gateway API's GRPCRoute (gateway.networking.k8s.io), field for field.

Source: https://gateway-api.sigs.k8s.io/reference/spec/#grpcroute
"""

from proxyless.control_plane.resources.base import Int32, Spec, Text
from proxyless.control_plane.resources.gateway_route import (
    BackendObjectReference,
    CommonRouteSpec,
    GRPCRouteFilter,
    HTTPHeaderMatch,
    MatchType,
    SessionPersistence,
)


class GRPCMethodMatch(Spec):
    """At least one of the two; what is absent or empty is any."""

    type: MatchType = MatchType.EXACT
    service: Text = ""
    method: Text = ""


class GRPCRouteMatch(Spec):
    method: GRPCMethodMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()


class GRPCBackendRef(BackendObjectReference):
    weight: Int32 = 1
    filters: tuple[GRPCRouteFilter, ...] = ()


class GRPCRouteRule(Spec):
    """Without matches every call matches."""

    name: Text = ""
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[GRPCRouteFilter, ...] = ()
    backend_refs: tuple[GRPCBackendRef, ...] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(CommonRouteSpec):
    rules: tuple[GRPCRouteRule, ...] = ()

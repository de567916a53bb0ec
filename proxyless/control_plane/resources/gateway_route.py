"""What HTTPRoute and GRPCRoute of the Gateway API share (gateway.networking.k8s.io), field for field.

Source: https://gateway-api.sigs.k8s.io/reference/spec/
"""

from enum import StrEnum

from proxyless.control_plane.resources.base import Duration, Int32, Port, Spec, Text

GATEWAY_API = "gateway.networking.k8s.io"
# Kubernetes' own group is the empty one; the Gateway API's documentation also writes it so.
CORE_GROUPS = frozenset({"", "core"})


class ParentReference(Spec):
    """What a route is attached to. namespace: empty for the route's own. section_name: a Service's port by its name."""

    group: Text = GATEWAY_API
    kind: Text = "Gateway"
    namespace: Text = ""
    name: Text
    section_name: Text = ""
    port: Port | None = None

    @property
    def is_service(self) -> bool:
        return self.kind == "Service" and self.group in CORE_GROUPS


class BackendObjectReference(Spec):
    group: Text = ""
    kind: Text = "Service"
    namespace: Text = ""
    name: Text
    port: Port | None = None

    @property
    def is_service(self) -> bool:
        return self.kind == "Service" and self.group in CORE_GROUPS


class MatchType(StrEnum):
    """Of headers, query parameters and gRPC methods."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class HTTPHeaderMatch(Spec):
    """Also of a query parameter, which has the same fields, and of a gRPC header."""

    type: MatchType = MatchType.EXACT
    name: Text
    value: Text


class HTTPHeader(Spec):
    name: Text
    value: Text


class HTTPHeaderFilter(Spec):
    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[Text, ...] = ()


class Fraction(Spec):
    numerator: Int32
    denominator: Int32 = 100


class HTTPRequestMirrorFilter(Spec):
    """percent, fraction: of the requests, at most one of the two; all without."""

    backend_ref: BackendObjectReference
    percent: Int32 | None = None
    fraction: Fraction | None = None


class LocalObjectReference(Spec):
    group: Text
    kind: Text
    name: Text


class GRPCFilterType(StrEnum):
    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    EXTENSION_REF = "ExtensionRef"


class GRPCRouteFilter(Spec):
    """The field that ``type`` names is there, and no other."""

    type: GRPCFilterType
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    extension_ref: LocalObjectReference | None = None


class CookieConfig(Spec):
    lifetime_type: Text = ""


class SessionPersistence(Spec):
    session_name: Text = ""
    absolute_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    type: Text = ""
    cookie_config: CookieConfig | None = None


class CommonRouteSpec(Spec):
    parent_refs: tuple[ParentReference, ...] = ()
    use_default_gateways: Text = ""
    hostnames: tuple[Text, ...] = ()

"""The Gateway API's HTTPRoute (gateway.networking.k8s.io), field for field.

Source: https://gateway-api.sigs.k8s.io/reference/spec/#httproute
"""

from enum import StrEnum

from proxyless.control_plane.resources.base import Boolean, Duration, Int32, Port, Spec, Text
from proxyless.control_plane.resources.gateway_route import (
    BackendObjectReference,
    CommonRouteSpec,
    HTTPHeaderFilter,
    HTTPHeaderMatch,
    HTTPRequestMirrorFilter,
    LocalObjectReference,
    SessionPersistence,
)


class PathMatchType(StrEnum):
    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


class HTTPPathMatch(Spec):
    """A prefix is one of whole segments: ``/a`` matches ``/a`` and ``/a/b``, not ``/ab``."""

    type: PathMatchType = PathMatchType.PATH_PREFIX
    value: Text = "/"


class HTTPMethod(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class HTTPRouteMatch(Spec):
    """All conditions must hold."""

    path: HTTPPathMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()
    query_params: tuple[HTTPHeaderMatch, ...] = ()
    method: HTTPMethod | None = None


class PathModifierType(StrEnum):
    FULL_PATH = "ReplaceFullPath"
    PREFIX_MATCH = "ReplacePrefixMatch"


class HTTPPathModifier(Spec):
    type: PathModifierType
    replace_full_path: Text | None = None
    replace_prefix_match: Text | None = None


class HTTPRequestRedirectFilter(Spec):
    """What is absent stays as it was requested; without a port but with a scheme, the port is the scheme's."""

    scheme: Text = ""
    hostname: Text = ""
    path: HTTPPathModifier | None = None
    port: Port | None = None
    status_code: Int32 = 302


class HTTPURLRewriteFilter(Spec):
    hostname: Text = ""
    path: HTTPPathModifier | None = None


class HTTPCORSFilter(Spec):
    """max_age: seconds, also in YAML."""

    allow_origins: tuple[Text, ...] = ()
    allow_credentials: Boolean | None = None
    allow_methods: tuple[Text, ...] = ()
    allow_headers: tuple[Text, ...] = ()
    expose_headers: tuple[Text, ...] = ()
    max_age: Int32 = 5


class HTTPFilterType(StrEnum):
    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"
    CORS = "CORS"
    EXTENSION_REF = "ExtensionRef"


class HTTPRouteFilter(Spec):
    """The field that ``type`` names is there, and no other."""

    type: HTTPFilterType
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None
    cors: HTTPCORSFilter | None = None
    extension_ref: LocalObjectReference | None = None


class HTTPBackendRef(BackendObjectReference):
    weight: Int32 = 1
    filters: tuple[HTTPRouteFilter, ...] = ()


class HTTPRouteTimeouts(Spec):
    """Seconds; absent or 0 is no limit. request: of all attempts together. backend_request: of one."""

    request: Duration | None = None
    backend_request: Duration | None = None


class HTTPRouteRetry(Spec):
    """attempts: beside the first try. backoff: seconds. codes: HTTP statuses to try again for."""

    codes: tuple[Int32, ...] = ()
    attempts: Int32 | None = None
    backoff: Duration | None = None


class HTTPRouteRule(Spec):
    """Without matches every request matches."""

    name: Text = ""
    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[HTTPBackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts | None = None
    retry: HTTPRouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class HTTPRouteSpec(CommonRouteSpec):
    # Without rules there is one that takes everything and sends it nowhere.
    rules: tuple[HTTPRouteRule, ...] = (HTTPRouteRule(),)

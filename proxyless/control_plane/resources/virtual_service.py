"""Istio's VirtualService (networking.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/networking/virtual-service/
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from proxyless.control_plane.resources.base import (
    Boolean,
    Duration,
    Int32,
    Percent,
    Port,
    PortSelector,
    Spec,
    StringMatch,
    Text,
    UInt32,
    one_of,
)

# The reserved name of a gateway that stands for every client inside the mesh.
MESH_GATEWAY = "mesh"


class Destination(Spec):
    host: Text
    subset: Text = ""
    port: PortSelector | None = None


class Delegate(Spec):
    name: Text = ""
    namespace: Text = ""


class HeaderOperations(Spec):
    set: Mapping[Text, Text] = {}
    add: Mapping[Text, Text] = {}
    remove: tuple[Text, ...] = ()


class Headers(Spec):
    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Spec):
    """All conditions must hold. A header or query parameter with an empty match asks for presence."""

    name: Text = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[Text, StringMatch] = {}
    port: Port | None = None
    source_labels: Mapping[Text, Text] = {}
    gateways: tuple[Text, ...] = ()
    query_params: Mapping[Text, StringMatch] = {}
    ignore_uri_case: Boolean = False
    without_headers: Mapping[Text, StringMatch] = {}
    source_namespace: Text = ""
    stat_prefix: Text = ""


class HTTPRouteDestination(Spec):
    destination: Destination
    weight: Int32 = 0
    headers: Headers | None = None


class RedirectPortSelection(StrEnum):
    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


class HTTPRedirect(Spec):
    """redirect_code: 0 is unset, which means 301."""

    uri: Text = ""
    authority: Text = ""
    port: Port | None = None
    derive_port: RedirectPortSelection | None = None
    scheme: Text = ""
    redirect_code: UInt32 = 0

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "port", "derive_port")
        return self


class HTTPBody(Spec):
    """bytes: base64, as protobuf's JSON form has it."""

    string: Text | None = None
    bytes: Text | None = None

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "string", "bytes")
        return self


class HTTPDirectResponse(Spec):
    status: UInt32
    body: HTTPBody | None = None


class RegexRewrite(Spec):
    """match: RE2. rewrite: may name capture groups as ``\\1``."""

    match: Text = ""
    rewrite: Text = ""


class HTTPRewrite(Spec):
    uri: Text = ""
    authority: Text = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Spec):
    """attempts: retries beside the first try; 0 disables retries. per_try_timeout, backoff: seconds."""

    attempts: Int32 = 0
    per_try_timeout: Duration | None = None
    retry_on: Text = ""
    retry_remote_localities: Boolean | None = None
    retry_ignore_previous_hosts: Boolean | None = None
    backoff: Duration | None = None


class Delay(Spec):
    """fixed_delay: seconds. Without ``percentage`` (and the deprecated ``percent``) no request is delayed."""

    percent: Int32 = 0
    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None
    percentage: Percent | None = None

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "fixed_delay", "exponential_delay")
        return self


class Abort(Spec):
    """grpc_status: a name such as UNAVAILABLE. Without ``percentage`` no request is aborted."""

    http_status: Int32 | None = None
    grpc_status: Text | None = None
    http2_error: Text | None = None
    percentage: Percent | None = None

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "http_status", "grpc_status", "http2_error")
        return self


class HTTPFaultInjection(Spec):
    delay: Delay | None = None
    abort: Abort | None = None


class HTTPMirrorPolicy(Spec):
    destination: Destination
    percentage: Percent | None = None


class UnmatchedPreflights(StrEnum):
    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class CorsPolicy(Spec):
    allow_origin: tuple[Text, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[Text, ...] = ()
    allow_headers: tuple[Text, ...] = ()
    expose_headers: tuple[Text, ...] = ()
    max_age: Duration | None = None
    allow_credentials: Boolean | None = None
    unmatched_preflights: UnmatchedPreflights = UnmatchedPreflights.UNSPECIFIED


class HTTPRoute(Spec):
    """timeout: seconds; absent or 0 is no limit."""

    name: Text = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    # Both spellings are in Istio's own CRD.
    mirror_percent: UInt32 | None = Field(default=None, alias="mirror_percent")
    mirror_percent_camel: UInt32 | None = Field(default=None, alias="mirrorPercent")
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class L4MatchAttributes(Spec):
    destination_subnets: tuple[Text, ...] = ()
    port: Port | None = None
    source_subnet: Text = ""
    source_labels: Mapping[Text, Text] = {}
    gateways: tuple[Text, ...] = ()
    source_namespace: Text = ""


class TLSMatchAttributes(Spec):
    sni_hosts: tuple[Text, ...]
    destination_subnets: tuple[Text, ...] = ()
    port: Port | None = None
    source_labels: Mapping[Text, Text] = {}
    gateways: tuple[Text, ...] = ()
    source_namespace: Text = ""


class RouteDestination(Spec):
    destination: Destination
    weight: Int32 = 0


class TCPRoute(Spec):
    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TLSRoute(Spec):
    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Spec):
    """gateways: absent means ``mesh``. export_to: absent means every namespace."""

    hosts: tuple[Text, ...] = ()
    gateways: tuple[Text, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[Text, ...] = ()

"""Worlds of configuration that our validation accepts, of every kind that it reads."""

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

from hypothesis import strategies as st
from schema_strategies import Hints, message

from proxyless.control_plane.configuration.settings import mesh_settings
from proxyless.control_plane.resources import authorization_policy as ap
from proxyless.control_plane.resources import destination_rule as dr
from proxyless.control_plane.resources import gateway_route as gr
from proxyless.control_plane.resources import grpc_route as grpc
from proxyless.control_plane.resources import http_route as hr
from proxyless.control_plane.resources import request_authentication as ra
from proxyless.control_plane.resources import service as svc
from proxyless.control_plane.resources import service_entry as se
from proxyless.control_plane.resources import sidecar as sc
from proxyless.control_plane.resources import virtual_service as vs
from proxyless.control_plane.resources.base import (
    NetworkingWorkloadSelector,
    PolicyTargetReference,
    PortSelector,
    StringMatch,
    WorkloadSelector,
)
from proxyless.control_plane.resources.kinds import KINDS, Kind
from proxyless.control_plane.resources.parse import document_of
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.peer_authentication import PeerAuthenticationSpec
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.server_tls import ServerTLSSettings
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec
from proxyless.control_plane.world import KeySet, MeshSettings, World
from proxyless.model.workload import Workload

Document = dict[str, Any]

NAMES = ("reviews", "ratings", "details", "books", "stock", "carts")
HOSTS = (*NAMES, *NAMES, "reviews.default.svc.cluster.local", "ratings.other", "api.example.com", "nobody")
WILDCARDS = ("*.example.com", "*.wild.example.org")
PORTS = (80, 81, 443, 9080)
# Of services whose connections are not HTTP: TCP and TLS.
L4_PORTS = (9080, 9443)
# What clients of these worlds dial.
TARGETS = tuple(f"{host}:{port}" for host in NAMES for port in (80, 81))

_one = st.sampled_from
_label_values = _one(["reviews", "ratings", "v1", "v2", ""])
_labels = st.dictionaries(_one(["app", "version", "topology.kubernetes.io/zone"]), _label_values, max_size=2)
_namespaces = _one(["default", "other"])
_regexes = _one([".*", "a|b", "/r/(.*)", "[a-z]+", "^x$", "(?i)case", "\\d{1,50}", "(a(b(c)))", "\\pL", "x{0,200}"])
_texts = st.one_of(_one(["GET", "/x", "http", "%", "a b", "é", "\"'\\"]), st.text(min_size=1, max_size=8))
_match = st.one_of(
    _texts.map(lambda text: {"exact": text}),
    _texts.map(lambda text: {"prefix": text}),
    _regexes.map(lambda text: {"regex": text}),
)
_match_or_presence = st.one_of(_match, st.just({}))
_header_names = st.one_of(
    _one(["x-a", "X-Mixed-Case", "cookie", "content-type", "te", "grpc-timeout", "x-envoy-retry-on", "connection"]),
    st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,5}\Z", fullmatch=True),
)
_matched_headers = st.dictionaries(
    st.one_of(_header_names, _one([":path", ":authority", ":method", ":scheme", "host"])),
    _match_or_presence,
    max_size=3,
)
_header_values = st.one_of(
    _one(["", "v", "100%%", "%PROTOCOL%", "%REQ(x-a)%", "%REQ(:authority?host):5%", "%START_TIME(%s)%", "%UNKNOWN%"]),
    _one(["%DOWNSTREAM_REMOTE_ADDRESS%", "%DYNAMIC_METADATA(a:b)%", "%REQ(%", "%%%", "%RESPONSE_CODE% and more"]),
    st.text(max_size=6),
)
_changed_headers = st.dictionaries(st.one_of(_header_names, _one(["host", ":authority"])), _header_values, max_size=2)
_paths = _one(["/", "/x", "/r/%20", "/a?b=c", "relative", "/é"])
_authorities = _one(["other", "other:81", "api.example.com", "a b", "é"])
_sans = st.lists(_one(["spiffe://cluster.local/ns/default/sa/a", "api.example.com"]), max_size=2)
_export_to = st.lists(_one([".", "*", "default", "other"]), max_size=2, unique=True)
_subsets = _one(["", "v1", "v2", "v9"])
_weights = _one([0, 1, 50, 100, 2**31 - 1])
_gateways = _one([[], ["mesh"], ["gateway"], ["mesh", "default/gateway"]])
_localities = _one(["", "r", "r/z", "r/z/s", "other/*"])
_addresses = _one(["10.0.0.1", "127.0.0.1", "::1", "vm.example.com", "unix:///run/x.sock"])
_port_names = _one(["http", "grpc", "tcp", "https", "tls", "http2", "a"])
_percentages = _one([{}, {"value": 0}, {"value": 0.0001}, {"value": 33.3}, {"value": 100}])
_principals = _one(["*", "cluster.local/ns/default/sa/a", "td/ns/default/*", "*/sa/a.b", "*(", "spiffe://x/ns/y/sa/z"])
_token_principals = _one(["*", "issuer/subject", "https://i/*", "*/s", "*i/s", "*s", "i*", "i/s*", "/", "é"])
_namespace_names = _one(["default", "*", "a*", "*b*", "a.b", "(", "[a"])
_service_accounts = _one(["a", "default/a", "a.b/c(d", "é"])
_networks = _one(["10.0.0.1", "10.0.0.0/8", "10.1.2.3/8", "::1", "::/0", "0.0.0.0/0", "::ffff:10.0.0.1"])
_port_texts = _one(["0", "80", "9080", "65535"])
_policy_paths = _one(
    [
        "/",
        "/x",
        "/x*",
        "*.js",
        "*",
        "/a?b",
        "/é",
        "/{*}",
        "/a/{*}/b/{**}",
        "/{**}",
        "/{**}/end",
        "/{*}.m4s",
        "/a.b(/{*}",
    ]
)
_policy_values = st.one_of(_one(["*", "a", "a*", "*a", "*a*", "A.example:80"]), st.text(min_size=1, max_size=6))
_attributes = st.one_of(
    _one(sorted(ap.ATTRIBUTES)),
    _one(["request.headers[x-a]", "request.headers[X-Mixed]", "request.headers[:path]", "request.headers[grpc-x]"]),
    _one(["request.auth.claims[a]", "request.auth.claims[a][b]", "request.auth.claims[a[b]]"]),
    _one(["experimental.envoy.filters.http.x[y]"]),
)
_CONDITION_VALUES = {
    "source.ip": _networks,
    "remote.ip": _networks,
    "destination.ip": _networks,
    "destination.port": _port_texts,
    "source.serviceAccount": _service_accounts,
    "source.namespace": _namespace_names,
    "source.principal": _principals,
}
_KEY = (
    '{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", '
    '"y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}'
)
_KEY_SETS = [_KEY, f'{{"keys": [{_KEY}]}}', f'{{"keys": [{{"kty": "new"}}, {_KEY}]}}', '{"kty": "oct", "k": "AQIDBA"}']


def _condition(key: str) -> st.SearchStrategy[dict[str, Any]]:
    values = st.lists(_CONDITION_VALUES.get(key, _policy_values), min_size=1, max_size=2)
    return st.tuples(_one(["values", "notValues"]), values).map(lambda pair: {"key": key, pair[0]: pair[1]})


def _many(strategy: st.SearchStrategy[Any], least: int = 0, most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=least, max_size=most)


def _filters(model: type[hr.HTTPRouteFilter | gr.GRPCRouteFilter]) -> st.SearchStrategy[Document]:
    """One with the field that its type names."""
    types: Any = model.model_fields["type"].annotation
    fields = {name: each for name, each in model.model_fields.items() if name != "type"}

    def of(kind: str) -> st.SearchStrategy[Document]:
        (name,) = [name for name in fields if name.replace("_", "") == kind.lower()]
        part = get_args(fields[name].annotation)[0]
        return st.deferred(lambda: message(part, HINTS)).map(lambda found: {"type": kind, fields[name].alias: found})

    return st.one_of([of(kind.value) for kind in types])


FIELDS: dict[tuple[type[Any], str], st.SearchStrategy[Any]] = {
    (StringMatch, "exact"): _texts,
    (StringMatch, "prefix"): _texts,
    (StringMatch, "regex"): _regexes,
    (PortSelector, "number"): _one(PORTS),
    (WorkloadSelector, "match_labels"): _labels,
    # VirtualService
    (vs.Destination, "host"): _one(HOSTS),
    (vs.Destination, "subset"): _subsets,
    (vs.Delegate, "name"): _one(NAMES),
    (vs.Delegate, "namespace"): _namespaces,
    (vs.HeaderOperations, "set"): _changed_headers,
    (vs.HeaderOperations, "add"): _changed_headers,
    (vs.HeaderOperations, "remove"): _many(_header_names),
    (vs.HTTPMatchRequest, "name"): _one(["", "m", "é"]),
    (vs.HTTPMatchRequest, "uri"): st.one_of(_match, _paths.map(lambda path: {"prefix": path})),
    (vs.HTTPMatchRequest, "scheme"): _match,
    (vs.HTTPMatchRequest, "method"): _match,
    (vs.HTTPMatchRequest, "authority"): _match,
    (vs.HTTPMatchRequest, "headers"): _matched_headers,
    (vs.HTTPMatchRequest, "without_headers"): _matched_headers,
    (vs.HTTPMatchRequest, "query_params"): st.dictionaries(_texts, _match_or_presence, max_size=2),
    (vs.HTTPMatchRequest, "source_labels"): _labels,
    (vs.HTTPMatchRequest, "source_namespace"): _namespaces,
    (vs.HTTPMatchRequest, "gateways"): _gateways,
    (vs.HTTPMatchRequest, "port"): _one(PORTS),
    (vs.HTTPMatchRequest, "stat_prefix"): _one(["", "p", "a.b"]),
    (vs.HTTPRouteDestination, "weight"): _weights,
    (vs.HTTPRedirect, "uri"): _paths,
    (vs.HTTPRedirect, "authority"): _authorities,
    (vs.HTTPRedirect, "scheme"): _one(["http", "https"]),
    (vs.HTTPRedirect, "redirect_code"): _one([0, 301, 302, 303, 307, 308]),
    (vs.HTTPBody, "string"): st.text(max_size=5),
    (vs.HTTPBody, "bytes"): _one(["", "aGk=", "AP8="]),
    (vs.HTTPDirectResponse, "status"): _one([200, 204, 404, 503, 599]),
    (vs.RegexRewrite, "match"): _regexes,
    (vs.RegexRewrite, "rewrite"): _one(["/", "\\1", "\\9", "\\\\", "a b", "\\0", "/é"]),
    (vs.HTTPRewrite, "uri"): _paths,
    (vs.HTTPRewrite, "authority"): _authorities,
    (vs.HTTPRetry, "attempts"): _one([1, 3, 2**31 - 1]),
    (vs.HTTPRetry, "retry_on"): _one(["", "5xx", "unavailable,cancelled", "503", "5xx,429", "gateway-error, reset"]),
    (vs.Delay, "percent"): _one([0, 1, 100]),
    (vs.Abort, "http_status"): _one([200, 418, 599]),
    (vs.Abort, "grpc_status"): _one(["OK", "UNAVAILABLE", "ABORTED"]),
    (vs.CorsPolicy, "allow_origin"): _many(_texts),
    (vs.CorsPolicy, "allow_origins"): _many(_match),
    (vs.CorsPolicy, "allow_methods"): _many(_texts),
    (vs.CorsPolicy, "allow_headers"): _many(_texts),
    (vs.CorsPolicy, "expose_headers"): _many(_texts),
    (vs.HTTPRoute, "mirror_percent"): _one([0, 1, 100]),
    (vs.HTTPRoute, "mirror_percent_camel"): _one([0, 1, 100]),
    (vs.HTTPMirrorPolicy, "percentage"): _percentages,
    (vs.HTTPRoute, "mirror_percentage"): _percentages,
    (vs.HTTPRoute, "name"): _one(["", "r", "é", "a.b"]),
    (vs.RouteDestination, "weight"): _weights,
    (vs.L4MatchAttributes, "destination_subnets"): _many(_one(["10.0.0.0/8", "10.0.0.1", "::/0"])),
    (vs.L4MatchAttributes, "source_labels"): _labels,
    (vs.L4MatchAttributes, "port"): _one([80, *L4_PORTS]),
    (vs.L4MatchAttributes, "gateways"): _gateways,
    (vs.L4MatchAttributes, "source_namespace"): _namespaces,
    (vs.TLSMatchAttributes, "sni_hosts"): _many(_one([*HOSTS, *WILDCARDS]), 1),
    (vs.TLSMatchAttributes, "destination_subnets"): _many(_one(["10.0.0.0/8", "10.0.0.1", "::/0"])),
    (vs.TLSMatchAttributes, "source_labels"): _labels,
    (vs.TLSMatchAttributes, "port"): _one([443, *L4_PORTS]),
    (vs.TLSMatchAttributes, "gateways"): _gateways,
    (vs.TLSMatchAttributes, "source_namespace"): _namespaces,
    (vs.VirtualServiceSpec, "hosts"): st.one_of(
        st.lists(_one(NAMES), min_size=1, max_size=1),
        st.lists(_one([*HOSTS, *WILDCARDS, "10.0.0.1"]), min_size=1, max_size=2),
    ),
    (vs.VirtualServiceSpec, "gateways"): _gateways,
    (vs.VirtualServiceSpec, "export_to"): _export_to,
    # DestinationRule
    (dr.HTTPCookie, "name"): _one(["c", "a b", "é", "session-id"]),
    (dr.HTTPCookie, "path"): _one(["", "/", "x"]),
    (dr.HTTPCookieAttribute, "name"): _one(["SameSite", "Secure", "a b"]),
    (dr.HTTPCookieAttribute, "value"): _one(["", "Lax"]),
    (dr.ConsistentHashLB, "http_header_name"): _header_names,
    (dr.ConsistentHashLB, "http_query_parameter_name"): _texts,
    # The largest that are allowed keep an Envoy busy for minutes.
    (dr.ConsistentHashLB, "minimum_ring_size"): _one([0, 1, 1024, 2**32 - 1]),
    (dr.RingHash, "minimum_ring_size"): _one([0, 1, 1024, 8_388_609]),
    (dr.MagLev, "table_size"): _one([0, 1, 2, 4, 251, 65537, 5_000_077]),
    (dr.LocalityDistribute, "from_"): _localities,
    (dr.LocalityDistribute, "to"): _one([{"r": 100}, {"r/z": 99, "other/*": 1}, {"r": 0, "other": 100}]),
    (dr.LocalityFailover, "from_"): _one(["r", "other"]),
    (dr.LocalityFailover, "to"): _one(["r", "other", "third"]),
    (dr.WarmupConfiguration, "aggression"): _one([1, 1.5, 100]),
    (dr.OutlierDetection, "max_ejection_percent"): _one([0, 1, 100]),
    (dr.OutlierDetection, "min_health_percent"): _one([0, 1, 100]),
    (dr.ClientTLSSettings, "client_certificate"): _one(["/etc/cert.pem", ""]),
    (dr.ClientTLSSettings, "private_key"): _one(["/etc/key.pem", ""]),
    (dr.ClientTLSSettings, "ca_certificates"): _one(["", "system", "/etc/ca.pem"]),
    (dr.ClientTLSSettings, "sni"): st.one_of(_one(["", "api.example.com"]), st.text(max_size=5)),
    (dr.ClientTLSSettings, "subject_alt_names"): _sans,
    (dr.TunnelSettings, "protocol"): _one(["", "CONNECT", "POST"]),
    (dr.TunnelSettings, "target_host"): _one(HOSTS),
    (dr.TunnelSettings, "target_port"): _one(PORTS),
    (dr.Subset, "name"): _one(["v1", "v2"]),
    (dr.Subset, "labels"): _labels,
    (dr.DestinationRuleSpec, "host"): _one([*HOSTS, *WILDCARDS]),
    (dr.DestinationRuleSpec, "export_to"): _export_to,
    # Service, EndpointSlice
    (svc.ServicePort, "port"): _one(PORTS),
    (svc.ServicePort, "name"): _port_names,
    (svc.ServicePort, "protocol"): _one(["TCP", "UDP", "SCTP"]),
    (svc.ServicePort, "app_protocol"): _one(["", "http", "grpc", "kubernetes.io/h2c", "https", "tcp"]),
    (svc.ServiceSpec, "selector"): _labels,
    (svc.ServiceSpec, "cluster_ip"): _one(["", "None", "10.1.0.1"]),
    (svc.ServiceSpec, "external_name"): _one(["api.example.com", "x.example.org."]),
    (svc.EndpointSliceSpec, "address_type"): _one(["IPv4", "IPv4", "IPv6", "FQDN"]),
    (svc.Endpoint, "addresses"): _many(_one(["10.0.0.1", "10.0.0.2", "::1", "vm.example.com"]), 1, 2),
    (svc.EndpointPort, "name"): _port_names,
    # ServiceEntry, WorkloadEntry
    (se.ServicePort, "number"): _one(PORTS),
    (se.ServicePort, "name"): _port_names,
    (se.ServicePort, "protocol"): _one(["", "HTTP", "http", "GRPC", "HTTP2", "HTTPS", "TLS", "TCP", "UDP", "MONGO"]),
    (NetworkingWorkloadSelector, "labels"): _labels,
    (se.ServiceEntrySpec, "hosts"): st.lists(
        _one(["api.example.com", "b.example.com", *WILDCARDS]), min_size=1, max_size=2, unique=True
    ),
    (se.ServiceEntrySpec, "addresses"): _many(_one(["10.2.0.1", "10.3.0.0/16", "::2"])),
    (se.ServiceEntrySpec, "export_to"): _export_to,
    (se.ServiceEntrySpec, "subject_alt_names"): _sans,
    (WorkloadEntrySpec, "address"): _addresses,
    (WorkloadEntrySpec, "ports"): st.dictionaries(_port_names, _one(PORTS), max_size=2),
    (WorkloadEntrySpec, "labels"): _labels,
    (WorkloadEntrySpec, "locality"): _localities,
    (WorkloadEntrySpec, "weight"): _one([0, 1, 128, 1000, 2**32 - 1]),
    # HTTPRoute, GRPCRoute
    **{
        field: strategy
        for model in (gr.ParentReference, gr.BackendObjectReference, hr.HTTPBackendRef, grpc.GRPCBackendRef)
        for field, strategy in (
            ((model, "group"), st.just("")),
            ((model, "kind"), _one(["Service", "Service", "Service", "Other"])),
            ((model, "namespace"), _one(["default", "default", "other"])),
            ((model, "name"), _one([*NAMES, "nobody"])),
            ((model, "port"), _one([80, 80, 81, 9])),
            ((model, "section_name"), _one(["http", "grpc"])),
            ((model, "weight"), _one([0, 1, 50, 1_000_000])),
        )
        if field[1] in model.model_fields
    },
    (gr.HTTPHeaderMatch, "name"): _header_names,
    (gr.HTTPHeaderMatch, "value"): st.one_of(_texts, _regexes),
    (gr.HTTPHeader, "name"): _header_names,
    (gr.HTTPHeader, "value"): _header_values,
    (gr.HTTPHeaderFilter, "remove"): _many(_header_names),
    (hr.HTTPPathMatch, "value"): _one(["/", "/x", "/x/", "/r/%20", "/a?b=c", "/é", "/a.*", "/(a|b)/\\d+"]),
    (hr.HTTPRouteMatch, "query_params"): _many(
        st.fixed_dictionaries({"name": _texts, "value": _texts}, optional={"type": st.just("Exact")}), 1
    ),
    (hr.HTTPPathModifier, "replace_full_path"): _one(["/", "/x", "/\\1", "/é", "/%20?q"]),
    (hr.HTTPPathModifier, "replace_prefix_match"): _one(["", "/", "/x", "/x/", "/\\1"]),
    (hr.HTTPRequestRedirectFilter, "scheme"): _one(["http", "https"]),
    (hr.HTTPRequestRedirectFilter, "hostname"): _one(["other", "api.example.com"]),
    (hr.HTTPRequestRedirectFilter, "status_code"): _one([301, 302, 303, 307, 308]),
    (hr.HTTPURLRewriteFilter, "hostname"): _one(["other", "api.example.com"]),
    (hr.HTTPCORSFilter, "allow_origins"): _many(_one(["*", "https://*.example.com", "http://a:80"])),
    (hr.HTTPCORSFilter, "allow_methods"): _many(_one(["*", "GET"])),
    (hr.HTTPRouteRetry, "codes"): _many(_one([400, 429, 503])),
    (grpc.GRPCMethodMatch, "service"): _one(["a.B", ".a", "a|b", "[a-z]+"]),
    (grpc.GRPCMethodMatch, "method"): _one(["Get", "_x", "Get|Set"]),
    (hr.HTTPRouteSpec, "hostnames"): _many(_one(["a.example.com"])),
    (grpc.GRPCRouteSpec, "hostnames"): _many(_one(["a.example.com"])),
    **{(model, "filters"): _many(_filters(hr.HTTPRouteFilter)) for model in (hr.HTTPRouteRule, hr.HTTPBackendRef)},
    **{(model, "filters"): _many(_filters(gr.GRPCRouteFilter)) for model in (grpc.GRPCRouteRule, grpc.GRPCBackendRef)},
    # Sidecar: both judging Envoys bind these (they share ports, SO_REUSEPORT) at an address that nobody else uses.
    (sc.SidecarPort, "number"): _one([*L4_PORTS, 27080]),
    (sc.SidecarPort, "name"): _port_names,
    (sc.SidecarPort, "protocol"): _one(["HTTP", "HTTP2", "GRPC", "HTTPS", "TLS", "TCP", "MONGO", "HTTP_PROXY"]),
    (sc.IstioEgressListener, "bind"): st.just("127.0.0.27"),
    (sc.IstioEgressListener, "hosts"): _many(
        _one(["./*", "*/*", "~/*", "default/reviews.default.svc.cluster.local", "other/*", "*/api.example.com"]), 1, 2
    ),
    (sc.IstioIngressListener, "bind"): st.just("127.0.0.28"),
    (sc.IstioIngressListener, "default_endpoint"): _one(["127.0.0.1:9080", "unix:///tmp/app.sock"]),
    # Files that the judges have.
    (ServerTLSSettings, "server_certificate"): st.just("/etc/certs/cert.pem"),
    (ServerTLSSettings, "private_key"): st.just("/etc/certs/key.pem"),
    (ServerTLSSettings, "ca_certificates"): st.just("/etc/certs/ca.pem"),
    (ServerTLSSettings, "subject_alt_names"): _sans,
    # AuthorizationPolicy, RequestAuthentication
    (PolicyTargetReference, "group"): st.just("gateway.networking.k8s.io"),
    (PolicyTargetReference, "kind"): _one(["Gateway", "GatewayClass"]),
    (PolicyTargetReference, "name"): _one(NAMES),
    (PolicyTargetReference, "namespace"): st.just(""),
    **{
        (model, f"{negation}{field}"): _many(values, 1, 2)
        for model, fields in {
            ap.Source: {
                "principals": _principals,
                "request_principals": _token_principals,
                "namespaces": _namespace_names,
                "service_accounts": _service_accounts,
                "ip_blocks": _networks,
                "remote_ip_blocks": _networks,
            },
            ap.Operation: {
                "hosts": _policy_values,
                "ports": _port_texts,
                "methods": _policy_values,
                "paths": _policy_paths,
            },
        }.items()
        for field, values in fields.items()
        for negation in ("", "not_")
    },
    (ap.Rule, "from_"): _many(st.deferred(lambda: message(ap.From, HINTS)), 1, 2),
    (ap.Rule, "to"): _many(st.deferred(lambda: message(ap.To, HINTS)), 1, 2),
    (ap.Rule, "when"): _many(_attributes.flatmap(_condition), 1, 2),
    # Only with action CUSTOM, of which there is nothing else to see.
    (ap.AuthorizationPolicySpec, "provider"): st.none(),
    (ap.AuthorizationPolicySpec, "action"): _one(["ALLOW", "DENY", "AUDIT"]),
    (ap.AuthorizationPolicySpec, "rules"): _many(st.deferred(lambda: message(ap.Rule, HINTS)), 1, 3),
    (ra.JWTHeader, "name"): _header_names,
    (ra.JWTHeader, "prefix"): _one(["", "Bearer ", "T"]),
    (ra.ClaimToHeader, "header"): _header_names,
    (ra.ClaimToHeader, "claim"): _one(["sub", "a.b", "é"]),
    (ra.JWTRule, "issuer"): _one(["i", "https://issuer.example", "j"]),
    (ra.JWTRule, "audiences"): _many(_texts),
    (ra.JWTRule, "jwks"): _one(["", *_KEY_SETS]),
    (ra.JWTRule, "jwks_uri"): _one(["", "https://api.example.com/keys", "http://reviews/keys", "http://[::1]:81/"]),
    (ra.JWTRule, "from_params"): _many(_texts),
    (ra.JWTRule, "from_cookies"): _many(_texts),
    (ra.JWTRule, "output_payload_to_header"): st.one_of(st.just(""), _header_names),
    (ra.JWTRule, "space_delimited_claims"): _many(_texts),
}


# Without these little is valid.
ALWAYS = {
    (vs.VirtualServiceSpec, "hosts"),
    (vs.VirtualServiceSpec, "http"),
    (vs.HTTPRoute, "route"),
    (vs.HTTPRewrite, "authority"),
    (vs.Delay, "fixed_delay"),
    (vs.HTTPMatchRequest, "uri"),
    (vs.HTTPRetry, "attempts"),
    (dr.DestinationRuleSpec, "traffic_policy"),
    (dr.TrafficPolicy, "load_balancer"),
    (dr.PortTrafficPolicy, "port"),
    (dr.ConsistentHashLB, "use_source_ip"),
    (dr.TCPSettings, "max_connections"),
    (dr.HTTPSettings, "max_retries"),
    (dr.ConnectionPoolSettings, "http"),
    (svc.ServiceSpec, "ports"),
    (svc.ServicePort, "name"),
    (svc.EndpointPort, "name"),
    (se.ServiceEntrySpec, "hosts"),
    (se.ServiceEntrySpec, "ports"),
    (se.ServiceEntrySpec, "resolution"),
    (WorkloadEntrySpec, "address"),
    (PeerAuthenticationSpec, "selector"),
    (gr.ParentReference, "group"),
    (gr.ParentReference, "kind"),
    (gr.BackendObjectReference, "port"),
    (hr.HTTPBackendRef, "port"),
    (grpc.GRPCBackendRef, "port"),
    (hr.HTTPRouteSpec, "parent_refs"),
    (hr.HTTPRouteSpec, "rules"),
    (hr.HTTPRouteRule, "backend_refs"),
    (hr.HTTPRouteRule, "filters"),
    (grpc.GRPCRouteSpec, "parent_refs"),
    (grpc.GRPCRouteSpec, "rules"),
    (grpc.GRPCRouteRule, "backend_refs"),
    (grpc.GRPCRouteRule, "matches"),
    (sc.SidecarPort, "number"),
    (sc.SidecarPort, "protocol"),
    (sc.IstioEgressListener, "bind"),
    (sc.IstioEgressListener, "hosts"),
    (sc.IstioIngressListener, "bind"),
    (sc.IstioIngressListener, "default_endpoint"),
    (ServerTLSSettings, "server_certificate"),
    (ServerTLSSettings, "private_key"),
    (ServerTLSSettings, "ca_certificates"),
    (PolicyTargetReference, "name"),
    (PolicyTargetReference, "kind"),
    (PolicyTargetReference, "group"),
    (ap.From, "source"),
    (ap.To, "operation"),
    (ap.Source, "ip_blocks"),
    (ap.Operation, "paths"),
    (ap.AuthorizationPolicySpec, "rules"),
    (ra.JWTHeader, "name"),
    (ra.ClaimToHeader, "header"),
    (ra.ClaimToHeader, "claim"),
    (ra.JWTRule, "issuer"),
    (ra.RequestAuthenticationSpec, "jwt_rules"),
}


# One of each at most, or validation refuses the message around it.
EITHER = {
    vs.HTTPRoute: [("route", "redirect", "direct_response", "delegate")],
    vs.HTTPRedirect: [("port", "derive_port")],
    vs.HTTPBody: [("string", "bytes")],
    vs.HTTPRewrite: [("uri", "uri_regex_rewrite")],
    vs.Abort: [("http_status", "grpc_status", "http2_error")],
    vs.Delay: [("fixed_delay", "exponential_delay")],
    StringMatch: [("exact", "prefix", "regex")],
    dr.ConsistentHashLB: [
        ("http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name"),
        ("ring_hash", "maglev"),
    ],
    dr.LoadBalancerSettings: [("simple", "consistent_hash")],
    dr.LocalityLoadBalancerSetting: [("distribute", "failover"), ("distribute", "failover_priority")],
    se.ServiceEntrySpec: [("endpoints", "workload_selector")],
    ap.Source: [
        ("principals", "service_accounts"),
        ("principals", "not_service_accounts"),
        ("not_principals", "service_accounts"),
        ("not_principals", "not_service_accounts"),
        ("namespaces", "service_accounts"),
        ("namespaces", "not_service_accounts"),
        ("not_namespaces", "service_accounts"),
        ("not_namespaces", "not_service_accounts"),
    ],
    ap.AuthorizationPolicySpec: [("selector", "target_ref", "target_refs")],
    ra.RequestAuthenticationSpec: [("selector", "target_ref", "target_refs")],
}
HINTS = Hints(FIELDS, ALWAYS, EITHER)


def _document(kind: Kind) -> st.SearchStrategy[Document]:
    metadata = st.fixed_dictionaries(
        {"name": _one([*NAMES, *(f"{name}-2" for name in NAMES)])},
        optional={"namespace": _namespaces} if kind.namespaced else {},
    )
    if kind.name == "EndpointSlice":
        labelled = _one(NAMES).map(lambda name: {svc.SERVICE_NAME_LABEL: name})
        metadata = st.tuples(metadata, labelled).map(lambda pair: {**pair[0], "labels": pair[1]})
    return st.tuples(metadata, message(kind.spec, HINTS)).map(
        lambda pair: {
            "apiVersion": kind.api_versions[0],
            "kind": kind.name,
            "metadata": pair[0],
            **({kind.root: pair[1]} if kind.root else pair[1]),
        }
    )


def _mesh_config() -> st.SearchStrategy[Document]:
    return _one(["ALLOW_ANY", "REGISTRY_ONLY"]).map(
        lambda mode: {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": json.dumps({"outboundTrafficPolicy": {"mode": mode}})},
        }
    )


DOCUMENTS: dict[str, st.SearchStrategy[Document]] = {
    kind.name: _mesh_config() if kind.name == "ConfigMap" else _document(kind) for kind in KINDS.values()
}


def _about(kind: str, name: str) -> st.SearchStrategy[Document]:
    """A rule of a kind for one of the services."""
    field = {"VirtualService": {"hosts": [name]}, "DestinationRule": {"host": name}}[kind]
    return DOCUMENTS[kind].map(
        lambda document: {
            **document,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {**{key: value for key, value in document["spec"].items() if key != "exportTo"}, **field},
        }
    )


def _attached(kind: str, name: str) -> st.SearchStrategy[Document]:
    """A route of one of the services."""
    parent = {"group": "", "kind": "Service", "name": name}
    return DOCUMENTS[kind].map(
        lambda document: {
            **document,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {**document["spec"], "parentRefs": [parent]},
        }
    )


def _sidecar(document: Document, protocols: list[str]) -> Document:
    """Made to be the Sidecar of the judging Envoys, with an egress listener of each protocol that routes."""
    spec = {key: value for key, value in document["spec"].items() if key != "workloadSelector"}
    listeners = [
        {"port": {"number": port, "protocol": protocol, "name": "l4"}, "bind": "127.0.0.27", "hosts": ["*/*"]}
        for port, protocol in zip(L4_PORTS, protocols, strict=True)
    ]
    others = [one for one in spec.get("egress", ()) if one.get("port", {}).get("number") not in L4_PORTS]
    return {
        **document,
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {**spec, "egress": [*others, *listeners]},
    }


_sidecars = st.builds(
    _sidecar,
    DOCUMENTS["Sidecar"],
    st.tuples(_one(["TCP", "MONGO", "HTTP", "HTTP_PROXY"]), _one(["TLS", "HTTPS", "TCP"])).map(list),
)


def configurations() -> st.SearchStrategy[list[Document]]:
    """Rules for some services, whose effects are seen for sure, and some documents of any kind."""
    rules = [_about(kind, name) for name in NAMES[:3] for kind in ("VirtualService", "DestinationRule")]
    rules += [_attached("HTTPRoute", "books"), _attached("HTTPRoute", "carts"), _attached("GRPCRoute", "stock")]
    others = [_one(sorted(DOCUMENTS)).flatmap(DOCUMENTS.__getitem__)] * 3
    # Not always one, for it takes away most of what Envoys have otherwise.
    sidecar = st.one_of(st.just([]), st.just([]), _sidecars.map(lambda one: [one]))
    return st.tuples(st.tuples(*rules, *others), sidecar).map(lambda pair: [*pair[0], *pair[1]])


def policies() -> st.SearchStrategy[list[Document]]:
    """Policies that every workload of these worlds is subject to."""

    def for_all(document: Document) -> Document:
        spec = {key: value for key, value in document["spec"].items() if key not in _TARGETS}
        return {**document, "metadata": {"name": document["metadata"]["name"], "namespace": "default"}, "spec": spec}

    some = [DOCUMENTS[kind].map(for_all) for kind in ("AuthorizationPolicy", "AuthorizationPolicy")]
    return st.tuples(*some, DOCUMENTS["RequestAuthentication"].map(for_all), _sidecars).map(list)


# Of one of the URLs that token rules name.
_FETCHED = {"https://api.example.com/keys": KeySet('{"kty": "oct", "k": "AQIDBA"}')}
_TARGETS = frozenset({"selector", "targetRef", "targetRefs"})
_L4 = [{"name": name, "port": port} for name, port in zip(("tcp", "tls"), L4_PORTS, strict=True)]
_SERVICES = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80}, {"name": "grpc", "port": 81}, *more],
        },
    }
    for name, more in zip(NAMES, [_L4, _L4, [], [], [], []], strict=True)
]
_WORKLOADS = [
    Workload(
        f"{app}-{version}", "default", app, app, "127.0.0.1", {"http": 9, "grpc": 9}, {"app": app, "version": version}
    )
    for app, version in (("reviews", "v1"), ("reviews", "v2"), ("ratings", "v1"))
]


def repaired(document: Document) -> tuple[Document, Resource[Any] | None]:
    """Without the fields that validation refuses, as its errors name them; None if nothing valid is left."""
    document = copy.deepcopy(document)
    while True:
        read = document_of(document, "generated.yaml")
        errors = [problem for problem in read.problems if problem.level is Level.ERROR]
        if not errors:
            return document, read.resource
        if not all(_remove(document, "", problem.field) for problem in errors[:1]):
            return document, None


def _remove(value: Any, path: str, target: str) -> bool:
    """Take away the field at ``target``; where it is absent but required, what it is absent from."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(entries):
        here = child(path, key)
        if here == target:
            del value[key]
            return True
        if target.startswith((f"{here}.", f"{here}[")):
            if not _remove(item, here, target):
                del value[key]
            return True
    return False


def world(written: Iterable[Document], workloads: Iterable[Workload] = _WORKLOADS) -> World:
    """The world of what is valid in these documents, beside two services."""
    resources = {}
    for document in (*_SERVICES, *written):
        _, resource = repaired(document)
        if resource is not None:
            resources[resource.key] = resource
    settings = mesh_settings(resources, MeshSettings())
    return World(resources, {one.id: one for one in workloads}, settings, key_sets=_FETCHED)


def at_generation(made: World, generation: int) -> World:
    return replace(made, generation=generation)

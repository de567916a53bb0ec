"""Which fields this version does not act on: a valid field in this table is accepted and reported, never dropped.

The table is what shrinks when a feature arrives: remove the field's line here in the change that acts on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from proxyless.control_plane.resources import key_sets, schema
from proxyless.control_plane.resources.authorization_policy import (
    DRY_RUN,
    FILTERS,
    HEADERS,
    Action,
    AuthorizationPolicySpec,
    is_dry_run,
)
from proxyless.control_plane.resources.base import camel
from proxyless.control_plane.resources.destination_rule import DestinationRuleSpec, TLSMode, TrafficPolicy
from proxyless.control_plane.resources.gateway_route import GRPCRouteFilter
from proxyless.control_plane.resources.grpc_route import GRPCBackendRef, GRPCRouteRule, GRPCRouteSpec
from proxyless.control_plane.resources.http_route import HTTPBackendRef, HTTPRouteFilter, HTTPRouteRule, HTTPRouteSpec
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.request_authentication import RequestAuthenticationSpec
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.sidecar import CaptureMode, SidecarSpec
from proxyless.control_plane.resources.virtual_service import (
    MESH_GATEWAY,
    HTTPRoute,
    TCPRoute,
    TLSRoute,
    VirtualServiceSpec,
)
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec

CODE = "FieldNotActedOn"

_ENVOY = "only Envoy clients act on it"
_L4 = "only Envoy clients act on it, in tunnels and on the egress listeners of their Sidecar"
_TARGET = "gateways and waypoints are not served, and nothing else is a target: it acts nowhere"
_NOT_SENT = "calls are answered with 503 rather than sent with less security"
_POLICY: Mapping[str, str] = MappingProxyType(
    {
        "loadBalancer.consistentHash.useSourceIp": "library clients have no source address; Envoy clients act on it",
        "loadBalancer.warmup": _ENVOY,
        "loadBalancer.warmupDurationSecs": _ENVOY,
        "connectionPool.http.useClientProtocol": _ENVOY,
        "tls.clientCertificate": f"only Envoy clients act on it; in library clients {_NOT_SENT}",
        "tls.privateKey": f"only Envoy clients act on it; in library clients {_NOT_SENT}",
        "tls.caCertificates": f"library clients know the system's roots only; with others {_NOT_SENT}",
        "tls.credentialName": _NOT_SENT,
        "tls.caCrl": _NOT_SENT,
        "tls.insecureSkipVerify": "certificates are verified",
        "tunnel": "",
        "proxyProtocol": _ENVOY,
    }
)

_EXTENSION = "there are no such filters; requests of this rule are answered with"
_ROUTE: Mapping[str, str] = MappingProxyType(
    {
        "useDefaultGateways": "gateways are not served",
        "hostnames": "in the mesh the Service that is called chooses the route, not its hostnames",
        "rules.sessionPersistence": "use consistentHash of a DestinationRule",
    }
)

# PortTrafficPolicy does not have these.
_NOT_PER_PORT = frozenset({"proxyProtocol", "tunnel"})

# By kind: field path without list indexes -> what happens instead (may be empty).
NOT_ACTED_ON: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "VirtualService": {
            "spec.tls": _L4,
            "spec.tcp": _L4,
            "spec.tcp.match.sourceSubnet": "",
            "spec.http.corsPolicy": _ENVOY,
            "spec.http.retries.retryRemoteLocalities": _ENVOY,
            "spec.http.match.statPrefix": _ENVOY,
        },
        "HTTPRoute": {
            **{f"spec.{field}": note for field, note in _ROUTE.items()},
            "spec.rules.filters.cors": _ENVOY,
            "spec.rules.filters.extensionRef": f"{_EXTENSION} 500",
            "spec.rules.backendRefs.filters.extensionRef": f"{_EXTENSION} 500",
        },
        "GRPCRoute": {
            **{f"spec.{field}": note for field, note in _ROUTE.items()},
            "spec.rules.filters.extensionRef": f"{_EXTENSION} 503",
            "spec.rules.backendRefs.filters.extensionRef": f"{_EXTENSION} 503",
        },
        "DestinationRule": {
            f"{level}.{field}": note
            for policy in ("spec.trafficPolicy", "spec.subsets.trafficPolicy")
            for level in (policy, f"{policy}.portLevelSettings")
            for field, note in _POLICY.items()
            if level == policy or field not in _NOT_PER_PORT
        },
        "ServiceEntry": {
            "spec.addresses": "hosts are reached by name; Envoy clients tell them apart by address on those egress "
            "listeners of a Sidecar that are bound to 0.0.0.0 or ::",
            "spec.endpoints.network": "every network is one",
        },
        "Sidecar": {
            "spec.ingress": _ENVOY,
            "spec.ingress.tls.caCrl": "",
            "spec.inboundConnectionPool": _ENVOY,
            "spec.egress.bind": _ENVOY,
        },
        "AuthorizationPolicy": {"spec.targetRef": _TARGET, "spec.targetRefs": _TARGET},
        "RequestAuthentication": {"spec.targetRef": _TARGET, "spec.targetRefs": _TARGET},
        "WorkloadEntry": {"spec.network": "every network is one"},
        "Service": {
            "spec.externalIPs": "",
            "spec.internalTrafficPolicy": "",
            "spec.publishNotReadyAddresses": "endpoints that are not ready are not used",
            "spec.sessionAffinity": "",
            "spec.sessionAffinityConfig": "",
            "spec.trafficDistribution": "only PreferClose and PreferSameZone act",
        },
        "EndpointSlice": {
            "endpoints.deprecatedTopology": "use zone",
            "endpoints.hints": "endpoints of all zones are used alike",
        },
        "ConfigMap": {
            "data.mesh.trustDomain": "the trust domain is fixed when the certificate authority is created",
        },
    }
)

# Values that ask for what happens anyway are no news.
_HARMLESS: Mapping[str, frozenset[object]] = MappingProxyType(
    {
        "spec.publishNotReadyAddresses": frozenset({False}),
        "spec.sessionAffinity": frozenset({"None"}),
        "spec.internalTrafficPolicy": frozenset({"Cluster"}),
        "spec.trafficDistribution": frozenset({"PreferClose", "PreferSameZone"}),
    }
)

# Fields of MeshConfig that act; every other one is reported.
_MESH_CONFIG = frozenset(
    {
        "data.mesh.localityLbSetting",
        "data.mesh.outboundTrafficPolicy",
        "data.mesh.outboundTrafficPolicy.mode",
        "data.mesh.rootNamespace",
    }
)


def not_acted_on(resource: Resource[Any]) -> list[Problem]:
    """A Warning for each field that ``resource`` sets and this version does not act on."""
    root = {"EndpointSlice": "", "ConfigMap": "data.mesh"}.get(resource.kind, "spec")
    found = [_problem(resource, path, note) for path, note in _fields(resource, root)]
    found += [_problem(resource, path, note) for path, note in _values(resource)]
    return found


def _fields(resource: Resource[Any], root: str) -> Iterator[tuple[str, str]]:
    table = NOT_ACTED_ON.get(resource.kind, {})
    harmless = set()
    for pattern, values in _HARMLESS.items():
        value = resource.spec.model_dump(by_alias=True).get(pattern.removeprefix("spec."))
        if value in values:
            harmless.add(pattern)
    for path, pattern in schema.fields_set(resource.spec, root):
        if pattern in harmless:
            continue
        if pattern in table:
            yield path, table[pattern]
        elif resource.kind == "ConfigMap" and pattern.count(".") == 2 and pattern not in _MESH_CONFIG:
            yield path, ""


def _values(resource: Resource[Any]) -> Iterator[tuple[str, str]]:
    """Fields that act, but not with this value."""
    match resource.spec:
        case VirtualServiceSpec() as spec:
            if spec.gateways and MESH_GATEWAY not in spec.gateways:
                yield "spec.gateways", 'gateways are not served; add "mesh" to apply these routes inside the mesh'
            for index, http in enumerate(spec.http):
                yield from _gateways(f"spec.http[{index}]", http)
            for index, tls in enumerate(spec.tls):
                yield from _gateways(f"spec.tls[{index}]", tls)
            for index, tcp in enumerate(spec.tcp):
                yield from _gateways(f"spec.tcp[{index}]", tcp)
        case SidecarSpec() as spec:
            captured = [(f"spec.egress[{index}]", one.capture_mode) for index, one in enumerate(spec.egress)]
            captured += [(f"spec.ingress[{index}]", one.capture_mode) for index, one in enumerate(spec.ingress)]
            for index, egress in enumerate(spec.egress):
                if egress.port is not None and egress.port.protocol.upper() in {"UDP", "HBONE"}:
                    yield f"spec.egress[{index}].port.protocol", "nothing listens for it"
            for path, mode in captured:
                if mode is CaptureMode.IPTABLES:
                    yield f"{path}.captureMode", "no traffic is captured; the listener is bound to its port"
        case DestinationRuleSpec() as spec:
            yield from _tls_modes("spec.trafficPolicy", spec.traffic_policy)
            for index, subset in enumerate(spec.subsets):
                yield from _tls_modes(f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy)
        case AuthorizationPolicySpec() as spec:
            yield from _authorization(resource, spec)
        case RequestAuthenticationSpec() as spec:
            for index, jwt in enumerate(spec.jwt_rules):
                if not jwt.jwks and not key_sets.source(jwt):
                    note = "is no URL to discover keys from; without jwks or jwksUri all its tokens are refused"
                    yield f"spec.jwtRules[{index}].issuer", note
        case HTTPRouteSpec() | GRPCRouteSpec() as spec:
            yield from _references(spec)
        case ServiceEntrySpec() as spec:
            for index, endpoint in enumerate(spec.endpoints):
                yield from _socket(f"spec.endpoints[{index}].address", endpoint)
        case WorkloadEntrySpec() as spec:
            yield from _socket("spec.address", spec)


def _authorization(resource: Resource[Any], spec: AuthorizationPolicySpec) -> Iterator[tuple[str, str]]:
    if is_dry_run(resource.annotations):
        yield f'metadata.annotations["{DRY_RUN}"]', "the policy is not enforced, and what it would do is not recorded"
    if spec.action is Action.AUDIT:
        yield "spec.action", "nothing is audited"
    if spec.action is Action.CUSTOM:
        yield "spec.action", "no external authorizer is asked, and so what the rules match is denied"
    acts = "lets nobody in" if spec.action is Action.ALLOW else "acts whatever it is"
    blind = f"servers behind mesh.grpc_interceptor are not told the host: there the rule {acts}"
    for index, rule in enumerate(spec.rules):
        for number, to in enumerate(rule.to):
            for field in ("hosts", "not_hosts"):
                if to.operation is not None and getattr(to.operation, field):
                    yield f"spec.rules[{index}].to[{number}].operation.{camel(field)}", blind
        for number, condition in enumerate(rule.when):
            if condition.key.startswith(FILTERS):
                yield f"spec.rules[{index}].when[{number}].key", _ENVOY
            elif condition.key.lower() in (f"{HEADERS}[:authority]", f"{HEADERS}[host]"):
                yield f"spec.rules[{index}].when[{number}].key", blind


def _references(spec: HTTPRouteSpec | GRPCRouteSpec) -> Iterator[tuple[str, str]]:
    to_a_service = "name a Service to apply the route inside the mesh"
    if not spec.parent_refs:
        yield "spec.parentRefs", f"the route is attached to nothing; {to_a_service}"
    for index, parent in enumerate(spec.parent_refs):
        if not parent.is_service:
            what = "gateways are not served" if parent.kind == "Gateway" else f"nothing is attached to a {parent.kind}"
            yield f"spec.parentRefs[{index}]", f"{what}; {to_a_service}"
    rules: Sequence[HTTPRouteRule | GRPCRouteRule] = spec.rules
    for index, rule in enumerate(rules):
        path = f"spec.rules[{index}]"
        backends: Sequence[HTTPBackendRef | GRPCBackendRef] = rule.backend_refs
        for position, backend in enumerate(backends):
            here = f"{path}.backendRefs[{position}]"
            if not backend.is_service:
                yield here, f"nothing is sent to a {backend.kind}; its share is answered with an error"
            yield from _mirrors(f"{here}.filters", backend.filters)
        yield from _mirrors(f"{path}.filters", rule.filters)


def _mirrors(path: str, filters: Sequence[HTTPRouteFilter | GRPCRouteFilter]) -> Iterator[tuple[str, str]]:
    for index, one in enumerate(filters):
        if one.request_mirror is not None and not one.request_mirror.backend_ref.is_service:
            kind = one.request_mirror.backend_ref.kind
            yield f"{path}[{index}].requestMirror.backendRef", f"nothing is mirrored to a {kind}"


def _gateways(path: str, route: HTTPRoute | TLSRoute | TCPRoute) -> Iterator[tuple[str, str]]:
    for index, gateways in enumerate(match.gateways for match in route.match):
        if gateways and MESH_GATEWAY not in gateways:
            yield f"{path}.match[{index}].gateways", "gateways are not served; this match never applies"


def _socket(path: str, entry: WorkloadEntrySpec) -> Iterator[tuple[str, str]]:
    if entry.address.startswith("unix://"):
        yield path, "unix sockets are not dialled"


def _tls_modes(path: str, policy: TrafficPolicy | None) -> Iterator[tuple[str, str]]:
    if policy is None:
        return
    note = f"library clients have no certificates but the mesh's; {_NOT_SENT}"
    if policy.tls is not None and policy.tls.mode is TLSMode.MUTUAL:
        yield f"{path}.tls.mode", note
    for index, settings in enumerate(policy.port_level_settings):
        if settings.tls is not None and settings.tls.mode is TLSMode.MUTUAL:
            yield f"{path}.portLevelSettings[{index}].tls.mode", note


def _problem(resource: Resource[Any], path: str, note: str) -> Problem:
    message = f"{path}: is valid but not acted on by this version" + (f": {note}" if note else "")
    source = resource.source
    return Problem(CODE, Level.WARNING, message, *resource.key, file=source.file, line=source.line_of(path), field=path)

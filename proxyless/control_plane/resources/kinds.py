"""Which kinds of document there are: those we read, those of a mesh that we do not act on yet, and all others."""

import difflib
from dataclasses import dataclass
from types import MappingProxyType

from proxyless.control_plane.resources.authorization_policy import AuthorizationPolicySpec
from proxyless.control_plane.resources.base import Spec
from proxyless.control_plane.resources.destination_rule import DestinationRuleSpec
from proxyless.control_plane.resources.gateway_route import GATEWAY_API
from proxyless.control_plane.resources.grpc_route import GRPCRouteSpec
from proxyless.control_plane.resources.http_route import HTTPRouteSpec
from proxyless.control_plane.resources.mesh_config import MeshConfigSpec
from proxyless.control_plane.resources.peer_authentication import PeerAuthenticationSpec
from proxyless.control_plane.resources.request_authentication import RequestAuthenticationSpec
from proxyless.control_plane.resources.service import EndpointSliceSpec, NamespaceSpec, ServiceSpec
from proxyless.control_plane.resources.service_entry import ServiceEntrySpec
from proxyless.control_plane.resources.sidecar import SidecarSpec
from proxyless.control_plane.resources.virtual_service import VirtualServiceSpec
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec

_NETWORKING = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
_SECURITY = ("security.istio.io/v1", "security.istio.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Kind:
    """root: the field under which the spec is; empty when its fields are at the top of the document.

    required: a document without that field is refused (Kubernetes: ``spec: Required value``).
    """

    name: str
    api_versions: tuple[str, ...]
    spec: type[Spec]
    plural: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    root: str = "spec"
    required: bool = True


KINDS = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("Namespace", ("v1",), NamespaceSpec, "namespaces", ("ns",), namespaced=False, required=False),
            Kind("Service", ("v1",), ServiceSpec, "services", ("svc",)),
            Kind("EndpointSlice", ("discovery.k8s.io/v1",), EndpointSliceSpec, "endpointslices", root=""),
            Kind("VirtualService", _NETWORKING, VirtualServiceSpec, "virtualservices", ("vs",)),
            Kind("DestinationRule", _NETWORKING, DestinationRuleSpec, "destinationrules", ("dr",)),
            Kind("ServiceEntry", _NETWORKING, ServiceEntrySpec, "serviceentries", ("se",)),
            Kind("WorkloadEntry", _NETWORKING, WorkloadEntrySpec, "workloadentries", ("we",)),
            Kind("Sidecar", _NETWORKING, SidecarSpec, "sidecars"),
            Kind("HTTPRoute", (f"{GATEWAY_API}/v1", f"{GATEWAY_API}/v1beta1"), HTTPRouteSpec, "httproutes"),
            Kind("GRPCRoute", (f"{GATEWAY_API}/v1",), GRPCRouteSpec, "grpcroutes"),
            # ``spec: {}`` is a policy too: it says "inherit".
            Kind(
                "PeerAuthentication", _SECURITY, PeerAuthenticationSpec, "peerauthentications", ("pa",), required=False
            ),
            # It says "let nobody in".
            Kind(
                *("AuthorizationPolicy", _SECURITY, AuthorizationPolicySpec, "authorizationpolicies", ("ap",)),
                required=False,
            ),
            Kind(
                *("RequestAuthentication", _SECURITY, RequestAuthenticationSpec, "requestauthentications", ("ra",)),
                required=False,
            ),
            # The ConfigMap named ``istio``; the spec is the YAML text in its ``data.mesh``.
            Kind("ConfigMap", ("v1",), MeshConfigSpec, "configmaps", ("cm",), root="data.mesh"),
        )
    }
)

# Kinds of a mesh, by API group, whose absence changes what the mesh does: reported, not skipped quietly.
_NOT_ACTED_ON = MappingProxyType(
    {
        "networking.istio.io": {"Gateway", "EnvoyFilter", "WorkloadGroup", "ProxyConfig"},
        "security.istio.io": set(),
        "telemetry.istio.io": {"Telemetry"},
        "extensions.istio.io": {"WasmPlugin", "ExtensionFilter"},
        GATEWAY_API: {
            "BackendTLSPolicy",
            "Gateway",
            "GatewayClass",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        },
    }
)


def group_of(api_version: str) -> str:
    """``networking.istio.io`` of ``networking.istio.io/v1``; empty for Kubernetes' core group."""
    return api_version.rpartition("/")[0]


def is_read(kind: str, api_version: str, name: str) -> bool:
    """Is a document of this kind and API group ours to read (in any version)?"""
    known = KINDS.get(kind)
    if known is None or group_of(api_version) != group_of(known.api_versions[0]):
        return False
    return kind != "ConfigMap" or name == "istio"


def is_unserved_mesh_kind(kind: str, api_version: str) -> bool:
    """A kind of Istio or the Gateway API that this version does not act on."""
    return kind in _NOT_ACTED_ON.get(group_of(api_version), ())


def meant(kind: str, api_version: str) -> str | None:
    """For a kind that a group of the mesh does not have: the one it may be a misspelling of, else empty.

    None when the group is not the mesh's, or has that kind.
    """
    group = group_of(api_version)
    if group not in _NOT_ACTED_ON or kind in _NOT_ACTED_ON[group]:
        return None
    names = {*_NOT_ACTED_ON[group], *(one.name for one in KINDS.values() if group == group_of(one.api_versions[0]))}
    return None if kind in names else next(iter(difflib.get_close_matches(kind, names, 1)), "")


def kind_named(name: str) -> Kind | None:
    """A kind as people type it: ``VirtualService``, ``virtualservices``, ``vs``."""
    wanted = name.lower()
    for kind in KINDS.values():
        if wanted in (kind.name.lower(), kind.plural, *kind.short_names):
            return kind
    return None

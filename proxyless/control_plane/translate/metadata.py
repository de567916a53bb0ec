"""Metadata that travels with resources: Istio's, which telemetry reads, and ours, which explanations read."""

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf.struct_pb2 import Struct

from proxyless.control_plane.resources.resource import Key, Resource

ISTIO = "istio"
PROXYLESS = "proxyless"
TRANSPORT_SOCKET_MATCH = "envoy.transport_socket_match"

_PATH = "/apis/networking.istio.io/v1/namespaces"
_ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces"
_PLURALS = {
    "VirtualService": "virtual-service",
    "DestinationRule": "destination-rule",
    "HTTPRoute": "http-route",
    "GRPCRoute": "grpc-route",
}
_KINDS = {path: kind for kind, path in _PLURALS.items()}


def struct(values: Mapping[str, Any]) -> Struct:
    result = Struct()
    result.update(dict(values))
    return result


def metadata(**namespaces: Mapping[str, Any]) -> base_pb2.Metadata:
    """filter_metadata by namespace; an empty one is left out."""
    return base_pb2.Metadata(filter_metadata={name: struct(values) for name, values in namespaces.items() if values})


def config_path(resource: Resource[Any]) -> str:
    """Istio's reference to the rule that made a resource (util.BuildConfigInfoMetadata)."""
    kind = _PLURALS.get(resource.kind, resource.kind.lower())
    path = _ROUTES if resource.kind in {"HTTPRoute", "GRPCRoute"} else _PATH
    return f"{path}/{resource.namespace}/{kind}/{resource.name}"


def rule_of(message_metadata: base_pb2.Metadata) -> Key | None:
    """The rule that ``config_path`` wrote into a resource's metadata."""
    path = message_metadata.filter_metadata[ISTIO]["config"] if _has_rule(message_metadata) else ""
    namespace, _, rest = str(path).removeprefix(f"{_PATH}/").removeprefix(f"{_ROUTES}/").partition("/")
    kind, _, name = rest.partition("/")
    return Key(_KINDS[kind], namespace, name) if kind in _KINDS else None


def _has_rule(message_metadata: base_pb2.Metadata) -> bool:
    # A protobuf map makes what is looked up in it.
    return ISTIO in message_metadata.filter_metadata and "config" in message_metadata.filter_metadata[ISTIO]

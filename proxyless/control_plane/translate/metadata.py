"""Metadata that travels with resources: Istio's, which telemetry reads, and ours, which explanations read."""

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf.struct_pb2 import Struct

from proxyless.control_plane.resources.resource import Resource

ISTIO = "istio"
PROXYLESS = "proxyless"
TRANSPORT_SOCKET_MATCH = "envoy.transport_socket_match"

_PLURALS = {"VirtualService": "virtual-service", "DestinationRule": "destination-rule"}


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
    return f"/apis/networking.istio.io/v1/namespaces/{resource.namespace}/{kind}/{resource.name}"

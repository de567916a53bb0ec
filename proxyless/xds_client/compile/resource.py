"""From the bytes of one resource to what it compiled to, whatever its type."""

import logging
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from proxyless.model.inbound import InboundListener
from proxyless.xds_client.compile.cluster import ClusterSpec, compile_cluster
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, is_a, parse, unpack
from proxyless.xds_client.compile.endpoint import LoadAssignment, compile_load_assignment
from proxyless.xds_client.compile.inbound import compile_inbound
from proxyless.xds_client.compile.listener import ApiListener, compile_api_listener
from proxyless.xds_client.compile.route import RouteConfiguration, compile_route_configuration
from proxyless.xds_client.kinds import Kind

logger = logging.getLogger("proxyless.xds")

Compiled = ApiListener | InboundListener | RouteConfiguration | ClusterSpec | LoadAssignment

_MESSAGES: dict[Kind, Any] = {
    Kind.LISTENER: listener_pb2.Listener,
    Kind.ROUTE: route_pb2.RouteConfiguration,
    Kind.CLUSTER: cluster_pb2.Cluster,
    Kind.ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A resource whose name is known and whose content is not looked at yet. ``data``: the Any it came in, as bytes."""

    kind: Kind
    name: str
    data: bytes
    message: Any


def decode(kind: Kind, resource: AnyMessage) -> Decoded:
    """Raises InvalidResource when it is not a resource of this kind, or has no name."""
    try:
        if is_a(resource, discovery_pb2.Resource):  # gRFC A47's wrapper
            resource = unpack(resource, discovery_pb2.Resource, "resource").resource
        message_type = _MESSAGES[kind]
        if not is_a(resource, message_type):
            raise FieldError(f"a {resource.type_url or 'message without type_url'} in a response of {kind.type_url}")
        message = parse(message_type, resource.value, "resource")
    except FieldError as error:
        raise InvalidResource("", str(error)) from error
    name: str = message.cluster_name if kind is Kind.ENDPOINT else message.name
    if not name:
        raise InvalidResource("", f"a {kind.type_url} has no name")
    return Decoded(kind, name, resource.SerializeToString(), message)


def compile_decoded(decoded: Decoded) -> Compiled:
    """Raises InvalidResource, and nothing else: a resource must never end the stream that brought it."""
    try:
        return compile_strictly(decoded)
    except InvalidResource:
        raise
    except Exception as error:
        logger.exception("%s %s cannot be compiled", decoded.kind.short, decoded.name)
        raise InvalidResource(decoded.name, f"cannot be compiled: {type(error).__name__}") from error


def compile_strictly(decoded: Decoded) -> Compiled:
    message = decoded.message
    match decoded.kind:
        case Kind.LISTENER:
            return compile_api_listener(message) if message.HasField("api_listener") else compile_inbound(message)
        case Kind.ROUTE:
            return compile_route_configuration(message)
        case Kind.CLUSTER:
            return compile_cluster(message)
        case Kind.ENDPOINT:
            return compile_load_assignment(message)

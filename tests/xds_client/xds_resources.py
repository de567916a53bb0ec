"""Builders of xDS resources, as small as a control plane could send them."""

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import text_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message


def packed(message: Message) -> AnyMessage:
    any_message = AnyMessage()
    any_message.Pack(message)
    return any_message


def text(message: Any, source: str) -> Any:
    """Parse protobuf text format into ``message``."""
    return text_format.Parse(source, message)


ROUTER = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_pb2.Router()))


def manager(route_name: str = "", filters: list[Any] | None = None, **fields: Any) -> hcm_pb2.HttpConnectionManager:
    made = hcm_pb2.HttpConnectionManager(http_filters=[ROUTER] if filters is None else filters, **fields)
    if route_name:
        made.rds.route_config_name = route_name
        made.rds.config_source.ads.SetInParent()
    return made


def listener(name: str, route_name: str = "", **fields: Any) -> listener_pb2.Listener:
    made = listener_pb2.Listener(name=name)
    made.api_listener.api_listener.Pack(manager(route_name, **fields))
    return made


def route_configuration(name: str, *clusters: str, domains: tuple[str, ...] = ("*",)) -> route_pb2.RouteConfiguration:
    """One virtual host with a route per cluster, chosen by prefix ``/CLUSTER``; the last takes the rest."""
    made = route_pb2.RouteConfiguration(name=name)
    virtual_host = made.virtual_hosts.add(name="vhost", domains=domains)
    for index, cluster in enumerate(clusters):
        route = virtual_host.routes.add(name=cluster)
        route.match.prefix = "/" if index == len(clusters) - 1 else f"/{cluster}"
        route.route.cluster = cluster
        route.route.timeout.SetInParent()
    return made


def cluster(name: str, **fields: Any) -> cluster_pb2.Cluster:
    made = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS, **fields)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    return made


def assignment(name: str, *addresses: str, healthy: bool = True) -> endpoint_pb2.ClusterLoadAssignment:
    """Endpoints ``IP:PORT`` in one locality without a weight."""
    made = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    if addresses:
        group = made.endpoints.add()
        for address in addresses:
            host, _, port = address.rpartition(":")
            one = group.lb_endpoints.add(health_status=1 if healthy else 2)
            one.endpoint.address.socket_address.address = host
            one.endpoint.address.socket_address.port_value = int(port)
    return made


def upstream_tls(*uris: str, identity: bool = True, roots: str = "mesh", sni: str = "") -> base_pb2.TransportSocket:
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    if identity:
        common.tls_certificate_provider_instance.instance_name = "default"
    if roots == "mesh":
        common.validation_context.ca_certificate_provider_instance.instance_name = "default"
    elif roots == "system":
        common.validation_context.system_root_certs.SetInParent()
    for uri in uris:
        matcher = common.validation_context.match_typed_subject_alt_names.add(san_type=3)
        matcher.matcher.exact = uri
    return base_pb2.TransportSocket(name="tls", typed_config=packed(context))


def downstream_tls(*uris: str, require: bool = True) -> base_pb2.TransportSocket:
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = require
    context.common_tls_context.tls_certificate_provider_instance.instance_name = "default"
    validation = context.common_tls_context.validation_context
    validation.ca_certificate_provider_instance.instance_name = "default"
    for uri in uris:
        validation.match_typed_subject_alt_names.add(san_type=3).matcher.exact = uri
    return base_pb2.TransportSocket(name="tls", typed_config=packed(context))


def inbound(port: int, *chains: tuple[str, base_pb2.TransportSocket | None]) -> listener_pb2.Listener:
    """A server's listener; each chain is (transport protocol, socket)."""
    made = listener_pb2.Listener(name=f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}")
    made.address.socket_address.address = "0.0.0.0"
    made.address.socket_address.port_value = port
    for protocol, socket in chains:
        chain = made.filter_chains.add()
        chain.filter_chain_match.transport_protocol = protocol
        if socket is not None:
            chain.transport_socket.CopyFrom(socket)
    return made

"""LDS, inbound: what a server of the mesh must ask of its callers (gRFC A36)."""

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.endpoints import TLS_MODE_LABEL
from proxyless.control_plane.resources.names import split_target
from proxyless.control_plane.translate import tls
from proxyless.control_plane.translate.authorization import Guard, guard
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.listener import router_filter
from proxyless.control_plane.translate.metadata import metadata
from proxyless.model.inbound import MutualTls

# Istio's server_listener_resource_name_template, before the ``%s`` that becomes ADDRESS:PORT.
PREFIX = "xds.istio.io/grpc/lds/inbound/"


def inbound_listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> listener_pb2.Listener | None:
    """None for a name that is not PREFIX + ADDRESS:PORT, and for Envoy, which is not asked this way."""
    parts = split_target(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if parts is None or scope.kind is ClientKind.ENVOY:
        return None
    address, port = parts[0].strip("[]"), parts[1]
    labels = scope.label_map
    mode = catalog.peer_authentications.mode(scope.namespace, labels, port)
    if mode is MutualTls.PERMISSIVE and scope.kind is ClientKind.GRPC:
        # gRPC cannot tell TLS from plaintext on one port, so Istio lets a label choose.
        mode = MutualTls.STRICT if labels.get(TLS_MODE_LABEL) == "istio" else MutualTls.DISABLE
        notes.add(f"{name}: PERMISSIVE is not possible in gRPC servers, sent as {mode.value} (label {TLS_MODE_LABEL})")
    origin = catalog.peer_authentications.origin(scope.namespace, labels) or "default"
    listener = listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port)),
        metadata=metadata(proxyless={"origin": origin, "mutual_tls": mode.value}),
    )
    guarded = guard(catalog, scope, port, notes)
    both = mode is MutualTls.PERMISSIVE
    if mode is not MutualTls.DISABLE:
        chain = _chain("inbound-mtls", guarded, match="tls" if both else "")
        chain.transport_socket.CopyFrom(tls.server(scope.kind))
        listener.filter_chains.append(chain)
    if mode is not MutualTls.STRICT:
        listener.filter_chains.append(_chain("inbound-plaintext", guarded, match="raw_buffer" if both else ""))
    return listener


def _chain(name: str, guarded: Guard, *, match: str) -> listener_components_pb2.FilterChain:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="inbound",
        http_filters=[*guarded.http, router_filter()],
        route_config=route_pb2.RouteConfiguration(
            name="inbound",
            virtual_hosts=[
                rc.VirtualHost(
                    name="inbound",
                    domains=["*"],
                    routes=[rc.Route(match=rc.RouteMatch(prefix="/"), non_forwarding_action=rc.NonForwardingAction())],
                )
            ],
        ),
    )
    chain = listener_components_pb2.FilterChain(
        name=name,
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
            )
        ],
    )
    if match:
        chain.filter_chain_match.transport_protocol = match
    return chain

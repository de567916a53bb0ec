"""LDS and CDS of an Envoy sidecar: the port its application calls through, and the port its callers come in by."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.resources.destination_rule import ConnectionPoolSettings
from proxyless.control_plane.translate import cors, fault, http_proxy, rate_limit, tls
from proxyless.control_plane.translate.authorization import Guard, guard
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.connection_pool import (
    apply_connection_pool,
    http_options,
    set_http_options,
)
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.forward_proxy import resolving_filter
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.listener import ads, router_filter
from proxyless.control_plane.translate.metadata import metadata
from proxyless.control_plane.translate.route_action import set_timeout
from proxyless.control_plane.translate.sidecar_ports import InboundPort, inbound_cluster, outbound_port
from proxyless.control_plane.translate.sidecar_tracing import Tracing, trace
from proxyless.model.inbound import MutualTls

LOOPBACK = "127.0.0.1"
_Manager = hcm_pb2.HttpConnectionManager
# Istio's default for inbound requests: the application closed a kept connection before it read the request.
_INBOUND_RETRIES, _INBOUND_RETRY_ON = 2, "reset-before-request"


def sidecar_listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> listener_pb2.Listener | None:
    """None for a name that is not one of ``SidecarPorts.listeners``."""
    if port := outbound_port(name):
        return _outbound(scope, name, port)
    if (inbound := InboundPort.of_listener(name)) is not None:
        return _inbound(catalog, scope, inbound, notes)
    return None


def sidecar_cluster(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> cluster_pb2.Cluster | None:
    """The application itself, on loopback; None for the name of another cluster.

    A declared service of the workload knows best what is spoken (Istio's inbound clusters have their service's
    protocol). Services that contradict each other, or say nothing, leave it to the name of the inbound port.
    """
    if scope.kind is not ClientKind.ENVOY or (inbound := inbound_cluster(name)) is None:
        return None
    app, named = inbound
    served = catalog.served(scope.namespace, scope.label_map)
    said = {port.protocol for service in served for port in service.ports if port.protocol.is_http}
    versions = {protocol.is_http2 for protocol in said - {PortProtocol.UNSET}}
    if len(versions) == 1:
        named = PortProtocol.HTTP2 if versions.pop() else PortProtocol.HTTP
    return application_cluster(name, socket_address(LOOPBACK, app), inbound_pool(catalog), named, notes)


def inbound_pool(catalog: Catalog) -> ConnectionPoolSettings | None:
    """What a Sidecar says of connections to the application."""
    sidecar = catalog.sidecar()
    return sidecar.spec.inbound_connection_pool if sidecar else None


def sidecar_origin(catalog: Catalog) -> str:
    """The Sidecar that made a listener, for people."""
    sidecar = catalog.sidecar()
    return str(sidecar.key) if sidecar else ""


def application_cluster(
    name: str, at: address_pb2.Address, pool: ConnectionPoolSettings | None, protocol: PortProtocol, notes: Notes
) -> cluster_pb2.Cluster:
    """An application, spoken to as its port says, whatever the caller speaks; if it does not say, as the caller.

    Source: Istio's inbound clusters. An upgrade to HTTP/2 is between sidecars and no matter of the application's.
    """
    cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)
    cluster.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint_components_pb2.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=at))
                    ]
                )
            ],
        )
    )
    apply_connection_pool(cluster, pool, None, ClientKind.ENVOY)
    http2, sniffed = protocol.is_http2, not protocol.is_http or protocol is PortProtocol.UNSET
    set_http_options(cluster, http_options(pool, http2=http2, sniffed=sniffed, kind=ClientKind.ENVOY, notes=notes))
    return cluster


def _outbound(scope: Scope, name: str, port: int) -> listener_pb2.Listener:
    """On loopback only: whoever can connect to it speaks with the workload's identity."""
    return listener_pb2.Listener(
        name=name,
        address=socket_address(LOOPBACK, port),
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=[http_chain("outbound", outbound_manager(http_proxy.NAME, scope.tracing))],
    )


def _inbound(catalog: Catalog, scope: Scope, inbound: InboundPort, notes: Notes) -> listener_pb2.Listener:
    labels = scope.label_map
    mode = catalog.peer_authentications.mode(scope.namespace, labels, inbound.port)
    origin = catalog.peer_authentications.origin(scope.namespace, labels) or "default"
    listener = listener_pb2.Listener(
        name=inbound.listener,
        address=socket_address(inbound.address, inbound.port),
        traffic_direction=base_pb2.INBOUND,
        metadata=metadata(proxyless={"origin": origin, "mutual_tls": mode.value}),
        listener_filters=[tls_inspector()],
    )
    guarded = guard(catalog, scope, inbound.port, notes)
    if mode is not MutualTls.DISABLE:
        chain = http_chain("inbound-mtls", inbound_manager(inbound.cluster, guarded, scope.tracing, authenticated=True))
        chain.filter_chain_match.transport_protocol = "tls"
        chain.transport_socket.CopyFrom(tls.sidecar_server(catalog.settings.trust_domain))
        listener.filter_chains.append(chain)
    if mode is not MutualTls.STRICT:
        chain = http_chain(
            "inbound-plaintext", inbound_manager(inbound.cluster, guarded, scope.tracing, authenticated=False)
        )
        chain.filter_chain_match.transport_protocol = "raw_buffer"
        listener.filter_chains.append(chain)
    return listener


def inbound_manager(
    cluster: str, guarded: Guard, tracing: Tracing | None, *, authenticated: bool
) -> hcm_pb2.HttpConnectionManager:
    result = manager("inbound", tracing)
    result.server_name = "istio-envoy"
    if authenticated:
        result.forward_client_cert_details = _Manager.APPEND_FORWARD
        result.set_current_client_cert_details.CopyFrom(
            _Manager.SetCurrentClientCertDetails(subject=BoolValue(value=True), dns=True, uri=True)
        )
    else:
        # Nobody vouches for this caller: what it says in the mesh's own headers is not passed on.
        result.forward_client_cert_details = _Manager.SANITIZE
        result.use_remote_address.value = True
        result.skip_xff_append = True
    route = rc.Route(name="default", match=rc.RouteMatch(prefix="/"), route=rc.RouteAction(cluster=cluster))
    set_timeout(route.route, 0.0, ClientKind.ENVOY)
    route.route.retry_policy.retry_on = _INBOUND_RETRY_ON
    route.route.retry_policy.num_retries.value = _INBOUND_RETRIES
    result.route_config.CopyFrom(
        route_pb2.RouteConfiguration(
            name=cluster,
            virtual_hosts=[rc.VirtualHost(name=f"inbound|http|{cluster.split('|')[1]}", domains=["*"], routes=[route])],
        )
    )
    # It comes by CDS of its own, which a listener that is there first must not be refused for.
    result.route_config.validate_clusters.value = False
    result.http_filters.extend([*guarded.http, router_filter()])
    return result


def outbound_manager(routes: str, tracing: Tracing | None) -> hcm_pb2.HttpConnectionManager:
    """For requests of the application, routed by the route configuration called ``routes``."""
    result = manager("outbound", tracing)
    result.rds.route_config_name = routes
    result.rds.config_source.CopyFrom(ads())
    result.http_filters.extend(
        [
            hcm_pb2.HttpFilter(name=fault.FILTER, typed_config=pack(fault_pb2.HTTPFault())),
            hcm_pb2.HttpFilter(name=cors.FILTER, typed_config=pack(cors_pb2.Cors())),
            # What is refused needs no address.
            rate_limit.client_filter(),
            resolving_filter(),
            router_filter(),
        ]
    )
    result.upgrade_configs.add(upgrade_type="CONNECT")
    # Envoy heeds ``x-envoy-upstream-rq-timeout-ms`` and its like from internal addresses only; the application has one.
    result.use_remote_address.value = True
    result.skip_xff_append = True
    loopback = result.internal_address_config.cidr_ranges.add(address_prefix=LOOPBACK)
    loopback.prefix_len.value = 32
    # HTTP proxies are addressed with absolute URLs.
    result.http_protocol_options.allow_absolute_url.value = True
    return result


def manager(stat_prefix: str, tracing: Tracing | None) -> hcm_pb2.HttpConnectionManager:
    """Istio's settings for both directions: paths are normalised, streams may be idle, WebSockets pass."""
    result = hcm_pb2.HttpConnectionManager(
        stat_prefix=stat_prefix,
        stream_idle_timeout=duration(0),
        path_with_escaped_slashes_action=_Manager.KEEP_UNCHANGED,
    )
    result.normalize_path.value = True
    result.upgrade_configs.add(upgrade_type="websocket")
    trace(result, tracing)
    return result


def http_chain(name: str, manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name=name,
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
            )
        ],
    )


def socket_address(address: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def tls_inspector() -> listener_components_pb2.ListenerFilter:
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=pack(tls_inspector_pb2.TlsInspector())
    )

"""LDS and CDS of a Sidecar's ingress listeners: ports of an Envoy that callers come in by, beside the node's own one.

Source: Istio's Sidecar.ingress.
"""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol, declared
from proxyless.control_plane.resources.server_tls import ServerTLSMode, ServerTLSSettings, TLSProtocol
from proxyless.control_plane.resources.sidecar import UNIX, IstioIngressListener
from proxyless.control_plane.translate import tls
from proxyless.control_plane.translate.authorization import Guard, guard
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.metadata import metadata
from proxyless.control_plane.translate.sidecar import (
    LOOPBACK,
    application_cluster,
    http_chain,
    inbound_manager,
    inbound_pool,
    sidecar_origin,
    socket_address,
    tls_inspector,
)
from proxyless.control_plane.translate.sidecar_ports import EVERYWHERE
from proxyless.control_plane.translate.tcp_proxy import plain_chain
from proxyless.model.domains import split_port
from proxyless.model.inbound import MutualTls

_PREFIX = "inbound_"


def ingress_names(catalog: Catalog) -> list[str]:
    return [_name(one) for one in _listeners(catalog)]


def is_ingress(name: str) -> bool:
    return name.startswith(_PREFIX)


def ingress_cluster_names(catalog: Catalog) -> list[str]:
    return [_cluster_name(one) for one in _listeners(catalog)]


def ingress_listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> listener_pb2.Listener | None:
    """None for a name that is not of a listener of this scope."""
    asked = next((one for one in _listeners(catalog) if _name(one) == name), None)
    if asked is None:
        return None
    mode = catalog.peer_authentications.mode(scope.namespace, scope.label_map, asked.port.number)
    result = listener_pb2.Listener(
        name=name,
        address=socket_address(asked.bind or EVERYWHERE, asked.port.number),
        traffic_direction=base_pb2.INBOUND,
        metadata=metadata(proxyless={"origin": sidecar_origin(catalog), "mutual_tls": mode.value}),
    )
    # As for egress listeners: a port that another Envoy of this machine has is refused, not shared.
    result.enable_reuse_port.value = False
    settings = asked.tls if mode is MutualTls.DISABLE else None
    if asked.tls is not None and settings is None:
        notes.add(f"{name}: tls left out, it needs a PeerAuthentication with mode DISABLE for the port")
    guarded = guard(catalog, scope, asked.port.number, notes)
    if mode is not MutualTls.DISABLE:
        chain = _chain(asked, scope, guarded, authenticated=True)
        chain.filter_chain_match.transport_protocol = "tls"
        chain.transport_socket.CopyFrom(tls.sidecar_server(catalog.settings.trust_domain))
        result.filter_chains.append(chain)
    if mode is not MutualTls.STRICT:
        chain = _chain(asked, scope, guarded, authenticated=False)
        if mode is not MutualTls.DISABLE:
            chain.filter_chain_match.transport_protocol = "raw_buffer"
        elif settings is not None and settings.mode is not ServerTLSMode.PASSTHROUGH:
            chain.transport_socket.CopyFrom(_server(settings))
            chain.filter_chain_match.transport_protocol = "tls"
        result.filter_chains.append(chain)
    # It waits for the caller's first bytes, which a caller that wants to hear first does not send.
    if any(chain.filter_chain_match.transport_protocol for chain in result.filter_chains):
        result.listener_filters.append(tls_inspector())
    return result


def ingress_cluster(catalog: Catalog, name: str, notes: Notes) -> cluster_pb2.Cluster | None:
    asked = next((one for one in _listeners(catalog) if _cluster_name(one) == name), None)
    if asked is None:
        return None
    pool = asked.connection_pool or inbound_pool(catalog)
    return application_cluster(name, _endpoint(asked), pool, declared(asked.port.protocol, ""), notes)


def _chain(
    asked: IstioIngressListener, scope: Scope, guarded: Guard, *, authenticated: bool
) -> listener_components_pb2.FilterChain:
    name = "inbound-mtls" if authenticated else "inbound-plaintext"
    settings, protocol = asked.tls, declared(asked.port.protocol, "")
    # TLS that is terminated here has HTTP inside when the port says HTTPS.
    terminated = settings is not None and settings.mode is not ServerTLSMode.PASSTHROUGH
    if protocol.is_http or (protocol is PortProtocol.HTTPS and terminated):
        manager = inbound_manager(_cluster_name(asked), guarded, scope.tracing, authenticated=authenticated)
        return http_chain(name, manager)
    chain = plain_chain(name, _cluster_name(asked), origin="Sidecar")
    filters = [*guarded.network, *chain.filters]
    chain.ClearField("filters")
    chain.filters.extend(filters)
    return chain


def _server(settings: ServerTLSSettings) -> base_pb2.TransportSocket:
    files = tls.Files(settings.server_certificate, settings.private_key, settings.ca_certificates)
    verify = settings.mode in {ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL}
    return tls.server_from_files(
        files,
        verify=verify,
        required=settings.mode is ServerTLSMode.MUTUAL,
        oldest=_versions(settings.min_protocol_version),
        newest=_versions(settings.max_protocol_version),
        ciphers=settings.cipher_suites,
        spki=settings.verify_certificate_spki,
        hashes=settings.verify_certificate_hash,
    )


def _versions(asked: TLSProtocol) -> str:
    return {
        TLSProtocol.TLSV1_0: "TLSv1_0",
        TLSProtocol.TLSV1_1: "TLSv1_1",
        TLSProtocol.TLSV1_2: "TLSv1_2",
        TLSProtocol.TLSV1_3: "TLSv1_3",
    }.get(asked, "TLS_AUTO")


def _endpoint(asked: IstioIngressListener) -> address_pb2.Address:
    written = asked.default_endpoint
    if written.startswith(UNIX):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=written.removeprefix(UNIX)))
    host, port = split_port(written)
    return socket_address("::1" if host.startswith("[") else LOOPBACK, port or asked.port.number)


def _listeners(catalog: Catalog) -> tuple[IstioIngressListener, ...]:
    sidecar = catalog.sidecar()
    return sidecar.spec.ingress if sidecar else ()


def _name(listener: IstioIngressListener) -> str:
    return f"{_PREFIX}{listener.bind or EVERYWHERE}_{listener.port.number}"


def _cluster_name(listener: IstioIngressListener) -> str:
    """Apart from that of the node's own inbound port, which may have the same number."""
    return f"inbound|{listener.port.number}|sidecar|"

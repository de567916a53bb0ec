"""Envoy's filter chains for connections whose bytes are passed on as they are."""

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import sni_dynamic_forward_proxy_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import hash_policy_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Resolution
from proxyless.control_plane.resources.destination_rule import SimpleLB
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.forward_proxy import DNS_CACHE
from proxyless.control_plane.translate.generated import pack
from proxyless.control_plane.translate.l4_routes import L4Route
from proxyless.control_plane.translate.metadata import config_path, metadata
from proxyless.control_plane.translate.traffic_policy import EffectivePolicy, cluster_policy


def route_chain(catalog: Catalog, scope: Scope, route: L4Route, *, port: int) -> FilterChain:
    """Without its match. port: to dial at hosts that are known by their server name only."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=route.name)
    if len(route.targets) == 1:
        proxy.cluster = str(route.targets[0][0])
    for cluster, weight in route.targets if len(route.targets) > 1 else ():
        proxy.weighted_clusters.clusters.add(name=str(cluster), weight=weight)
    _apply_policy(proxy, _policy(catalog, scope, route.targets[0][0]))
    filters = [_tcp_proxy(proxy)]
    if any(is_by_name(catalog, scope, cluster) for cluster, _ in route.targets):
        filters.insert(0, _resolve_by_sni(port))
    istio = {"config": config_path(route.rule)} if route.rule else {}
    return FilterChain(
        name=route.name, filters=filters, metadata=metadata(istio=istio, proxyless={"origin": route.origin})
    )


def plain_chain(name: str, cluster: str, *, by_sni: int = 0, origin: str = "outboundTrafficPolicy") -> FilterChain:
    """To one cluster. by_sni: the port to dial at the server name, for a cluster that goes where it is told."""
    filters = [_tcp_proxy(tcp_proxy_pb2.TcpProxy(stat_prefix=cluster, cluster=cluster))]
    if by_sni:
        filters.insert(0, _resolve_by_sni(by_sni))
    return FilterChain(name=name, filters=filters, metadata=metadata(proxyless={"origin": origin}))


def is_by_name(catalog: Catalog, scope: Scope, name: ClusterName) -> bool:
    """Whether a cluster sends each connection to the host that it asked for, and so must be told."""
    service = catalog.service(name.host, scope.namespace)
    if service is None:
        return False
    balancer = _policy(catalog, scope, name).load_balancer
    through = balancer is not None and balancer.simple is SimpleLB.PASSTHROUGH
    return through or service.resolution is Resolution.PASSTHROUGH


def cidr(text: str) -> address_pb2.CidrRange:
    address, _, length = text.partition("/")
    bits = int(length) if length else (128 if ":" in address else 32)
    return address_pb2.CidrRange(address_prefix=address, prefix_len=UInt32Value(value=bits))


def _policy(catalog: Catalog, scope: Scope, name: ClusterName) -> EffectivePolicy:
    service = catalog.service(name.host, scope.namespace)
    return cluster_policy(catalog, scope, name, service).effective


def _apply_policy(proxy: tcp_proxy_pb2.TcpProxy, policy: EffectivePolicy) -> None:
    """Of the first destination (Istio): a connection has one policy, whichever destination it is given."""
    tcp = policy.connection_pool.tcp if policy.connection_pool else None
    if tcp is not None and tcp.idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(duration(tcp.idle_timeout))
    if tcp is not None and tcp.max_connection_duration is not None:
        proxy.max_downstream_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    balancer = policy.load_balancer
    if balancer is not None and balancer.consistent_hash is not None and balancer.consistent_hash.use_source_ip:
        proxy.hash_policy.append(hash_policy_pb2.HashPolicy(source_ip=hash_policy_pb2.HashPolicy.SourceIp()))


def _tcp_proxy(proxy: tcp_proxy_pb2.TcpProxy) -> Filter:
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))


def _resolve_by_sni(port: int) -> Filter:
    config = sni_dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=DNS_CACHE, port_value=port)
    return Filter(name="envoy.filters.network.sni_dynamic_forward_proxy", typed_config=pack(config))

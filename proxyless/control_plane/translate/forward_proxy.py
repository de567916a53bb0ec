"""Envoy's dynamic forward proxy: how an explicit proxy reaches hosts that the mesh has no endpoints of.

An ORIGINAL_DST cluster, which Istio uses, needs the address that iptables diverted from; the original destination of a
connection to an explicit proxy is the proxy itself.
"""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dynamic_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.control_plane.translate.generated import pack

_CLUSTER = "envoy.clusters.dynamic_forward_proxy"
# One cache, named the same by the filter that resolves and the clusters that use what it found.
DNS_CACHE = dns_cache_pb2.DnsCacheConfig(name="passthrough", dns_lookup_family=cluster_pb2.Cluster.ALL)


def by_host_header(cluster: cluster_pb2.Cluster) -> None:
    """Make ``cluster`` send each request to the host and port of its Host header."""
    config = dynamic_pb2.ClusterConfig(
        dns_cache_config=DNS_CACHE,
        # Whether a cluster verifies its servers is for its TLS settings to say; a plaintext one has nothing to verify.
        allow_insecure_cluster_options=True,
    )
    cluster.cluster_type.CopyFrom(cluster_pb2.Cluster.CustomClusterType(name=_CLUSTER, typed_config=pack(config)))
    cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED


def is_by_host_header(cluster: cluster_pb2.Cluster) -> bool:
    return bool(cluster.cluster_type.name == _CLUSTER)


def resolving_filter() -> hcm_pb2.HttpFilter:
    """The HTTP filter that holds a request until its host is resolved; it leaves requests to other clusters alone."""
    config = dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=DNS_CACHE)
    return hcm_pb2.HttpFilter(name="envoy.filters.http.dynamic_forward_proxy", typed_config=pack(config))

"""How a cluster's endpoints are chosen: DestinationRule.trafficPolicy.loadBalancer."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import FloatValue, UInt64Value

from proxyless.control_plane.resources.destination_rule import (
    BY_LOAD,
    ConsistentHashLB,
    LoadBalancerByLoad,
    LoadBalancerSettings,
    SimpleLB,
)
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes, pack

_Cluster = cluster_pb2.Cluster
_DEFAULT_RING_SIZE = 1024
# gRFC A58, with its defaults: reports come with the answers, and errors weigh (for Envoy, only if it is said).
BY_LOAD_CONFIG = client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin(
    error_utilization_penalty=FloatValue(value=1.0)
)


def apply_load_balancer(
    cluster: cluster_pb2.Cluster, asked: LoadBalancerSettings | None, kind: ClientKind, notes: Notes
) -> None:
    """Least request unless asked otherwise, as Istio's sidecars; gRPC takes only round robin and ring hash."""
    asked = asked or LoadBalancerSettings()
    if isinstance(asked, LoadBalancerByLoad):
        cluster.load_balancing_policy.CopyFrom(by_load(kind))
        if asked.warmup or asked.warmup_duration_secs:
            notes.add(f"loadBalancer.warmup left out, {BY_LOAD} learns what an endpoint can take")
        return
    if asked.consistent_hash is not None:
        _apply_hash(cluster, asked.consistent_hash, kind, notes)
        return
    match asked.simple:
        case SimpleLB.ROUND_ROBIN:
            wanted = _Cluster.ROUND_ROBIN
        case SimpleLB.RANDOM:
            wanted = _Cluster.RANDOM
        case SimpleLB.PASSTHROUGH:
            # Handled where the cluster's type is chosen: it has no endpoints to balance.
            return
        case _:
            wanted = _Cluster.LEAST_REQUEST
    if kind is ClientKind.GRPC and wanted != _Cluster.ROUND_ROBIN:
        if asked.simple not in (None, SimpleLB.UNSPECIFIED):
            notes.add(f"loadBalancer {asked.simple.value}: gRPC refuses it, sent as ROUND_ROBIN")
        wanted = _Cluster.ROUND_ROBIN
    cluster.lb_policy = wanted
    warmup = asked.warmup.duration if asked.warmup else asked.warmup_duration_secs
    if not warmup:
        return
    if kind is not ClientKind.ENVOY:
        notes.add(f"loadBalancer.warmup left out, {kind.value} clients do not start slowly")
        return
    if wanted == _Cluster.RANDOM:
        return
    config = cluster.least_request_lb_config if wanted == _Cluster.LEAST_REQUEST else cluster.round_robin_lb_config
    config.slow_start_config.slow_start_window.CopyFrom(duration(warmup))
    if asked.warmup and asked.warmup.minimum_percent is not None:
        config.slow_start_config.min_weight_percent.value = asked.warmup.minimum_percent
    if asked.warmup and asked.warmup.aggression is not None:
        config.slow_start_config.aggression.default_value = asked.warmup.aggression
        config.slow_start_config.aggression.runtime_key = ""


def by_load(kind: ClientKind) -> cluster_pb2.LoadBalancingPolicy:
    policy = _policy(BY_LOAD, BY_LOAD_CONFIG)
    return policy if kind is ClientKind.ENVOY else _within_localities(policy)


def heed_localities(cluster: cluster_pb2.Cluster) -> None:
    """Have an Envoy choose a locality by its weight first; gRPC and our own clients always do."""
    if cluster.HasField("load_balancing_policy"):
        # It does not take the one together with the other.
        cluster.load_balancing_policy.CopyFrom(_within_localities(cluster.load_balancing_policy))
    else:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()


def _within_localities(policy: cluster_pb2.LoadBalancingPolicy) -> cluster_pb2.LoadBalancingPolicy:
    """gRFC A52."""
    return _policy("wrr_locality", wrr_locality_pb2.WrrLocality(endpoint_picking_policy=policy))


def _policy(name: str, config: Message) -> cluster_pb2.LoadBalancingPolicy:
    extension = extension_pb2.TypedExtensionConfig(
        name=f"envoy.load_balancing_policies.{name}", typed_config=pack(config)
    )
    return cluster_pb2.LoadBalancingPolicy(
        policies=[cluster_pb2.LoadBalancingPolicy.Policy(typed_extension_config=extension)]
    )


def _apply_hash(cluster: cluster_pb2.Cluster, asked: ConsistentHashLB, kind: ClientKind, notes: Notes) -> None:
    if kind is ClientKind.PROXYLESS and asked.use_source_ip:
        # It is the caller: there is no connection whose address could be hashed.
        notes.add(
            "loadBalancer.consistentHash.useSourceIp left out, proxyless clients balance by least request instead"
        )
        cluster.lb_policy = _Cluster.LEAST_REQUEST
        return
    if kind is ClientKind.GRPC and not asked.http_header_name:
        notes.add("loadBalancer.consistentHash: gRPC clients hash headers only, others balance at random")
    if asked.maglev is not None:
        if kind is ClientKind.GRPC:
            notes.add("loadBalancer.consistentHash.maglev: gRPC refuses it, sent as ringHash")
        else:
            cluster.lb_policy = _Cluster.MAGLEV
            if asked.maglev.table_size:
                cluster.maglev_lb_config.table_size.value = asked.maglev.table_size
            return
    cluster.lb_policy = _Cluster.RING_HASH
    size = (asked.ring_hash.minimum_ring_size if asked.ring_hash else asked.minimum_ring_size) or _DEFAULT_RING_SIZE
    cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(UInt64Value(value=size))


def hash_policy(asked: LoadBalancerSettings | None, kind: ClientKind) -> rc.RouteAction.HashPolicy | None:
    """What a route must hash for a cluster with this balancer; None when it does not balance by hash."""
    if asked is None or asked.consistent_hash is None:
        return None
    key = asked.consistent_hash
    if kind is ClientKind.PROXYLESS and key.use_source_ip:
        return None
    policy = rc.RouteAction.HashPolicy()
    if key.http_header_name:
        policy.header.header_name = key.http_header_name
    elif key.http_cookie is not None:
        policy.cookie.name = key.http_cookie.name
        policy.cookie.path = key.http_cookie.path
        if key.http_cookie.ttl is not None:
            policy.cookie.ttl.CopyFrom(duration(key.http_cookie.ttl))
        for attribute in key.http_cookie.attributes:
            policy.cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif key.use_source_ip:
        policy.connection_properties.source_ip = True
    elif key.http_query_parameter_name:
        policy.query_parameter.name = key.http_query_parameter_name
    else:
        return None
    return policy

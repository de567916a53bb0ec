"""Load balancing policies: Cluster.load_balancing_policy (gRFC A52) when it is set, else Cluster.lb_policy."""

from typing import Any

from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2

from proxyless.model.cluster import LoadBalancer
from proxyless.xds_client.compile.decode import is_a, unpack

_BY_ENUM = {
    "ROUND_ROBIN": LoadBalancer.ROUND_ROBIN,
    "LEAST_REQUEST": LoadBalancer.LEAST_REQUEST,
    "RANDOM": LoadBalancer.RANDOM,
}
_PREFIX = "envoy.extensions.load_balancing_policies."
_BY_TYPE = {
    f"{_PREFIX}round_robin.v3.RoundRobin": LoadBalancer.ROUND_ROBIN,
    f"{_PREFIX}least_request.v3.LeastRequest": LoadBalancer.LEAST_REQUEST,
    f"{_PREFIX}random.v3.Random": LoadBalancer.RANDOM,
}
# gRFC A52 bounds the nesting as well.
_DEEPEST = 16


def balancer(cluster: Any, ignored: list[str]) -> LoadBalancer:
    """The first policy we know, else ROUND_ROBIN and a report: a policy must not make a cluster unreachable."""
    if cluster.HasField("load_balancing_policy"):
        found = _first(cluster.load_balancing_policy, _DEEPEST)
        if found is not None:
            return found
        names = ", ".join(
            policy.typed_extension_config.name or policy.typed_extension_config.typed_config.type_url
            for policy in cluster.load_balancing_policy.policies
        )
        ignored.append(f"load_balancing_policy {names or '(empty)'}: balanced as ROUND_ROBIN")
        return LoadBalancer.ROUND_ROBIN
    number = int(cluster.lb_policy)
    known = cluster.DESCRIPTOR.enum_types_by_name["LbPolicy"].values_by_number
    name = known[number].name if number in known else str(number)
    if name not in _BY_ENUM and name != "CLUSTER_PROVIDED":
        ignored.append(f"lb_policy {name}: balanced as ROUND_ROBIN")
    return _BY_ENUM.get(name, LoadBalancer.ROUND_ROBIN)


def _first(policies: Any, depth: int) -> LoadBalancer | None:
    if depth == 0:
        return None
    for policy in policies.policies:
        config = policy.typed_extension_config.typed_config
        found = _BY_TYPE.get(config.type_url.rpartition("/")[2])
        if found is None and is_a(config, wrr_locality_pb2.WrrLocality):
            nested = unpack(config, wrr_locality_pb2.WrrLocality, "load_balancing_policy")
            found = _first(nested.endpoint_picking_policy, depth - 1)
        if found is not None:
            return found
    return None

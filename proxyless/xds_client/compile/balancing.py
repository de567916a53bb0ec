"""Load balancing policies: Cluster.load_balancing_policy (gRFC A52) when it is set, else Cluster.lb_policy."""

from typing import Any

from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.maglev.v3 import maglev_pb2
from envoy.extensions.load_balancing_policies.ring_hash.v3 import ring_hash_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2

from proxyless.model.cluster import Hashing, LoadBalancer, LoadWeighting
from proxyless.xds_client.compile.decode import FieldError, is_a, seconds, set_fields, unpack

_BY_ENUM = {
    "ROUND_ROBIN": LoadBalancer.ROUND_ROBIN,
    "LEAST_REQUEST": LoadBalancer.LEAST_REQUEST,
    "RANDOM": LoadBalancer.RANDOM,
    "RING_HASH": LoadBalancer.RING_HASH,
    "MAGLEV": LoadBalancer.MAGLEV,
}
_PREFIX = "envoy.extensions.load_balancing_policies."
_BY_TYPE = {
    f"{_PREFIX}round_robin.v3.RoundRobin": LoadBalancer.ROUND_ROBIN,
    f"{_PREFIX}least_request.v3.LeastRequest": LoadBalancer.LEAST_REQUEST,
    f"{_PREFIX}random.v3.Random": LoadBalancer.RANDOM,
}
# Envoy's largest ring and table. A Python process does not make them that large: gRFC A42 caps rings as well.
_LARGEST_RING = 8 * 1024 * 1024
_LARGEST_TABLE = 5_000_011
_OUR_LARGEST_TABLE = 1_000_003
_MURMUR = 1  # Cluster.RingHashLbConfig.HashFunction
_MURMUR_TYPED = 2  # RingHash.HashFunction
Balancing = tuple[LoadBalancer, Hashing | LoadWeighting | None]
# gRFC A58 caps shorter periods.
_LEAST_UPDATE_PERIOD = 0.1
_ByLoad = client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin
# gRFC A52 bounds the nesting as well.
_DEEPEST = 16


def balancer(cluster: Any, ignored: list[str]) -> Balancing:
    """The first policy we know, else ROUND_ROBIN and a report: a policy must not make a cluster unreachable."""
    if cluster.HasField("load_balancing_policy"):
        found = _first(cluster.load_balancing_policy, _DEEPEST, ignored)
        if found is not None:
            return found
        names = ", ".join(
            policy.typed_extension_config.name or policy.typed_extension_config.typed_config.type_url
            for policy in cluster.load_balancing_policy.policies
        )
        ignored.append(f"load_balancing_policy {names or '(empty)'}: balanced as ROUND_ROBIN")
        return LoadBalancer.ROUND_ROBIN, None
    number = int(cluster.lb_policy)
    known = cluster.DESCRIPTOR.enum_types_by_name["LbPolicy"].values_by_number
    name = known[number].name if number in known else str(number)
    if name not in _BY_ENUM and name != "CLUSTER_PROVIDED":
        ignored.append(f"lb_policy {name}: balanced as ROUND_ROBIN")
    kind = _BY_ENUM.get(name, LoadBalancer.ROUND_ROBIN)
    common = cluster.common_lb_config.consistent_hashing_lb_config
    if kind is LoadBalancer.RING_HASH:
        config = cluster.ring_hash_lb_config
        return kind, _ring(config, common, ignored, "ring_hash_lb_config", murmur=int(config.hash_function) == _MURMUR)
    if kind is LoadBalancer.MAGLEV:
        return kind, _maglev(cluster.maglev_lb_config, common, ignored, "maglev_lb_config")
    return kind, None


def _first(policies: Any, depth: int, ignored: list[str]) -> Balancing | None:
    if depth == 0:
        return None
    for policy in policies.policies:
        config = policy.typed_extension_config.typed_config
        plain = _BY_TYPE.get(config.type_url.rpartition("/")[2])
        found: Balancing | None = None if plain is None else (plain, None)
        if is_a(config, ring_hash_pb2.RingHash):
            ring = unpack(config, ring_hash_pb2.RingHash, "load_balancing_policy")
            murmur = int(ring.hash_function) == _MURMUR_TYPED
            hashing = _ring(ring, ring.consistent_hashing_lb_config, ignored, "RingHash", murmur=murmur)
            found = LoadBalancer.RING_HASH, hashing
        elif is_a(config, maglev_pb2.Maglev):
            table = unpack(config, maglev_pb2.Maglev, "load_balancing_policy")
            hashing = _maglev(table, table.consistent_hashing_lb_config, ignored, "Maglev")
            found = LoadBalancer.MAGLEV, hashing
        elif is_a(config, _ByLoad):
            weighting = unpack(config, _ByLoad, "load_balancing_policy")
            found = LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN, _weighting(weighting, ignored)
        elif is_a(config, wrr_locality_pb2.WrrLocality):
            nested = unpack(config, wrr_locality_pb2.WrrLocality, "load_balancing_policy")
            found = _first(nested.endpoint_picking_policy, depth - 1, ignored)
        if found is not None:
            return found
    return None


def _weighting(config: Any, ignored: list[str]) -> LoadWeighting:
    what, usual = "ClientSideWeightedRoundRobin", LoadWeighting()
    ignored += set_fields(config, ("slow_start_config",), what)
    if config.enable_oob_load_report.value:
        ignored.append(f"{what}.enable_oob_load_report: what answers tell is used")
    penalty = config.error_utilization_penalty.value
    if not 0 <= penalty < float("inf"):
        raise FieldError(f"{what}.error_utilization_penalty must not be negative, but is {penalty:g}")
    blackout, expiration, update = (
        seconds(getattr(config, name), f"{what}.{name}") if config.HasField(name) else default
        for name, default in (
            ("blackout_period", usual.blackout_period),
            ("weight_expiration_period", usual.expiration_period),
            ("weight_update_period", usual.update_period),
        )
    )
    return LoadWeighting(
        blackout,
        expiration,
        max(_LEAST_UPDATE_PERIOD, update),
        penalty if config.HasField("error_utilization_penalty") else usual.error_utilization_penalty,
        tuple(config.metric_names_for_computing_utilization),
    )


def _ring(config: Any, common: Any, ignored: list[str], what: str, *, murmur: bool) -> Hashing:
    usual = Hashing()
    least = config.minimum_ring_size.value if config.HasField("minimum_ring_size") else usual.minimum_ring_size
    most = config.maximum_ring_size.value if config.HasField("maximum_ring_size") else _LARGEST_RING
    if not 0 < least <= most <= _LARGEST_RING:
        raise FieldError(f"{what}: ring sizes must be from 1 to {_LARGEST_RING}, the minimum not above the maximum")
    if least > usual.maximum_ring_size:
        ignored.append(f"{what}.minimum_ring_size {least}: {usual.maximum_ring_size} is the largest")
    if murmur:
        ignored.append(f"{what}.hash_function MURMUR_HASH_2: XX_HASH is used")
    largest = min(most, usual.maximum_ring_size)
    return Hashing(min(least, largest), largest, use_hostname=_common(common, ignored, what))


def _maglev(config: Any, common: Any, ignored: list[str], what: str) -> Hashing:
    size = config.table_size.value if config.HasField("table_size") else Hashing().table_size
    if not 1 < size <= _LARGEST_TABLE or any(size % n == 0 for n in range(2, int(size**0.5) + 1)):
        raise FieldError(f"{what}.table_size must be a prime up to {_LARGEST_TABLE}, not {size}")
    if size > _OUR_LARGEST_TABLE:
        ignored.append(f"{what}.table_size {size}: {Hashing().table_size} is used")
        size = Hashing().table_size
    return Hashing(table_size=size, use_hostname=_common(common, ignored, what))


def _common(common: Any, ignored: list[str], what: str) -> bool:
    ignored += set_fields(common, ("hash_balance_factor",), what)
    return bool(common.use_hostname_for_hashing)

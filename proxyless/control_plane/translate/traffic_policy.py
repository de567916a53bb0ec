"""What a DestinationRule says about one cluster, once its levels are merged."""

from dataclasses import dataclass, replace
from typing import TypeVar

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.destination_rules import DestinationPolicy
from proxyless.control_plane.discovery.service import Service
from proxyless.control_plane.resources.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    LoadBalancerSettings,
    OutlierDetection,
    ProxyProtocol,
    RetryBudget,
    Subset,
    TrafficPolicy,
    TunnelSettings,
)
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.cluster_name import ClusterName


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """Each block is the one of the most specific level that has it; None where no level does."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None
    tunnel: TunnelSettings | None = None


NO_POLICY = EffectivePolicy()


def effective_policy(top: TrafficPolicy | None, subset: TrafficPolicy | None, port: int) -> EffectivePolicy:
    """The subset's port level, else the subset, else the rule's port level, else the rule (Istio's MergeTrafficPolicy).

    Blocks are taken whole, fields are never mixed. A port level inherits nothing: what it leaves out is the default
    (Istio's API reference of portLevelSettings).
    """
    return _over(_over(NO_POLICY, top, port), subset, port)


def _over(base: EffectivePolicy, policy: TrafficPolicy | None, port: int) -> EffectivePolicy:
    if policy is None:
        return base
    merged = EffectivePolicy(
        load_balancer=_first(policy.load_balancer, base.load_balancer),
        connection_pool=_first(policy.connection_pool, base.connection_pool),
        outlier_detection=_first(policy.outlier_detection, base.outlier_detection),
        tls=_first(policy.tls, base.tls),
        proxy_protocol=_first(policy.proxy_protocol, base.proxy_protocol),
        retry_budget=_first(policy.retry_budget, base.retry_budget),
        tunnel=_first(policy.tunnel, base.tunnel),
    )
    level = next((one for one in policy.port_level_settings if one.port and one.port.number == port), None)
    if level is None:
        return merged
    return replace(
        merged,
        load_balancer=level.load_balancer,
        connection_pool=level.connection_pool,
        outlier_detection=level.outlier_detection,
        tls=level.tls,
    )


Block = TypeVar("Block")


def _first(one: Block | None, other: Block | None) -> Block | None:
    return one if one is not None else other


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """rules: the DestinationRules behind it, None without any. subset: None also when no rule defines it."""

    effective: EffectivePolicy
    rules: DestinationPolicy | None
    subset: Subset | None


def cluster_policy(catalog: Catalog, scope: Scope, name: ClusterName, service: Service | None) -> ClusterPolicy:
    rules = catalog.destination_rules.of(name.host, service, scope.namespace, scope.label_map)
    if rules is None:
        return ClusterPolicy(NO_POLICY, None, None)
    subset = rules.subsets.get(name.subset) if name.subset else None
    effective = effective_policy(rules.traffic_policy, subset.traffic_policy if subset else None, name.port)
    return ClusterPolicy(effective, rules, subset)

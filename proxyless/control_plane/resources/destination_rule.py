"""Istio's DestinationRule (networking.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/networking/destination-rule/
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from proxyless.control_plane.resources.base import (
    Boolean,
    Duration,
    Int32,
    Number,
    PortSelector,
    Spec,
    Text,
    UInt32,
    WorkloadSelector,
    one_of,
)

# An annotation of ours on a DestinationRule, and its only value: Istio's API has no balancer by load. It stands for
# ``trafficPolicy.loadBalancer.simple`` of the rule (a subset or port with a loadBalancer of its own keeps that).
LOAD_BALANCING = "proxyless.io/load-balancing"
BY_LOAD = "client_side_weighted_round_robin"


class SimpleLB(StrEnum):
    """LEAST_CONN is the deprecated name of LEAST_REQUEST."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class HTTPCookieAttribute(Spec):
    name: Text
    value: Text = ""


class HTTPCookie(Spec):
    name: Text
    path: Text = ""
    ttl: Duration | None = None
    attributes: tuple[HTTPCookieAttribute, ...] = ()


class RingHash(Spec):
    minimum_ring_size: UInt32 = 0


class MagLev(Spec):
    table_size: UInt32 = 0


class ConsistentHashLB(Spec):
    http_header_name: Text | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: Boolean | None = None
    http_query_parameter_name: Text | None = None
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt32 = 0

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name")
        one_of(self, "ring_hash", "maglev")
        return self


class LocalityDistribute(Spec):
    from_: Text = Field(default="", alias="from")
    to: Mapping[Text, UInt32] = {}


class LocalityFailover(Spec):
    from_: Text = Field(default="", alias="from")
    to: Text = ""


class LocalityLoadBalancerSetting(Spec):
    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[Text, ...] = ()
    enabled: Boolean | None = None


class WarmupConfiguration(Spec):
    duration: Duration
    minimum_percent: Number | None = None
    aggression: Number | None = None


class LoadBalancerSettings(Spec):
    simple: SimpleLB | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    warmup_duration_secs: Duration | None = None
    warmup: WarmupConfiguration | None = None

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "simple", "consistent_hash")
        return self


class LoadBalancerByLoad(LoadBalancerSettings):
    """What the annotation ``LOAD_BALANCING`` asks for; no field says it."""


class TcpKeepalive(Spec):
    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Spec):
    """connect_timeout, max_connection_duration, idle_timeout: seconds."""

    max_connections: Int32 = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class H2UpgradePolicy(StrEnum):
    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class HTTPSettings(Spec):
    """idle_timeout: seconds. A number of 0 is unset, as in protobuf."""

    http1_max_pending_requests: Int32 = 0
    http2_max_requests: Int32 = 0
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    use_client_protocol: Boolean = False
    max_concurrent_streams: Int32 = 0


class ConnectionPoolSettings(Spec):
    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Spec):
    """None is unset and takes Istio's default, 0 switches a detector off."""

    consecutive_errors: Int32 = 0
    split_external_local_origin_errors: Boolean = False
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Int32 = 0
    min_health_percent: Int32 = 0


class TLSMode(StrEnum):
    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(Spec):
    mode: TLSMode = TLSMode.DISABLE
    client_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    credential_name: Text = ""
    subject_alt_names: tuple[Text, ...] = ()
    sni: Text = ""
    insecure_skip_verify: Boolean | None = None
    ca_crl: Text = ""


class RetryBudget(Spec):
    """percent: of active requests, default 20. min_retry_concurrency: default 3."""

    percent: Number | None = None
    min_retry_concurrency: UInt32 = 0


class PortTrafficPolicy(Spec):
    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TunnelSettings(Spec):
    protocol: Text = ""
    target_host: Text
    target_port: UInt32


class ProxyProtocolVersion(StrEnum):
    V1 = "V1"
    V2 = "V2"


class ProxyProtocol(Spec):
    version: ProxyProtocolVersion = ProxyProtocolVersion.V1


class TrafficPolicy(Spec):
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Spec):
    name: Text
    labels: Mapping[Text, Text] = {}
    traffic_policy: TrafficPolicy | None = None


def annotated(policy: TrafficPolicy | None, annotations: Mapping[str, str]) -> TrafficPolicy | None:
    """A rule's policy with what its annotation asks for."""
    if annotations.get(LOAD_BALANCING) != BY_LOAD:
        return policy
    policy = policy or TrafficPolicy()
    asked = policy.load_balancer or LoadBalancerSettings()
    by_load = LoadBalancerByLoad.model_construct(asked.model_fields_set, **dict(asked))
    return policy.model_copy(update={"load_balancer": by_load})


class DestinationRuleSpec(Spec):
    """export_to: absent means every namespace."""

    host: Text
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[Text, ...] = ()
    workload_selector: WorkloadSelector | None = None

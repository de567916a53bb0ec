"""Clusters and their endpoints (Envoy's config.cluster.v3 and config.endpoint.v3), joined: one object a request can
use.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxyless.model.address import join_address
from proxyless.model.matching import StringMatcher


class LoadBalancer(enum.Enum):
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"
    RANDOM = "RANDOM"
    RING_HASH = "RING_HASH"
    MAGLEV = "MAGLEV"
    CLIENT_SIDE_WEIGHTED_ROUND_ROBIN = "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN"


class Health(enum.Enum):
    """core.v3.HealthStatus, as far as it changes what a client does."""

    HEALTHY = "HEALTHY"  # also UNKNOWN: gRPC and Envoy treat both as usable
    DEGRADED = "DEGRADED"
    DRAINING = "DRAINING"  # no new requests
    UNHEALTHY = "UNHEALTHY"


class Protocol(enum.Enum):
    HTTP1 = "http/1.1"
    HTTP2 = "h2"  # over TLS unless the server says it has only HTTP/1.1; in plaintext with prior knowledge
    AUTO = "auto"  # over TLS what the server chooses (ALPN), else HTTP/1.1


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS to an endpoint, as extensions.transport_sockets.tls.v3.UpstreamTlsContext says it.

    identity: True presents the workload's own certificate (mutual TLS). san: the peer's SPIFFE ID (or DNS name) must
    match one of them; with none, any identity that the mesh's trust bundle vouches for is accepted (gRFC A29).
    mesh_trust: verify against the mesh's trust bundle; False: against the system's.
    Hashable: it is part of a connection pool's key.
    """

    san: tuple[StringMatcher, ...] = ()
    sni: str = ""
    identity: bool = True
    mesh_trust: bool = True
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Locality:
    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that serves a cluster. ``tls`` is already chosen among the cluster's transport sockets (None:
    plaintext).

    ``labels`` feeds telemetry and explanations: workload, namespace, version, ... as the control plane sent them.
    """

    address: str
    port: int
    weight: int = 1
    health: Health = Health.HEALTHY
    hostname: str = ""
    tls: UpstreamTls | None = None
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, int]:
        """What state that outlives a snapshot (connections, ejections, counters) is kept by."""
        return self.address, self.port

    def __str__(self) -> str:
        return join_address(self.address, self.port)


@dataclass(frozen=True, slots=True)
class LocalityEndpoints:
    endpoints: tuple[Endpoint, ...]
    locality: Locality = Locality()
    priority: int = 0
    weight: int = 0  # 0: no locality weighting


@dataclass(frozen=True, slots=True)
class DropOverload:
    category: str
    parts_per_million: int


@dataclass(frozen=True, slots=True)
class Hashing:
    """How RING_HASH and MAGLEV make their tables (Envoy's RingHashLbConfig, MaglevLbConfig; gRFC A42).

    table_size: Maglev's, a prime. use_hostname: an endpoint is hashed by its hostname, not by its address.
    """

    minimum_ring_size: int = 1024
    maximum_ring_size: int = 65_536
    table_size: int = 65_537
    use_hostname: bool = False


@dataclass(frozen=True, slots=True)
class LoadWeighting:
    """How CLIENT_SIDE_WEIGHTED_ROUND_ROBIN weighs endpoints by the load they report (gRFC A58; its defaults).

    Times are seconds. blackout_period: that an endpoint must have reported for before its weight counts.
    expiration_period: without a report after which it does not count any more. update_period: between changes of
    weights. error_utilization_penalty: what a share of errors adds to the utilization. metric_names: utilizations that
    count before that of the processor, the largest of them.
    """

    blackout_period: float = 10.0
    expiration_period: float = 180.0
    update_period: float = 1.0
    error_utilization_penalty: float = 1.0
    metric_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries in flight, as a share of a cluster's requests in flight (Envoy's CircuitBreakers.RetryBudget).

    percent: 0 to 100. minimum: retries that are always allowed.
    """

    percent: float = 20.0
    minimum: int = 3


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Envoy's cluster.v3.OutlierDetection, as far as it counts consecutive failures; the defaults are Envoy's.

    A count of 0 switches its detector off. enforcing_*: percent of detected endpoints that are ejected. Times are
    seconds; an ejection lasts ``base_ejection_time`` times how often it happened, at most ``max_ejection_time``.
    split_local_origin: failures to get any response are counted apart (consecutive_local_origin_failure), else as 5xx.
    """

    consecutive_5xx: int = 5
    enforcing_5xx: int = 100
    consecutive_gateway_failure: int = 5
    enforcing_gateway_failure: int = 0
    split_local_origin: bool = False
    consecutive_local_origin_failure: int = 5
    enforcing_local_origin: int = 100
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejection_percent: int = 10
    always_eject_one: bool = False


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """The kernel's probes of a connection that is silent (Envoy's core.v3.TcpKeepalive).

    time, interval: seconds. 0 leaves a number to the kernel.
    """

    probes: int = 0
    time: int = 0
    interval: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What is different about a cluster's connections. Hashable: it is part of a connection pool's key.

    keepalive: None sends no probes. max_duration: seconds after which a connection takes no further request, None for
    ever (Envoy's max_connection_duration). max_streams: requests at once on one HTTP/2 connection, None for as many as
    the server takes (Envoy's max_concurrent_streams).
    """

    keepalive: TcpKeepalive | None = None
    max_duration: float | None = None
    max_streams: int | None = None


class ClusterKind(enum.Enum):
    ENDPOINTS = "endpoints"  # EDS or static: use ``localities``
    DNS = "dns"  # resolve each endpoint's address, use every answer (STRICT_DNS)
    PASSTHROUGH = "passthrough"  # ORIGINAL_DST: the address the application dialled


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of endpoints that serve the same thing, with how to reach them.

    hashing: set with RING_HASH and MAGLEV. connect_timeout: seconds (Istio's default 10). max_requests_per_connection:
    0 for no limit. idle_timeout: seconds that an unused connection is kept, None for 1 hour (Envoy's default).
    connection_options: None where connections are as everywhere.
    load_weighting: set with CLIENT_SIDE_WEIGHTED_ROUND_ROBIN.
    max_connections, max_pending_requests, max_requests, max_retries: what one process may have open or in flight to
    the cluster (Envoy's circuit_breakers, priority DEFAULT), None for no limit; retry_budget replaces max_retries.
    panic_threshold: percent of usable endpoints below which all are used, 0 for never.
    service, service_namespace: for Istio's ``destination_service*`` labels, from the metadata the control plane sends.
    problem: set when the cluster was named by a route but the control plane does not have it; calls answer 503.
    """

    name: str
    kind: ClusterKind = ClusterKind.ENDPOINTS
    load_balancer: LoadBalancer = LoadBalancer.ROUND_ROBIN
    hashing: Hashing | None = None
    load_weighting: LoadWeighting | None = None
    localities: tuple[LocalityEndpoints, ...] = ()
    drops: tuple[DropOverload, ...] = ()
    protocol: Protocol = Protocol.HTTP1
    tls: UpstreamTls | None = None
    connect_timeout: float = 10.0
    max_requests_per_connection: int = 0
    idle_timeout: float | None = None
    connection_options: ConnectionOptions | None = None
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    retry_budget: RetryBudget | None = None
    outlier_detection: OutlierDetection | None = None
    panic_threshold: float = 0.0
    service: str = ""
    service_namespace: str = ""
    service_host: str = ""
    ignored: tuple[str, ...] = ()
    problem: str = ""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, whatever their priority or health. For people and tests; the balancer reads ``localities``."""
        return tuple(endpoint for group in self.localities for endpoint in group.endpoints)

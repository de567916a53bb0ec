"""Connection pools, circuit breakers and outlier detection of a cluster: how much it is asked, and who is left out."""

from envoy.config.cluster.v3 import cluster_pb2, outlier_detection_pb2
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.wrappers_pb2 import UInt32Value

from proxyless.control_plane.resources.destination_rule import (
    ConnectionPoolSettings,
    H2UpgradePolicy,
    HTTPSettings,
    OutlierDetection,
    RetryBudget,
    TCPSettings,
)
from proxyless.control_plane.translate.client import ClientKind
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.generated import Notes, pack

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Istio's MeshConfig.connectTimeout.
CONNECT_TIMEOUT = 10.0
# Istio lifts Envoy's own limits (1024 connections, 3 retries): unlimited unless somebody sets one.
_UNLIMITED = 2**32 - 1
# Envoy's defaults of a retry budget; Istio's are the same.
_BUDGET_PERCENT = 20.0


def apply_connection_pool(
    cluster: cluster_pb2.Cluster, asked: ConnectionPoolSettings | None, budget: RetryBudget | None, kind: ClientKind
) -> None:
    """Timeouts and limits. A number of 0 is unset (protobuf's int32 in Istio's API has no other way to say so)."""
    tcp = asked.tcp if asked and asked.tcp else TCPSettings()
    http = asked.http if asked and asked.http else HTTPSettings()
    # Envoy and gRPC refuse a connect timeout of 0.
    cluster.connect_timeout.CopyFrom(duration(tcp.connect_timeout or CONNECT_TIMEOUT))
    limits = {
        "max_connections": tcp.max_connections,
        "max_pending_requests": http.http1_max_pending_requests,
        "max_requests": http.http2_max_requests,
        "max_retries": http.max_retries,
    }
    # A client of ours has no limits to lift: it is told of those that somebody set.
    if kind is not ClientKind.PROXYLESS or any(value > 0 for value in limits.values()) or budget is not None:
        threshold = cluster.circuit_breakers.thresholds.add()
        for name, value in limits.items():
            getattr(threshold, name).CopyFrom(UInt32Value(value=value if value > 0 else _UNLIMITED))
        if kind is ClientKind.ENVOY:
            threshold.track_remaining = True
        if budget is not None:
            percent = _BUDGET_PERCENT if budget.percent is None else budget.percent
            threshold.retry_budget.budget_percent.value = percent
            if budget.min_retry_concurrency:
                threshold.retry_budget.min_retry_concurrency.value = budget.min_retry_concurrency
    if (keepalive := tcp.tcp_keepalive) is not None:
        target = cluster.upstream_connection_options.tcp_keepalive
        if keepalive.probes:
            target.keepalive_probes.value = keepalive.probes
        if keepalive.time:
            target.keepalive_time.value = max(1, round(keepalive.time))
        if keepalive.interval:
            target.keepalive_interval.value = max(1, round(keepalive.interval))


def http_options(
    asked: ConnectionPoolSettings | None, *, http2: bool, sniffed: bool, kind: ClientKind, notes: Notes
) -> HttpProtocolOptions | None:
    """Which HTTP version to speak and how long connections last; None when Envoy's defaults (HTTP/1.1) say it all."""
    if kind is ClientKind.GRPC:
        return None  # gRPC is HTTP/2 and manages its connections itself
    http = asked.http if asked and asked.http else HTTPSettings()
    tcp = asked.tcp if asked and asked.tcp else TCPSettings()
    options = HttpProtocolOptions()
    common = options.common_http_protocol_options
    idle = http.idle_timeout if http.idle_timeout is not None else tcp.idle_timeout
    if idle is not None:
        common.idle_timeout.CopyFrom(duration(idle))
    if http.max_requests_per_connection > 0:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    if tcp.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    configured = options.HasField("common_http_protocol_options")
    http2 = http2 or http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE
    follow = http.use_client_protocol or (sniffed and not http2)
    if follow and kind is ClientKind.ENVOY:
        # Nobody said which HTTP the port speaks: what the caller speaks is the best guess (Istio).
        use_callers_protocol(options)
        if http.max_concurrent_streams > 0:
            http2_options = options.use_downstream_protocol_config.http2_protocol_options
            http2_options.max_concurrent_streams.value = http.max_concurrent_streams
        return options
    if http.use_client_protocol:
        notes.add("connectionPool.http.useClientProtocol left out, the port's protocol decides")
    if http2:
        options.explicit_http_config.http2_protocol_options.SetInParent()
        if http.max_concurrent_streams > 0:
            streams = options.explicit_http_config.http2_protocol_options.max_concurrent_streams
            streams.value = http.max_concurrent_streams
        return options
    if not configured:
        return None
    options.explicit_http_config.http_protocol_options.SetInParent()
    return options


def use_callers_protocol(options: HttpProtocolOptions) -> None:
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()


def set_http_options(cluster: cluster_pb2.Cluster, options: HttpProtocolOptions | None) -> None:
    if options is not None:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack(options))


def apply_outlier_detection(cluster: cluster_pb2.Cluster, asked: OutlierDetection | None) -> None:
    """Off unless asked for. Where a count is None Envoy's default stays, 0 switches that detector off (Istio)."""
    if asked is None:
        return
    target = outlier_detection_pb2.OutlierDetection(enforcing_success_rate=UInt32Value(value=0))
    consecutive = asked.consecutive_5xx_errors
    if consecutive is None and asked.consecutive_errors:
        consecutive = asked.consecutive_errors
    if consecutive is not None:
        target.consecutive_5xx.value = consecutive
        target.enforcing_consecutive_5xx.value = 100 if consecutive else 0
    if asked.consecutive_gateway_errors is not None:
        target.consecutive_gateway_failure.value = asked.consecutive_gateway_errors
        target.enforcing_consecutive_gateway_failure.value = 100 if asked.consecutive_gateway_errors else 0
    # Envoy refuses an interval of 0.
    if asked.interval:
        target.interval.CopyFrom(duration(asked.interval))
    if asked.base_ejection_time:
        target.base_ejection_time.CopyFrom(duration(asked.base_ejection_time))
    if asked.max_ejection_percent > 0:
        target.max_ejection_percent.value = asked.max_ejection_percent
    if asked.split_external_local_origin_errors:
        target.split_external_local_origin_errors = True
        if asked.consecutive_local_origin_failures:
            target.consecutive_local_origin_failure.value = asked.consecutive_local_origin_failures
            target.enforcing_consecutive_local_origin_failure.value = 100
        target.enforcing_local_origin_success_rate.value = 0
    cluster.outlier_detection.CopyFrom(target)
    # Envoy's panic mode would send to ejected hosts once half are; Istio switches it off.
    cluster.common_lb_config.healthy_panic_threshold.value = float(max(asked.min_health_percent, 0))

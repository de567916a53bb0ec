"""DestinationRule: what Istio's ValidateDestinationRule checks."""

import math

from proxyless.control_plane.resources.destination_rule import (
    BY_LOAD,
    LOAD_BALANCING,
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    DestinationRuleSpec,
    H2UpgradePolicy,
    HTTPSettings,
    LoadBalancerSettings,
    OutlierDetection,
    PortTrafficPolicy,
    SimpleLB,
    TCPSettings,
    TLSMode,
    TrafficPolicy,
)
from proxyless.control_plane.resources.names import is_dns_label, is_host
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.validation.checks import Checks, is_set

# Envoy's limits (RingHashLbConfig, MaglevLbConfig).
_LARGEST_RING = 8 * 1024 * 1024
_LARGEST_TABLE = 5_000_011


def check_destination_rule(checks: Checks, spec: DestinationRuleSpec) -> None:
    if not is_host(spec.host):
        checks.error("spec.host", f"{spec.host!r} is not a host")
    _annotation(checks, spec)
    _policy(checks, "spec.trafficPolicy", spec.traffic_policy)
    seen: set[str] = set()
    for index, subset in enumerate(spec.subsets):
        path = child("spec.subsets", index)
        if not is_dns_label(subset.name):
            checks.error(f"{path}.name", f"{subset.name!r} is not a subset name (lower case letters, digits, '-')")
        if subset.name in seen:
            checks.error(f"{path}.name", f"the subset {subset.name} is defined twice; rename or remove one")
        seen.add(subset.name)
        checks.labels(f"{path}.labels", subset.labels)
        _policy(checks, f"{path}.trafficPolicy", subset.traffic_policy)
    checks.export_to("spec.exportTo", spec.export_to)
    if spec.workload_selector is not None:
        checks.labels("spec.workloadSelector.matchLabels", spec.workload_selector.match_labels)


def _annotation(checks: Checks, spec: DestinationRuleSpec) -> None:
    asked = checks.resource.annotations.get(LOAD_BALANCING)
    if asked is None:
        return
    path = child("metadata.annotations", LOAD_BALANCING)
    if asked != BY_LOAD:
        remedy = f"use {BY_LOAD}, or remove it and set spec.trafficPolicy.loadBalancer"
        checks.error(path, f"{asked!r} is no balancer that an annotation chooses; {remedy}")
    balancer = spec.traffic_policy.load_balancer if spec.traffic_policy else None
    if balancer is not None and (balancer.consistent_hash or balancer.simple not in (None, SimpleLB.UNSPECIFIED)):
        field = "consistentHash" if balancer.consistent_hash else "simple"
        checks.error(path, f"may not be set together with spec.trafficPolicy.loadBalancer.{field}; remove one of them")


def _policy(checks: Checks, path: str, policy: TrafficPolicy | None) -> None:
    if policy is None:
        return
    if not is_set(policy):
        checks.error(path, "must set at least one field; remove it if there is nothing to set")
    _parts(checks, path, policy)
    seen: set[int] = set()
    for index, settings in enumerate(policy.port_level_settings):
        here = f"{path}.portLevelSettings[{index}]"
        if settings.port is None:
            checks.error(f"{here}.port", "is required")
        elif settings.port.number in seen:
            checks.error(f"{here}.port", f"port {settings.port.number} has settings twice; merge them")
        else:
            seen.add(settings.port.number)
        if not settings.model_fields_set - {"port"}:
            checks.error(here, "must set at least one field beside port")
        _parts(checks, here, settings)
    if policy.tunnel is not None:
        if policy.tunnel.protocol not in ("", "CONNECT", "POST"):
            checks.error(f"{path}.tunnel.protocol", "must be CONNECT or POST")
        if not 1 <= policy.tunnel.target_port <= 65535:
            checks.error(f"{path}.tunnel.targetPort", "must be from 1 to 65535")
    budget = policy.retry_budget.percent if policy.retry_budget else None
    if budget is not None and not 0 <= budget <= 100:
        checks.error(f"{path}.retryBudget.percent", "must be from 0 to 100")


def _parts(checks: Checks, path: str, policy: TrafficPolicy | PortTrafficPolicy) -> None:
    _load_balancer(checks, f"{path}.loadBalancer", policy.load_balancer)
    check_connection_pool(checks, f"{path}.connectionPool", policy.connection_pool)
    _outliers(checks, f"{path}.outlierDetection", policy.outlier_detection)
    _tls(checks, f"{path}.tls", policy.tls)


def _load_balancer(checks: Checks, path: str, settings: LoadBalancerSettings | None) -> None:
    if settings is None:
        return
    if settings.simple is SimpleLB.LEAST_CONN:
        checks.warning(f"{path}.simple", "LEAST_CONN is deprecated; use LEAST_REQUEST", code="Deprecated")
    if settings.consistent_hash is not None:
        _consistent_hash(checks, f"{path}.consistentHash", settings.consistent_hash)
    checks.duration(f"{path}.warmupDurationSecs", settings.warmup_duration_secs)
    if settings.warmup is not None:
        checks.duration(f"{path}.warmup.duration", settings.warmup.duration)
        if settings.warmup.minimum_percent is not None and not 0 <= settings.warmup.minimum_percent <= 100:
            checks.error(f"{path}.warmup.minimumPercent", "must be from 0 to 100")
        if settings.warmup.aggression is not None and settings.warmup.aggression < 1:
            checks.error(f"{path}.warmup.aggression", "must be at least 1")
    locality = settings.locality_lb_setting
    if locality is None:
        return
    here = f"{path}.localityLbSetting"
    if locality.distribute and (locality.failover or locality.failover_priority):
        checks.error(here, "distribute may not be set together with failover or failoverPriority")
    for index, distribute in enumerate(locality.distribute):
        if sum(distribute.to.values()) != 100:
            checks.error(f"{here}.distribute[{index}].to", "the weights must add up to 100")
    for index, failover in enumerate(locality.failover):
        if failover.from_ == failover.to:
            checks.error(f"{here}.failover[{index}]", "from and to must be different regions")


def _consistent_hash(checks: Checks, path: str, settings: ConsistentHashLB) -> None:
    if not settings.model_fields_set & {
        "http_header_name",
        "http_cookie",
        "use_source_ip",
        "http_query_parameter_name",
    }:
        checks.error(path, "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName is required")
    if settings.http_header_name is not None:
        checks.header_name(f"{path}.httpHeaderName", settings.http_header_name)
    if settings.http_cookie is not None and not settings.http_cookie.name:
        checks.error(f"{path}.httpCookie.name", "is required")
    if settings.http_cookie is not None:
        checks.duration(f"{path}.httpCookie.ttl", settings.http_cookie.ttl, zero=True)
    for field, size in (
        ("minimumRingSize", settings.minimum_ring_size),
        ("ringHash.minimumRingSize", settings.ring_hash.minimum_ring_size if settings.ring_hash else 0),
    ):
        if size > _LARGEST_RING:
            checks.error(f"{path}.{field}", f"must be at most {_LARGEST_RING}, the largest ring that proxies take")
    table = settings.maglev.table_size if settings.maglev else 0
    if table > _LARGEST_TABLE or (table and not _is_prime(table)):
        checks.error(f"{path}.maglev.tableSize", f"must be a prime number of at most {_LARGEST_TABLE}, such as 65537")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def check_connection_pool(checks: Checks, path: str, pool: ConnectionPoolSettings | None) -> None:
    if pool is None:
        return
    if pool.tcp is None and pool.http is None:
        checks.error(path, "one of tcp, http is required")
    if pool.tcp is not None:
        _tcp(checks, f"{path}.tcp", pool.tcp)
    if pool.http is not None:
        _http(checks, f"{path}.http", pool.http)


def _tcp(checks: Checks, path: str, tcp: TCPSettings) -> None:
    if not is_set(tcp):
        checks.error(path, "must set at least one field")
    checks.not_negative(f"{path}.maxConnections", tcp.max_connections)
    checks.duration(f"{path}.connectTimeout", tcp.connect_timeout)
    checks.duration(f"{path}.maxConnectionDuration", tcp.max_connection_duration)
    checks.duration(f"{path}.idleTimeout", tcp.idle_timeout, zero=True)
    if tcp.tcp_keepalive is not None:
        checks.duration(f"{path}.tcpKeepalive.time", tcp.tcp_keepalive.time)
        checks.duration(f"{path}.tcpKeepalive.interval", tcp.tcp_keepalive.interval)


def _http(checks: Checks, path: str, http: HTTPSettings) -> None:
    if not is_set(http):
        checks.error(path, "must set at least one field")
    for field, number in (
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ):
        checks.not_negative(child(path, field), number)
    checks.duration(f"{path}.idleTimeout", http.idle_timeout)
    if http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE and http.use_client_protocol:
        checks.error(f"{path}.useClientProtocol", "may not be true when h2UpgradePolicy is UPGRADE")


def _outliers(checks: Checks, path: str, outliers: OutlierDetection | None) -> None:
    if outliers is None:
        return
    if "consecutive_errors" in outliers.model_fields_set:
        message = "is deprecated; use consecutive5xxErrors or consecutiveGatewayErrors"
        checks.warning(f"{path}.consecutiveErrors", message, code="Deprecated")
    checks.duration(f"{path}.interval", outliers.interval)
    checks.duration(f"{path}.baseEjectionTime", outliers.base_ejection_time)
    for field, percent in (
        ("maxEjectionPercent", outliers.max_ejection_percent),
        ("minHealthPercent", outliers.min_health_percent),
    ):
        if not 0 <= percent <= 100:
            checks.error(child(path, field), f"{percent} is not a percentage from 0 to 100")


def _tls(checks: Checks, path: str, tls: ClientTLSSettings | None) -> None:
    if tls is None:
        return
    own = tls.model_fields_set & {"client_certificate", "private_key", "ca_certificates", "credential_name", "ca_crl"}
    if tls.mode is TLSMode.ISTIO_MUTUAL and own:
        checks.error(path, "mode ISTIO_MUTUAL uses the mesh's own certificates; remove the certificate fields")
    if tls.insecure_skip_verify and (tls.ca_certificates or tls.subject_alt_names):
        checks.error(f"{path}.insecureSkipVerify", "may not be true together with caCertificates or subjectAltNames")
    if tls.credential_name and (tls.client_certificate or tls.private_key or tls.ca_certificates):
        checks.error(f"{path}.credentialName", "may not be set together with certificate files")
    if tls.mode is TLSMode.MUTUAL and not tls.credential_name:
        for field, value in (("clientCertificate", tls.client_certificate), ("privateKey", tls.private_key)):
            if not value:
                checks.error(child(path, field), "is required in mode MUTUAL, unless credentialName is set")
    if tls.mode is TLSMode.SIMPLE and (tls.client_certificate or tls.private_key):
        checks.error(path, "clientCertificate and privateKey are for mode MUTUAL")

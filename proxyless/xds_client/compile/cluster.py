"""CDS: a Cluster, and how it joins its endpoints: each endpoint gets the TLS that its metadata asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from proxyless.model.cluster import (
    Cluster,
    ClusterKind,
    ConnectionOptions,
    Endpoint,
    Hashing,
    LoadWeighting,
    LocalityEndpoints,
    Protocol,
    RetryBudget,
    TcpKeepalive,
    UpstreamTls,
)
from proxyless.xds_client.compile import metadata, tls
from proxyless.xds_client.compile.balancing import balancer
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, seconds, set_fields, text_map, unpack
from proxyless.xds_client.compile.endpoint import AssignedEndpoint, LoadAssignment, load_assignment
from proxyless.xds_client.compile.outliers import outlier_detection

# Envoy: Cluster.connect_timeout when it is absent.
_CONNECT_TIMEOUT = 5.0
# Envoy: an idle_timeout of 0 never closes an idle connection.
NO_IDLE_TIMEOUT = 10 * 366 * 86_400.0
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_IGNORED = (
    "lb_subset_config", "upstream_bind_config", "preconnect_policy",
    "track_timeout_budgets",
    "lrs_server", "transport_socket_matcher", "upstream_config", "health_checks", "filters",
)  # fmt: skip
_IGNORED_COMMON_LB = ("zone_aware_lb_config", "override_host_status")
_IGNORED_HTTP = ("http_filters", "hash_policy", "request_mirror_policies", "retry_policy")
_IGNORED_COMMON_HTTP = ("max_stream_duration", "max_headers_count")
# The most that Linux takes for TCP_KEEPCNT, and for TCP_KEEPIDLE and TCP_KEEPINTVL.
_MOST_PROBES, _LONGEST_PROBING = 127, 32_767
# Istio and Envoy spell "no limit" as the largest uint32.
_NO_LIMIT = 2**32 - 1


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster without its endpoints.

    eds_name: the EDS resource that has them, None when ``inline`` has them or none are needed.
    """

    cluster: Cluster
    eds_name: str | None = None
    inline: LoadAssignment | None = None
    sockets: tuple[tuple[Mapping[str, str], UpstreamTls | None], ...] = ()

    def join(self, assignment: LoadAssignment | None) -> Cluster:
        """The cluster with its endpoints. None: the control plane has none for it."""
        assignment = assignment or self.inline
        if assignment is None:
            return self.cluster
        return replace(
            self.cluster,
            localities=tuple(
                LocalityEndpoints(
                    tuple(self._with_tls(one, group.socket_match) for one in group.endpoints),
                    group.locality,
                    group.priority,
                    group.weight,
                )
                for group in assignment.localities
            ),
            drops=assignment.drops,
            ignored=tuple(dict.fromkeys(self.cluster.ignored + assignment.ignored)),
        )

    def _with_tls(self, one: AssignedEndpoint, inherited: Mapping[str, str]) -> Endpoint:
        if not self.sockets:
            return replace(one.endpoint, tls=self.cluster.tls)
        # Envoy: the first match all of whose values the endpoint has, its own metadata before its locality's.
        for asked in (one.socket_match, inherited) if inherited else (one.socket_match,):
            for wanted, socket in self.sockets:
                if all(asked.get(key) == value for key, value in wanted.items()):
                    return replace(one.endpoint, tls=socket)
            if asked:
                break
        return replace(one.endpoint, tls=self.cluster.tls)


def compile_cluster(message: cluster_pb2.Cluster) -> ClusterSpec:
    try:
        return _cluster(message)
    except FieldError as error:
        raise InvalidResource(message.name, str(error)) from error


def _cluster(message: Any) -> ClusterSpec:
    if not message.name:
        raise FieldError("name is empty")
    ignored: list[str] = []
    kind, eds_name, inline = _discovery(message)
    default, sockets = _sockets(message, ignored)
    host, service, namespace = metadata.service(message.metadata)
    http = _http(message, ignored)
    ignored += set_fields(message, _IGNORED)
    ignored += set_fields(message.common_lb_config, _IGNORED_COMMON_LB, "common_lb_config")
    limits = _limits(message.circuit_breakers, ignored)
    timeout = (
        seconds(message.connect_timeout, "connect_timeout") if message.HasField("connect_timeout") else _CONNECT_TIMEOUT
    )
    if not timeout:
        raise FieldError("connect_timeout must be more than 0")
    load_balancer, settings = balancer(message, ignored)
    cluster = Cluster(
        name=message.name,
        kind=kind,
        load_balancer=load_balancer,
        hashing=settings if isinstance(settings, Hashing) else None,
        load_weighting=settings if isinstance(settings, LoadWeighting) else None,
        protocol=http.protocol,
        tls=default,
        connect_timeout=timeout,
        max_requests_per_connection=http.max_requests,
        idle_timeout=http.idle_timeout,
        connection_options=_connection_options(message, http),
        max_connections=limits.max_connections,
        max_pending_requests=limits.max_pending_requests,
        max_requests=limits.max_requests,
        max_retries=limits.max_retries,
        retry_budget=limits.retry_budget,
        outlier_detection=outlier_detection(message.outlier_detection, ignored)
        if message.HasField("outlier_detection")
        else None,
        panic_threshold=min(100.0, max(0.0, message.common_lb_config.healthy_panic_threshold.value)),
        service=service,
        service_namespace=namespace,
        service_host=host,
        ignored=tuple(dict.fromkeys(ignored)),
        problem=metadata.problem(message.metadata),
    )
    return ClusterSpec(cluster, eds_name, inline, sockets)


def _discovery(message: Any) -> tuple[ClusterKind, str | None, LoadAssignment | None]:
    if message.WhichOneof("cluster_discovery_type") == "cluster_type":
        raise FieldError(f"cluster_type {message.cluster_type.name or '(unnamed)'} is not supported")
    match int(message.type):
        case cluster_pb2.Cluster.EDS:
            source = message.eds_cluster_config.eds_config.WhichOneof("config_source_specifier")
            if source not in ("ads", "self"):
                raise FieldError(
                    f"eds_cluster_config.eds_config is {source or 'missing'}: only ads and self are supported"
                )
            return ClusterKind.ENDPOINTS, message.eds_cluster_config.service_name or message.name, None
        case cluster_pb2.Cluster.STATIC:
            return ClusterKind.ENDPOINTS, None, load_assignment(message.load_assignment, names_allowed=False)
        case cluster_pb2.Cluster.STRICT_DNS:
            return ClusterKind.DNS, None, load_assignment(message.load_assignment, names_allowed=True)
        case cluster_pb2.Cluster.LOGICAL_DNS:
            inline = load_assignment(message.load_assignment, names_allowed=True)
            if len([one for group in inline.localities for one in group.endpoints]) != 1:
                raise FieldError("a LOGICAL_DNS cluster must have exactly one endpoint")
            return ClusterKind.DNS, None, inline
        case cluster_pb2.Cluster.ORIGINAL_DST:
            return ClusterKind.PASSTHROUGH, None, None
        case number:
            raise FieldError(f"type {number} is not supported")


def _sockets(
    message: Any, ignored: list[str]
) -> tuple[UpstreamTls | None, tuple[tuple[Mapping[str, str], UpstreamTls | None], ...]]:
    default = (
        tls.upstream(message.transport_socket, ignored, "transport_socket")
        if message.HasField("transport_socket")
        else None
    )
    matches = []
    for one in message.transport_socket_matches:
        where = f"transport_socket_matches[{one.name}]"
        if any(not value.HasField("string_value") for value in one.match.fields.values()):
            raise FieldError(f"{where}.match: only text values are supported")
        matches.append((text_map(one.match), tls.upstream(one.transport_socket, ignored, where)))
    return default, tuple(matches)


@dataclass(frozen=True, slots=True)
class _Http:
    protocol: Protocol
    max_requests: int
    idle_timeout: float | None
    max_duration: float | None
    max_streams: int | None


def _http(message: Any, ignored: list[str]) -> _Http:
    protocol = Protocol.HTTP2 if message.HasField("http2_protocol_options") else Protocol.HTTP1
    http2 = message.http2_protocol_options
    common = message.common_http_protocol_options
    max_requests = message.max_requests_per_connection.value
    for name in message.typed_extension_protocol_options:
        if name != HTTP_OPTIONS:
            ignored.append(f"typed_extension_protocol_options[{name}]")
    if HTTP_OPTIONS in message.typed_extension_protocol_options:
        options = unpack(
            message.typed_extension_protocol_options[HTTP_OPTIONS],
            http_protocol_options_pb2.HttpProtocolOptions,
            HTTP_OPTIONS,
        )
        common = options.common_http_protocol_options
        protocol = _protocol(options)
        chosen = options.auto_config if protocol is Protocol.AUTO else options.explicit_http_config
        http2 = chosen.http2_protocol_options
        ignored += set_fields(options, ("outlier_detection",))
        ignored += set_fields(options, _IGNORED_HTTP, "HttpProtocolOptions")
    ignored += set_fields(common, _IGNORED_COMMON_HTTP, "common_http_protocol_options")
    idle = seconds(common.idle_timeout, "idle_timeout") or NO_IDLE_TIMEOUT if common.HasField("idle_timeout") else None
    asked = common.HasField("max_connection_duration")
    max_duration = seconds(common.max_connection_duration, "max_connection_duration") if asked else None
    max_streams = http2.max_concurrent_streams.value if http2.HasField("max_concurrent_streams") else None
    if max_streams == 0:
        raise FieldError("http2_protocol_options.max_concurrent_streams must be more than 0")
    most = common.max_requests_per_connection.value or max_requests
    return _Http(protocol, most, idle, max_duration, max_streams)


def _connection_options(message: Any, http: _Http) -> ConnectionOptions | None:
    keepalive = None
    if message.upstream_connection_options.HasField("tcp_keepalive"):
        asked = message.upstream_connection_options.tcp_keepalive
        keepalive = TcpKeepalive(
            min(asked.keepalive_probes.value, _MOST_PROBES),
            min(asked.keepalive_time.value, _LONGEST_PROBING),
            min(asked.keepalive_interval.value, _LONGEST_PROBING),
        )
    options = ConnectionOptions(keepalive, http.max_duration, http.max_streams)
    return None if options == ConnectionOptions() else options


def _protocol(options: Any) -> Protocol:
    match options.WhichOneof("upstream_protocol_options"):
        case "explicit_http_config":
            chosen = options.explicit_http_config.WhichOneof("protocol_config")
            if chosen == "http3_protocol_options":
                raise FieldError("HttpProtocolOptions: HTTP/3 is not supported")
            return Protocol.HTTP2 if chosen == "http2_protocol_options" else Protocol.HTTP1
        case "auto_config":
            return Protocol.AUTO
        case _:
            # use_downstream_protocol_config: a request through httpx starts as HTTP/1.1.
            pass
    return Protocol.HTTP1


@dataclass(frozen=True, slots=True)
class _Limits:
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    retry_budget: RetryBudget | None = None


def _limits(breakers: Any, ignored: list[str]) -> _Limits:
    """Of the first threshold of priority DEFAULT (gRFC A32). What is not said is no limit, where Envoy has 1024 and 3:
    Istio always says it, and no limit is what a process that dials by itself has.
    """
    found: Any = None
    for thresholds in breakers.thresholds:
        if thresholds.priority != 0:
            ignored.append("circuit_breakers.thresholds of priority HIGH")
        elif found is None:
            found = thresholds
    if breakers.per_host_thresholds:
        ignored.append("circuit_breakers.per_host_thresholds")
    if found is None:
        return _Limits()
    ignored += set_fields(found, ("max_connection_pools",), "circuit_breakers")
    connections, pending, requests, retries = (
        getattr(found, name).value if found.HasField(name) and getattr(found, name).value != _NO_LIMIT else None
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    )
    budget = _retry_budget(found.retry_budget) if found.HasField("retry_budget") else None
    return _Limits(connections, pending, requests, retries, budget)


def _retry_budget(budget: Any) -> RetryBudget:
    percent, minimum = budget.budget_percent, budget.min_retry_concurrency
    unset = RetryBudget()
    if budget.HasField("budget_percent") and not 0 <= percent.value <= 100:
        raise FieldError(f"circuit_breakers.retry_budget.budget_percent must be from 0 to 100, not {percent.value:g}")
    return RetryBudget(
        percent.value if budget.HasField("budget_percent") else unset.percent,
        minimum.value if budget.HasField("min_retry_concurrency") else unset.minimum,
    )

"""CDS: one cluster for each port and subset of a service."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.discovery.service import Resolution, Service, ServicePort
from proxyless.control_plane.resources.destination_rule import SimpleLB
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_build import ClusterBuild
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE, PASSTHROUGH, ClusterName
from proxyless.control_plane.translate.cluster_tls import add_auto_sni, apply_proxy_protocol, apply_tls, auto_sni
from proxyless.control_plane.translate.connection_pool import (
    CONNECT_TIMEOUT,
    apply_connection_pool,
    apply_outlier_detection,
    http_options,
    set_http_options,
    use_callers_protocol,
)
from proxyless.control_plane.translate.durations import duration
from proxyless.control_plane.translate.endpoints import assignment, members
from proxyless.control_plane.translate.forward_proxy import by_host_header
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.ingress_listeners import ingress_cluster
from proxyless.control_plane.translate.listener import ads
from proxyless.control_plane.translate.load_balancing import apply_load_balancer, heed_localities
from proxyless.control_plane.translate.locality_lb import locality_policy
from proxyless.control_plane.translate.metadata import ISTIO, PROXYLESS, config_path, struct
from proxyless.control_plane.translate.sidecar import sidecar_cluster
from proxyless.control_plane.translate.traffic_policy import ClusterPolicy, cluster_policy

_Cluster = cluster_pb2.Cluster


def cluster(catalog: Catalog, scope: Scope, resource_name: str, notes: Notes) -> cluster_pb2.Cluster | None:
    """None for a name that no route of ours uses.

    A cluster whose service, port or subset does not exist is served without endpoints: gRPC fails at once instead of
    waiting for a resource that never comes, and our own clients say what is wrong. An Envoy that subscribes to all
    clusters does not get it, and answers 503 NC.
    """
    if resource_name == PASSTHROUGH:
        return _pass_through(scope.kind) if scope.kind is not ClientKind.GRPC else None
    if resource_name == BLACK_HOLE:
        return _Cluster(name=BLACK_HOLE, type=_Cluster.STATIC, connect_timeout=duration(CONNECT_TIMEOUT))
    if (application := sidecar_cluster(catalog, scope, resource_name, notes)) is not None:
        return application
    if scope.kind is ClientKind.ENVOY and (ingress := ingress_cluster(catalog, resource_name, notes)) is not None:
        return ingress
    name = ClusterName.parse(resource_name)
    if name is None:
        return None
    service = catalog.service(name.host, scope.namespace)
    port = service.port(name.port) if service else None
    policy = cluster_policy(catalog, scope, name, service)
    problem = _missing(name, service, port, policy)
    notes.stand_in = problem is not None
    result = _Cluster(name=resource_name)
    if service is None or port is None or problem is not None:
        _apply_eds(result, scope)
        result.connect_timeout.CopyFrom(duration(CONNECT_TIMEOUT))
    else:
        problem = _fill(result, ClusterBuild(catalog, scope, name, service, port, policy, notes))
    _add_metadata(result, name, service, policy, problem)
    return result


def _missing(name: ClusterName, service: Service | None, port: ServicePort | None, policy: ClusterPolicy) -> str | None:
    if service is None:
        return f"no service {name.host}"
    if port is None:
        return f"{name.host} has no port {name.port}"
    if name.subset and policy.subset is None:
        return f"no DestinationRule defines subset {name.subset!r} of {name.host}"
    return None


def _fill(result: cluster_pb2.Cluster, build: ClusterBuild) -> str | None:
    effective, service, scope, notes = build.policy.effective, build.service, build.scope, build.notes
    balancer = effective.load_balancer
    asked_through = balancer is not None and balancer.simple is SimpleLB.PASSTHROUGH
    problem = None
    if service.resolution is Resolution.PASSTHROUGH or asked_through:
        if scope.kind is ClientKind.GRPC:
            problem = "gRPC clients cannot pass through to the address that was dialled"
            notes.add(f"{build.name}: left without endpoints, {problem}")
            _apply_eds(result, scope)
        else:
            _to_what_was_dialled(result, scope.kind)
    elif service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}:
        _apply_dns(result, build)
    else:
        _apply_eds(result, scope)
    if result.lb_policy != _Cluster.CLUSTER_PROVIDED:
        apply_load_balancer(result, balancer, scope.kind, notes)
    apply_connection_pool(result, effective.connection_pool, effective.retry_budget, scope.kind)
    apply_outlier_detection(result, effective.outlier_detection)
    locality = locality_policy(build.catalog.settings, service, effective)
    if scope.kind is ClientKind.ENVOY and locality is not None and locality.weighted:
        heed_localities(result)
    options = http_options(
        effective.connection_pool,
        http2=build.port.protocol.is_http2,
        sniffed=build.port.protocol is PortProtocol.UNSET,
        kind=scope.kind,
        notes=notes,
    )
    refused = apply_tls(result, build, options)
    if auto_sni(build):
        options = HttpProtocolOptions() if options is None else options
        add_auto_sni(options, build)
    set_http_options(result, options)
    apply_proxy_protocol(result, build)
    if effective.tunnel is not None:
        notes.add(f"{build.name}: trafficPolicy.tunnel is not applied")
    return problem or refused


def _apply_eds(result: cluster_pb2.Cluster, scope: Scope) -> None:
    result.type = _Cluster.EDS
    result.eds_cluster_config.eds_config.CopyFrom(ads())
    result.eds_cluster_config.service_name = result.name
    if scope.kind is not ClientKind.ENVOY:
        return
    # 0 is for ever: an answer always comes, and without it Envoy would start with clusters that have no endpoints.
    result.eds_cluster_config.eds_config.initial_fetch_timeout.CopyFrom(duration(0))


def _apply_dns(result: cluster_pb2.Cluster, build: ClusterBuild) -> None:
    scope, name, notes = build.scope, build.name, build.notes
    found = members(build.catalog, scope, name) or []
    one_at_a_time = scope.kind is ClientKind.GRPC or build.service.resolution is Resolution.DNS_ROUND_ROBIN
    if one_at_a_time and len(found) > 1:
        # LOGICAL_DNS has exactly one endpoint (Envoy, gRFC A37).
        notes.add(f"{name}: only the first of {len(found)} addresses sent, LOGICAL_DNS takes one")
        found = found[:1]
    if one_at_a_time and not found:
        _apply_eds(result, scope)
        return
    result.load_assignment.CopyFrom(assignment(build.catalog, scope, name, found))
    if scope.kind is not ClientKind.ENVOY:
        result.type = _Cluster.LOGICAL_DNS if one_at_a_time else _Cluster.STRICT_DNS
        return
    # Envoy's present form of both types; the older one is deprecated, but all that gRPC knows.
    config = dns_cluster_pb2.DnsCluster(
        dns_refresh_rate=duration(60),
        respect_dns_ttl=True,
        all_addresses_in_single_endpoint=one_at_a_time,
        dns_lookup_family=dns_pb2.V4_PREFERRED,
    )
    result.cluster_type.CopyFrom(_Cluster.CustomClusterType(name="envoy.clusters.dns", typed_config=pack(config)))


def _add_metadata(
    result: cluster_pb2.Cluster,
    name: ClusterName,
    service: Service | None,
    policy: ClusterPolicy,
    problem: str | None,
) -> None:
    istio: dict[str, object] = {}
    if policy.rules is not None:
        istio["config"] = config_path(policy.rules.resources[0])
    if service is not None:
        host = {"host": name.host, "name": service.name, "namespace": service.namespace}
        istio["services"] = [host]
        istio["default_original_port"] = name.port
    if name.subset:
        istio["subset"] = name.subset
    own: dict[str, object] = {}
    if service is not None:
        own["origin"] = service.origin
    if policy.rules is not None:
        rules = policy.rules.resources
        own["policy"] = ", ".join(f"{rule.kind} {rule.namespace}/{rule.name}" for rule in rules)
    if problem is not None:
        own["problem"] = problem
    metadata = base_pb2.Metadata()
    for key, values in ((ISTIO, istio), (PROXYLESS, own)):
        if values:
            metadata.filter_metadata[key].CopyFrom(struct(values))
    result.metadata.CopyFrom(metadata)


def _pass_through(kind: ClientKind) -> cluster_pb2.Cluster:
    """Where requests go that the mesh knows nothing about: to the address that was dialled."""
    result = _Cluster(name=PASSTHROUGH, connect_timeout=duration(CONNECT_TIMEOUT))
    _to_what_was_dialled(result, kind)
    if kind is ClientKind.ENVOY:
        apply_connection_pool(result, None, None, kind)
        options = HttpProtocolOptions()
        use_callers_protocol(options)
        set_http_options(result, options)
    return result


def _to_what_was_dialled(result: cluster_pb2.Cluster, kind: ClientKind) -> None:
    if kind is ClientKind.ENVOY:
        by_host_header(result)
        return
    result.type = _Cluster.ORIGINAL_DST
    result.lb_policy = _Cluster.CLUSTER_PROVIDED

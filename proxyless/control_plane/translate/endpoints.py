"""EDS: the endpoints of a cluster, by locality."""

from collections.abc import Iterable

from envoy.config.core.v3 import address_pb2, base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.peer_authentications import serves_mutual_tls
from proxyless.control_plane.discovery.service import ServiceEndpoint, selects
from proxyless.control_plane.resources.names import is_ip
from proxyless.control_plane.translate import tls
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.locality_lb import arrange, by_locality, locality_policy
from proxyless.control_plane.translate.metadata import ISTIO, PROXYLESS, TRANSPORT_SOCKET_MATCH, struct
from proxyless.control_plane.translate.traffic_policy import cluster_policy
from proxyless.model.cluster import Health

_HEALTH = {
    Health.HEALTHY: health_check_pb2.HEALTHY,
    Health.DEGRADED: health_check_pb2.DEGRADED,
    Health.DRAINING: health_check_pb2.DRAINING,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
}
# Istio's name of a cluster of machines, the last part of an endpoint's workload metadata.
_CLUSTER_ID = "Kubernetes"


def load_assignment(
    catalog: Catalog, scope: Scope, resource_name: str, notes: Notes
) -> endpoint_pb2.ClusterLoadAssignment | None:
    """Also for a service or subset that does not exist: no endpoints, so that no client waits for an answer.

    None for what is not the name of an outbound cluster.
    """
    name = ClusterName.parse(resource_name)
    if name is None:
        return None
    found = members(catalog, scope, name)
    if found is None:
        notes.stand_in, found = True, []
    if scope.kind is not ClientKind.PROXYLESS:
        usable = [endpoint for endpoint in found if is_ip(endpoint.address)]
        if len(usable) < len(found):
            notes.add(f"{resource_name}: endpoints whose address is not an IP address left out")
        found = usable
    return assignment(catalog, scope, name, found)


def members(catalog: Catalog, scope: Scope, name: ClusterName) -> list[ServiceEndpoint] | None:
    """The service's endpoints on that port which have the labels of the subset; None when one of these is unknown."""
    service = catalog.service(name.host, scope.namespace)
    port = service.port(name.port) if service else None
    if service is None or port is None:
        return None
    found = list(catalog.endpoints(service, port))
    if not name.subset:
        return found
    subset = cluster_policy(catalog, scope, name, service).subset
    if subset is None:
        return None
    return [endpoint for endpoint in found if selects(subset.labels, endpoint.labels)]


def assignment(
    catalog: Catalog, scope: Scope, name: ClusterName, endpoints: Iterable[ServiceEndpoint]
) -> endpoint_pb2.ClusterLoadAssignment:
    groups = by_locality(endpoints)
    if (service := catalog.service(name.host, scope.namespace)) is not None:
        policy = locality_policy(catalog.settings, service, cluster_policy(catalog, scope, name, service).effective)
        if policy is not None:
            groups = arrange(groups, policy, scope.locality, scope.label_map)
    result = endpoint_pb2.ClusterLoadAssignment(cluster_name=str(name))
    for group in groups:
        place = group.locality
        result.endpoints.append(
            endpoint_components_pb2.LocalityLbEndpoints(
                locality=base_pb2.Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
                lb_endpoints=[_lb_endpoint(catalog, scope, endpoint) for endpoint in group.endpoints],
                load_balancing_weight=UInt32Value(value=group.weight),
                priority=group.priority,
            )
        )
    return result


def _lb_endpoint(catalog: Catalog, scope: Scope, endpoint: ServiceEndpoint) -> endpoint_components_pb2.LbEndpoint:
    labels = endpoint.labels
    app, version = labels.get("app", ""), labels.get("version", "")
    canonical = labels.get("service.istio.io/canonical-name") or app or endpoint.workload
    revision = labels.get("service.istio.io/canonical-revision") or version or "latest"
    metadata = base_pb2.Metadata()
    if endpoint.workload:
        workload = ";".join((endpoint.workload, endpoint.namespace, canonical, revision, _CLUSTER_ID))
        metadata.filter_metadata[ISTIO].CopyFrom(struct({"workload": workload}))
    if scope.kind is ClientKind.PROXYLESS:
        known = {
            "id": endpoint.id,
            "service_account": endpoint.identity.service_account if endpoint.identity else "",
            "labels": dict(labels),
        }
        known = {key: value for key, value in known.items() if value}
        if known:
            metadata.filter_metadata[PROXYLESS].CopyFrom(struct(known))
    if serves_mutual_tls(catalog.peer_authentications, endpoint):
        metadata.filter_metadata[TRANSPORT_SOCKET_MATCH].CopyFrom(struct(tls.TLS_MODE))
    result = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(
            address=address_pb2.Address(
                socket_address=address_pb2.SocketAddress(address=endpoint.address, port_value=endpoint.port)
            ),
            hostname=endpoint.hostname,
        ),
        health_status=_HEALTH[endpoint.health],
        load_balancing_weight=UInt32Value(value=endpoint.weight),
    )
    if metadata.filter_metadata:
        result.metadata.CopyFrom(metadata)
    return result

"""The cluster that a rule's destination means."""

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Kind, Service
from proxyless.control_plane.resources.virtual_service import Destination
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.cluster_name import ClusterName

# The port that every implied service has.
_IMPLIED_PORT = 80


def destination_cluster(
    catalog: Catalog, scope: Scope, destination: Destination, namespace: str, dialled: int
) -> ClusterName:
    """Without a port: the service's only one, else the port that was dialled (Istio). namespace: of the rule."""
    host = catalog.qualify(destination.host, namespace)
    service = catalog.service(host, scope.namespace)
    port = destination.port.number if destination.port else _port(service, dialled)
    return ClusterName(port, destination.subset, host)


def _port(service: Service | None, dialled: int) -> int:
    if service is None:
        return dialled
    if len(service.ports) == 1:
        return service.ports[0].number
    # An implied service lists whatever its workloads chose to listen on; 80 is the port it is known by.
    if service.kind is Kind.IMPLIED and service.port(dialled) is None:
        return _IMPLIED_PORT
    return dialled

"""Worlds from YAML, and xDS resources back from bytes, for the tests of translation."""

import textwrap
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.message import Message

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings, World
from proxyless.model.workload import Workload, WorkloadState

MESSAGES: dict[str, type[Message]] = {
    type_urls.LISTENER: listener_pb2.Listener,
    type_urls.ROUTE: route_pb2.RouteConfiguration,
    type_urls.CLUSTER: cluster_pb2.Cluster,
    type_urls.ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
}
LIBRARY = Client(kind=ClientKind.PROXYLESS, node_id="library")
GRPC = Client(kind=ClientKind.GRPC, node_id="grpc")
# Its bootstrap has a certificate provider, and it says so.
GRPC_TLS = Client(kind=ClientKind.GRPC, node_id="grpc-tls", labels={"security.istio.io/tlsMode": "istio"})
ENVOY = Client(kind=ClientKind.ENVOY, node_id="envoy")


def workload(
    service: str, *, id: str = "", namespace: str = "default", ports: Any = None, port: int = 9080, **more: Any
) -> Workload:
    version = more.pop("version", "")
    labels = {**({"version": version} if version else {}), **more.pop("labels", {})}
    return Workload(
        id=id or f"{service}-{version or port}",
        namespace=namespace,
        service=service,
        service_account=more.pop("service_account", service or "default"),
        address=more.pop("address", "127.0.0.1"),
        ports={"http": port} if ports is None else ports,
        labels=labels,
        state=WorkloadState.DRAINING if more.pop("draining", False) else WorkloadState.SERVING,
        **more,
    )


def world(yaml: str = "", *workloads: Workload, settings: MeshSettings | None = None) -> World:
    resources, problems = parse(textwrap.dedent(yaml), "test.yaml")
    errors = [problem for problem in problems if problem.level is Level.ERROR]
    assert not errors, errors
    return World(
        resources={resource.key: resource for resource in resources},
        workloads={one.id: one for one in workloads},
        settings=settings or MeshSettings(),
    )


def decode(type_url: str, resource: Any) -> Any:
    assert resource.any.type_url == type_url
    return MESSAGES[type_url].FromString(resource.any.value)


def get(translator: Translator, client: Client, type_url: str, name: str) -> Any:
    """The decoded resource, or None."""
    found = translator.resources(client, type_url, [name])
    return decode(type_url, found[name]) if found else None


def notes(translator: Translator, client: Client, type_url: str, name: str) -> tuple[str, ...]:
    return translator.resources(client, type_url, [name])[name].notes


def routes(translator: Translator, target: str, client: Client = LIBRARY) -> list[Any]:
    """The routes of a qualified ``host:port``."""
    found = get(translator, client, type_urls.ROUTE, target)
    return [] if found is None else list(found.virtual_hosts[0].routes)


def destinations(route: Any) -> dict[str, int]:
    """cluster -> weight; an only cluster has weight 1."""
    if not route.HasField("route"):
        return {}
    weighted = {one.name: one.weight.value for one in route.route.weighted_clusters.clusters}
    return weighted or {route.route.cluster: 1}


def cluster(translator: Translator, name: str, client: Client = LIBRARY) -> Any:
    return get(translator, client, type_urls.CLUSTER, name)


def addresses(translator: Translator, name: str, client: Client = LIBRARY) -> list[str]:
    found = get(translator, client, type_urls.ENDPOINT, name)
    return [
        f"{one.endpoint.address.socket_address.address}:{one.endpoint.address.socket_address.port_value}"
        for group in found.endpoints
        for one in group.lb_endpoints
    ]


def manager(listener: Any) -> Any:
    return hcm_pb2.HttpConnectionManager.FromString(listener.api_listener.api_listener.value)


def fields(metadata: Any, namespace: str) -> dict[str, Any]:
    """filter_metadata of a namespace as plain data."""
    return {} if namespace not in metadata.filter_metadata else dict(metadata.filter_metadata[namespace])

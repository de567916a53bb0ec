"""Everything that a client which dials some targets would ask for, one thing leading to another (gRFC A27)."""

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from proxyless.control_plane.ads.ports import Generated, Generator
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

Found = Mapping[str, Generated]


def closure(generator: Generator, client: Any, listeners: Iterable[str]) -> dict[str, Found]:
    """Resources by type URL and name: the named listeners, their routes, the clusters of those, and their endpoints."""
    found: dict[str, Found] = {}
    names = frozenset(listeners)
    for type_url, references in (
        (LISTENER, _routes_of),
        (ROUTE, _clusters_of),
        (CLUSTER, _endpoints_of),
        (ENDPOINT, _nothing),
    ):
        found[type_url] = dict(generator.resources(client, type_url, names)) if names else {}
        inline = frozenset(_inline_clusters(found[LISTENER].values())) if type_url == ROUTE else frozenset()
        names = inline | {name for resource in found[type_url].values() for name in references(resource.any)}
    return found


def _manager(packed: Any) -> http_connection_manager_pb2.HttpConnectionManager:
    listener = listener_pb2.Listener()
    manager = http_connection_manager_pb2.HttpConnectionManager()
    if packed.Unpack(listener):
        listener.api_listener.api_listener.Unpack(manager)
    return manager


def _routes_of(packed: Any) -> Iterable[str]:
    name = _manager(packed).rds.route_config_name
    return (name,) if name else ()


def _inline_clusters(listeners: Iterable[Generated]) -> Iterable[str]:
    for listener in listeners:
        yield from _named_by(_manager(listener.any).route_config)


def _clusters_of(packed: Any) -> Iterable[str]:
    configuration = route_pb2.RouteConfiguration()
    packed.Unpack(configuration)
    return _named_by(configuration)


def _named_by(configuration: route_pb2.RouteConfiguration) -> Iterable[str]:
    for host in configuration.virtual_hosts:
        for route in host.routes:
            action = route.route
            yield from (name for name in (action.cluster,) if name)
            yield from (leg.name for leg in action.weighted_clusters.clusters if leg.name)
            yield from (mirror.cluster for mirror in action.request_mirror_policies if mirror.cluster)


def _endpoints_of(packed: Any) -> Iterable[str]:
    cluster = cluster_pb2.Cluster()
    packed.Unpack(cluster)
    return (cluster.eds_cluster_config.service_name or cluster.name,) if cluster.type == cluster_pb2.Cluster.EDS else ()


def _nothing(_: Any) -> Iterable[str]:
    return ()

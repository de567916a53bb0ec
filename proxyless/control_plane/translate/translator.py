"""The whole control plane as one function: a world and a client in, xDS resources out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from envoy.config.route.v3 import route_pb2
from google.protobuf.message import Message

from proxyless.control_plane import type_urls
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.translate import http_proxy, inbound
from proxyless.control_plane.translate.client import Client, ClientKind, Scope
from proxyless.control_plane.translate.cluster import cluster
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE, PASSTHROUGH, ClusterName
from proxyless.control_plane.translate.egress_listeners import egress_listener, egress_names, egress_routes
from proxyless.control_plane.translate.endpoints import load_assignment
from proxyless.control_plane.translate.generated import GeneratedResource, Notes, generated
from proxyless.control_plane.translate.ingress_listeners import (
    ingress_cluster_names,
    ingress_listener,
    ingress_names,
)
from proxyless.control_plane.translate.listener import outbound_listener
from proxyless.control_plane.translate.reachability import Target, targets
from proxyless.control_plane.translate.route_configuration import route_configuration
from proxyless.control_plane.translate.sidecar import sidecar_listener
from proxyless.control_plane.translate.sources import Sources
from proxyless.control_plane.world import World

_Generator = Callable[[Catalog, Scope, str, Notes], Message | None]


def _listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> Message | None:
    if scope.kind is ClientKind.ENVOY:
        listener: Message | None = sidecar_listener(catalog, scope, name)
        listener = listener or egress_listener(catalog, scope, name, notes)
        listener = listener or ingress_listener(catalog, scope, name, notes)
        if listener is not None:
            return listener
    generate: _Generator = inbound.inbound_listener if name.startswith(inbound.PREFIX) else outbound_listener
    return generate(catalog, scope, name, notes)


def _routes(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> Message | None:
    routes: Message | None = None
    if scope.kind is ClientKind.ENVOY:
        if name == http_proxy.NAME:
            routes = http_proxy.http_proxy(catalog, scope, notes)
        else:
            routes = egress_routes(catalog, scope, name, notes)
    return routes or route_configuration(catalog, scope, name, notes)


_GENERATORS: dict[str, _Generator] = {
    type_urls.LISTENER: _listener,
    type_urls.ROUTE: _routes,
    type_urls.CLUSTER: cluster,
    type_urls.ENDPOINT: load_assignment,
}
# What can differ with where the client runs.
_BY_LOCALITY = (type_urls.CLUSTER, type_urls.ENDPOINT)
# A subscription to everything (xDS protocol, "How the client specifies what resources to return").
WILDCARD = "*"
# A stream may ask for any name; what is remembered of the answers is bounded.
_MAX_REMEMBERED = 60_000


class Translator:
    """Resources of one world. Safe to use from several threads; results are remembered by all that they depend on.

    A generator is given the catalog of this world, a Scope and a name: those are its cache key, so nothing else about a
    client can leak into a resource that another client shares.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.catalog = Catalog(world)
        self._remembered: dict[tuple[str, Scope, str], GeneratedResource | None] = {}

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> dict[str, GeneratedResource]:
        """The resources of a type that ``names`` ask for; one that does not exist for this client is absent.

        No names, or ``*`` among them, asks for everything: an Envoy gets every cluster, and the listeners of its own
        ports. Library clients ask for what they use, and get nothing else. An unknown type has no resources.
        """
        generate = _GENERATORS.get(type_url)
        if generate is None:
            return {}
        scope = client.scope
        asked = list(dict.fromkeys(names))
        if (not asked or WILDCARD in asked) and scope.kind is ClientKind.ENVOY:
            everything: Iterable[str] = ()
            if type_url == type_urls.CLUSTER:
                ingress = ingress_cluster_names(self._seen_by(scope))
                everything = (*self._all_clusters(scope), *client.ports.clusters, *ingress)
            elif type_url == type_urls.LISTENER:
                seen = self._seen_by(scope)
                everything = (*client.ports.listeners, *egress_names(seen), *ingress_names(seen))
            asked = list(dict.fromkeys((*everything, *(name for name in asked if name != WILDCARD))))
        if type_url in _BY_LOCALITY and self.catalog.locality_aware:
            scope = client.local_scope
        found: dict[str, GeneratedResource] = {}
        for name in asked:
            resource = self._resource(generate, type_url, scope, name)
            if resource is not None:
                found[name] = resource
        return found

    def targets(self, client: Client) -> tuple[Target, ...]:
        """Everything the client can dial by a name of its own, by host and port."""
        return tuple(targets(self._seen_by(client.scope), client.scope))

    def _seen_by(self, scope: Scope) -> Catalog:
        return self.catalog.of_client(scope.namespace, scope.label_map)

    def sources(self, client: Client, type_url: str, name: str, body: bytes) -> Mapping[Key, bytes]:
        """Which configuration resources such a resource was made from, each with a digest of what it made of it."""
        return self._sources.of(client.scope, type_url, name, body)

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self.catalog)

    def _resource(self, generate: _Generator, type_url: str, scope: Scope, name: str) -> GeneratedResource | None:
        key = (type_url, scope, name)
        if key in self._remembered:
            return self._remembered[key]
        notes = Notes()
        message = generate(self._seen_by(scope), scope, name, notes)
        resource = None if message is None else generated(message, notes)
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered[key] = resource
        return resource

    def _all_clusters(self, scope: Scope) -> Iterator[str]:
        yield PASSTHROUGH
        yield BLACK_HOLE
        catalog = self._seen_by(scope)
        for service in catalog.called(scope.namespace):
            rules = catalog.destination_rules.of(service.host, service, scope.namespace, scope.label_map)
            subsets = ("", *(rules.subsets if rules else ()))
            for port in service.ports:
                if port.protocol is PortProtocol.UDP:
                    continue
                for subset in subsets:
                    yield str(ClusterName(port.number, subset, service.host))
        # Rules may send to a host that only a wildcard declares.
        for name in self._routed_to(scope):
            parsed = ClusterName.parse(name)
            declared = catalog.service(parsed.host, scope.namespace) if parsed else None
            if parsed is not None and declared is not None and declared.host != parsed.host:
                yield name

    def _routed_to(self, scope: Scope) -> Iterator[str]:
        routes = self._resource(_routes, type_urls.ROUTE, scope, http_proxy.NAME)
        if routes is not None:
            yield from http_proxy.clusters(route_pb2.RouteConfiguration.FromString(routes.any.value))

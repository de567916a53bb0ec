"""The whole control plane as one function: a world and a client in, xDS resources out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar, cast

from google.protobuf.message import Message

from proxyless.control_plane import type_urls
from proxyless.control_plane.discovery.anyone import ANYONE, Varies
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.translate import inbound
from proxyless.control_plane.translate.client import Client, ClientKind, Scope
from proxyless.control_plane.translate.cluster import cluster
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE, PASSTHROUGH, ClusterName
from proxyless.control_plane.translate.egress_listeners import egress_listener, egress_names, proxied
from proxyless.control_plane.translate.endpoints import load_assignment
from proxyless.control_plane.translate.generated import GeneratedResource, Notes, generated, of_bytes
from proxyless.control_plane.translate.http_proxy import HostRoutes, host_routes, proxy_routes
from proxyless.control_plane.translate.ingress_listeners import (
    ingress_cluster_names,
    ingress_listener,
    ingress_names,
)
from proxyless.control_plane.translate.listener import outbound_listener
from proxyless.control_plane.translate.memory import Memory
from proxyless.control_plane.translate.reachability import Target, targets
from proxyless.control_plane.translate.route_configuration import route_configuration
from proxyless.control_plane.translate.sidecar import sidecar_listener
from proxyless.control_plane.translate.sidecar_ports import inbound_cluster
from proxyless.control_plane.translate.sources import Sources
from proxyless.control_plane.translate.witness import witness
from proxyless.control_plane.world import World

_Generator = Callable[[Catalog, Scope, str, Notes], Message | None]
# Type, who asks, and the name; ``*`` stands for the names of all of that type.
_Key = tuple[str, Scope, str]
# In place of a type: the routes of a host, which are a part of a route configuration; of whom results may be.
_HOST_ROUTES, _ASKERS = "host routes", "askers"
# The namespace in the key of what is the same in all of them: no client has none.
_ANY = ""
_Made = TypeVar("_Made")


def _listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> Message | None:
    if scope.kind is ClientKind.ENVOY:
        listener: Message | None = sidecar_listener(catalog, scope, name, notes)
        listener = listener or egress_listener(catalog, scope, name, notes)
        listener = listener or ingress_listener(catalog, scope, name, notes)
        if listener is not None:
            return listener
    generate: _Generator = inbound.inbound_listener if name.startswith(inbound.PREFIX) else outbound_listener
    return generate(catalog, scope, name, notes)


def _all_clusters(catalog: Catalog, scope: Scope) -> Iterator[str]:
    """The names of all clusters of an Envoy."""
    yield PASSTHROUGH
    yield BLACK_HOLE
    called = ((service.host, service) for service in catalog.called(scope.namespace))
    for host, service in (*called, *catalog.under_wildcards(scope.namespace)):
        rules = catalog.destination_rules.of(host, service, scope.namespace, scope.label_map)
        subsets = ("", *(rules.subsets if rules else ()))
        for port in service.ports:
            if port.protocol is PortProtocol.UDP:
                continue
            for subset in subsets:
                yield str(ClusterName(port.number, subset, host))
    yield from ingress_cluster_names(catalog)


def _all_listeners(catalog: Catalog, _: Scope) -> Iterator[str]:
    yield from egress_names(catalog)
    yield from ingress_names(catalog)


_GENERATORS: dict[str, _Generator] = {
    type_urls.LISTENER: _listener,
    type_urls.ROUTE: route_configuration,
    type_urls.CLUSTER: cluster,
    type_urls.ENDPOINT: load_assignment,
}
# The names of everything of a type that any Envoy of a scope has.
_ALL = {type_urls.CLUSTER: _all_clusters, type_urls.LISTENER: _all_listeners}
# What can differ with where the client runs.
_BY_LOCALITY = (type_urls.CLUSTER, type_urls.ENDPOINT)
# A subscription to everything (xDS protocol, "How the client specifies what resources to return").
WILDCARD = "*"
# A stream may ask for any name; what is remembered of the answers is bounded. Beyond it a change concerns everybody.
_MAX_REMEMBERED = 60_000
# Answers as a whole, of one world.
_MAX_GIVEN = 200


class Translator:
    """Resources of one world: a function of the world and the client, whatever happened before.

    A generator is given the catalog of this world, a Scope and a name. Results are remembered by the latter two and by
    all that the generator asked the catalog and was answered, so nothing else about a client can leak into a resource
    that another client shares, and a result outlives a change of the world exactly if it is the same in the new one.

    after: the translator of the world before this one; what it remembers is taken from it. changed: type and name of
    every resource that may differ from what that one gave to the same client (``*``: the list of all), None when that
    cannot be said. Belongs to one thread.
    """

    def __init__(self, world: World, after: "Translator | None" = None) -> None:
        self.world = world
        self.catalog: Catalog = Catalog(world, after.catalog if after else None)
        self.changed: AbstractSet[tuple[str, str]] | None = None
        # The labels that scopes have; those of local ones (None: there are none).
        self._label_keys = self.catalog.label_keys
        self._local_keys = self._label_keys | self.catalog.priority_keys if self.catalog.locality_aware else None
        self._memory = _new_memory()
        # What clients were given in this world: those of one kind and place often ask for the same.
        self._given: dict[object, dict[str, GeneratedResource]] = {}
        if after is None or self.catalog.touched is None:
            return
        self._memory, after._memory = after._memory, _new_memory()
        complete = self._memory.complete and self._label_keys == after._label_keys
        complete = complete and self._local_keys == after._local_keys
        stale = self._memory.revise(self.catalog)
        # Of what all namespaces share it is not known which clients have it.
        complete = complete and not any(type_url == _ASKERS for type_url, _, _ in stale)
        self.changed = (
            {(type_url, name) for type_url, _, name in stale if type_url in _GENERATORS} if complete else None
        )

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> Mapping[str, GeneratedResource]:
        """The resources of a type that ``names`` ask for; one that does not exist for this client is absent.

        ``*`` among them asks for everything: an Envoy gets every cluster, and the listeners of its own
        ports. Library clients ask for what they use, and get nothing else. An unknown type has no resources.
        """
        if type_url not in _GENERATORS:
            return {}
        names = frozenset(names)
        # What else of the client may matter: its own ports and cluster.
        own = (client.scope, client.ports) if WILDCARD in names or type_url == type_urls.CLUSTER else None
        key = (type_url, self._scope(client, type_url), own, names)
        if (given := self._given.get(key)) is None:
            if len(self._given) >= _MAX_GIVEN:
                self._given.clear()
            given = self._given[key] = self._resources(client, type_url, names)
        return given

    def _resources(self, client: Client, type_url: str, names: AbstractSet[str]) -> dict[str, GeneratedResource]:
        scope = self._scope(client, "")
        asked = sorted(names)
        if WILDCARD in asked and scope.kind is ClientKind.ENVOY:
            everything: Iterable[str] = ()
            if type_url == type_urls.CLUSTER:
                everything = (*self._all(type_url, scope), *client.ports.clusters)
            elif type_url == type_urls.LISTENER:
                everything = (*client.ports.listeners, *self._all(type_url, scope))
            asked = list(dict.fromkeys((*everything, *(name for name in asked if name != WILDCARD))))
        askers = self._askers(self._scope(client, type_url))
        found: dict[str, GeneratedResource] = {}
        for name in asked:
            # The workload's own cluster may depend on any label, by which services select it.
            own = type_url == type_urls.CLUSTER and inbound_cluster(name) is not None
            resource = self._resource(type_url, (client.scope,) if own else askers, name)
            if resource is not None:
                found[name] = resource
        return found

    def targets(self, client: Client) -> tuple[Target, ...]:
        """Everything the client can dial by a name of its own, by host and port."""
        scope = self._scope(client, "")
        return tuple(targets(self.catalog.of_client(scope.namespace, scope.label_map), scope))

    def sources(self, client: Client, type_url: str, name: str, body: bytes) -> Mapping[Key, bytes]:
        """Which configuration resources such a resource was made from, each with a digest of what it made of it."""
        return self._sources.of(self._scope(client, ""), type_url, name, body)

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self.catalog)

    def _scope(self, client: Client, type_url: str) -> Scope:
        """Without the labels that nothing looks at: clients that differ in those only share everything.

        type_url: what for; with where the client is, and what it traces, if that matters to resources of this type.
        """
        keys = self._local_keys if type_url in _BY_LOCALITY else None
        scope = client.scope if keys is None else client.local_scope
        keys = self._label_keys if keys is None else keys
        labels = tuple((key, value) for key, value in scope.labels if key in keys)
        return replace(scope, labels=labels, tracing=client.tracing if type_url == type_urls.LISTENER else None)

    def _askers(self, scope: Scope) -> tuple[Scope, ...]:
        """Of whom a result for this scope may be: of anyone, of which clients with a Sidecar have nothing; its own."""
        key = (_ASKERS, scope, "")
        if (known := self._memory.get(key)) is not None:
            return cast(tuple[Scope, ...], known[0])
        catalog, asked = witness(self.catalog, ANYONE, {})
        has_sidecar = catalog.sidecars.has(scope.namespace, scope.label_map)
        askers = (scope,) if has_sidecar else (replace(scope, namespace=_ANY), scope)
        self._memory.keep(key, askers, asked, domain=self.world.settings.cluster_domain)
        return askers

    def _resource(self, type_url: str, askers: tuple[Scope, ...], name: str) -> GeneratedResource | None:
        def make(catalog: Catalog, scope: Scope, parts: list[_Key]) -> GeneratedResource | None:
            notes = Notes()
            if type_url == type_urls.ROUTE and scope.kind is ClientKind.ENVOY and (seen := proxied(catalog, name)):
                routes_of = partial(self._host_routes, askers, name, parts)
                return of_bytes(type_url, proxy_routes(seen[0], scope, name, notes, routes_of), notes)
            message = _GENERATORS[type_url](catalog, scope, name, notes)
            return None if message is None else generated(message, notes)

        return self._remembered(type_url, askers, name, make)[0]

    def _host_routes(
        self, askers: tuple[Scope, ...], name: str, parts: list[_Key], host: str, at_home: bool
    ) -> HostRoutes:
        def make(catalog: Catalog, scope: Scope, _: list[_Key]) -> HostRoutes:
            seen = proxied(catalog, name)
            assert seen is not None
            return host_routes(seen[0], scope, host, bare=seen[1])

        found, key = self._remembered(_HOST_ROUTES, askers[-1:] if at_home else askers, f"{name} {host}", make)
        parts.append(key)
        return found

    def _all(self, type_url: str, scope: Scope) -> tuple[str, ...]:
        """The names of everything of a type that any Envoy of this scope has."""

        def make(catalog: Catalog, scope: Scope, _: list[_Key]) -> tuple[str, ...]:
            return tuple(_ALL[type_url](catalog, scope))

        return self._remembered(type_url, self._askers(scope), WILDCARD, make)[0]

    def _remembered(
        self, type_url: str, askers: tuple[Scope, ...], name: str, make: Callable[[Catalog, Scope, list[_Key]], _Made]
    ) -> tuple[_Made, _Key]:
        """What is made of the first of ``askers`` for whom it can be, and where it is remembered."""
        for scope in askers:
            key = (type_url, scope, name)
            made: _Made | type[Varies]
            if (known := self._memory.get(key)) is not None:
                made = cast(_Made, known[0])
            else:
                asker = scope if scope.namespace else replace(scope, namespace=ANYONE)
                catalog, asked = witness(self.catalog, asker.namespace, asker.label_map)
                parts: list[_Key] = []
                try:
                    made = make(catalog, asker, parts)
                except Varies:
                    made = Varies
                except Exception:
                    # What is not remembered cannot be seen to change.
                    self._memory.complete = False
                    raise
                self._memory.keep(key, made, asked, domain=self.world.settings.cluster_domain, parts=parts)
            if made is not Varies:
                return cast(_Made, made), key
        raise AssertionError("a namespace is the same as itself")


def _new_memory() -> Memory[_Key, object]:
    return Memory(_MAX_REMEMBERED)

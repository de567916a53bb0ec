"""Which configuration resources an xDS resource was made from, told afterwards by its bytes, its name and the catalog.

Nothing is recorded while resources are made. It is asked for what people look at, and what clients refuse.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from proxyless.control_plane import type_urls
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Kind, Service, selects
from proxyless.control_plane.resources import service as k8s
from proxyless.control_plane.resources.names import split_target
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.translate import inbound, ingress_listeners
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.metadata import rule_of
from proxyless.control_plane.translate.sidecar_ports import InboundPort
from proxyless.control_plane.translate.traffic_policy import cluster_policy

# Resources of other kinds act on everything, or say something about others.
TRACED = frozenset(
    {
        "VirtualService", "DestinationRule", "Service", "ServiceEntry", "EndpointSlice", "WorkloadEntry",
        "PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication", "HTTPRoute", "GRPCRoute",
    }
)  # fmt: skip
# What people ask about again and again is remembered, up to a point.
_MAX_REMEMBERED = 20_000


class Sources:
    """Of one world's catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._remembered: dict[tuple[Scope, str, str, bytes], Mapping[Key, bytes]] = {}

    def of(self, scope: Scope, type_url: str, name: str, body: bytes) -> Mapping[Key, bytes]:
        """The configuration resources behind one resource, each with a digest of the part that it made.

        Of a RouteConfiguration that is its routes, of other types everything. A digest that stays the same says that
        this part is as it was.
        """
        whole = hashlib.sha256(body).digest()
        key = (scope, type_url, name, whole)
        if key not in self._remembered:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            if type_url == type_urls.ROUTE:
                self._remembered[key] = self._of_routes(scope, body)
            else:
                self._remembered[key] = dict.fromkeys(self._of_name(scope, type_url, name), whole)
        return self._remembered[key]

    @cached_property
    def _by_namespace(self) -> Mapping[str, list[Resource[Any]]]:
        """EndpointSlices and WorkloadEntries."""
        found: dict[str, list[Resource[Any]]] = {}
        for resource in self._catalog.world.resources.values():
            if resource.kind in {"EndpointSlice", "WorkloadEntry"}:
                found.setdefault(resource.namespace, []).append(resource)
        return found

    def _of_routes(self, scope: Scope, body: bytes) -> Mapping[Key, bytes]:
        parts: dict[Key, list[bytes]] = {}
        for host in route_pb2.RouteConfiguration.FromString(body).virtual_hosts:
            general = b"".join(one.SerializeToString() for _, one in sorted(host.typed_per_filter_config.items()))
            for route in host.routes:
                content = general + route.SerializeToString(deterministic=True)
                for key in dict.fromkeys(self._of_route(scope, host.name, route)):
                    parts.setdefault(key, []).append(hashlib.sha256(content).digest())
        return {key: hashlib.sha256(b"".join(digests)).digest() for key, digests in parts.items()}

    def _of_route(self, scope: Scope, virtual_host: str, route: rc.Route) -> Iterator[Key]:
        rule = rule_of(route.metadata)
        target = split_target(virtual_host)
        if rule is not None:
            yield rule
            root = self._catalog.virtual_services.of(target[0], scope.namespace) if target else None
            if root is not None and rule.kind == root.kind:
                # Another one if this is a delegate's route.
                yield root.key
        elif target:
            yield from _declared(self._catalog.service(target[0], scope.namespace))
        if route.route.hash_policy:
            legs = (route.route.cluster, *(leg.name for leg in route.route.weighted_clusters.clusters))
            for parsed in filter(None, map(ClusterName.parse, legs)):
                yield from self._policies(scope, parsed, self._catalog.service(parsed.host, scope.namespace))

    def _of_name(self, scope: Scope, type_url: str, name: str) -> Iterator[Key]:
        if type_url == type_urls.LISTENER:
            yield from self._of_listener(scope, name)
            return
        parsed = ClusterName.parse(name)
        if parsed is None:
            return
        service = self._catalog.service(parsed.host, scope.namespace)
        yield from _declared(service)
        if type_url == type_urls.CLUSTER or parsed.subset:
            yield from self._policies(scope, parsed, service)
        if type_url == type_urls.ENDPOINT and service is not None:
            yield from self._places(service)

    def _of_listener(self, scope: Scope, name: str) -> Iterator[Key]:
        own = InboundPort.of_listener(name) is not None or ingress_listeners.is_ingress(name)
        if name.startswith(inbound.PREFIX) or (scope.kind is ClientKind.ENVOY and own):
            for policies in (self._catalog.authorization_policies, self._catalog.request_authentications):
                yield from (one.key for one in policies.of(scope.namespace, scope.label_map))
            for limited in self._catalog.limited(scope.namespace, scope.label_map):
                yield from _declared(limited)
            policy = self._catalog.peer_authentications.of(scope.namespace, scope.label_map)
            if policy is not None:
                yield policy.key
            return
        target = split_target(name)
        resolved = self._catalog.resolve(target[0], scope.namespace) if target else None
        if resolved is None:
            return
        host, service = resolved
        yield from _declared(service)
        if service is None and (rule := self._catalog.virtual_services.of(host, scope.namespace)):
            yield rule.key

    def _policies(self, scope: Scope, name: ClusterName, service: Service | None) -> Iterator[Key]:
        rules = cluster_policy(self._catalog, scope, name, service).rules
        yield from (resource.key for resource in (rules.resources if rules else ()))

    def _places(self, service: Service) -> Iterator[Key]:
        """What says where a service runs, but for the workloads themselves."""
        for resource in self._by_namespace.get(service.namespace, ()):
            if resource.kind == "EndpointSlice":
                if service.kind is Kind.SERVICE and resource.labels.get(k8s.SERVICE_NAME_LABEL) == service.name:
                    yield resource.key
            elif service.selector is not None and selects(
                service.selector, {**resource.labels, **resource.spec.labels}
            ):
                yield resource.key


def _declared(service: Service | None) -> Iterator[Key]:
    if service is not None and service.kind is not Kind.IMPLIED:
        kind = "Service" if service.kind is Kind.SERVICE else "ServiceEntry"
        yield Key(kind, service.namespace, service.resource_name)

"""The routes of one target: those of its VirtualService or of what is attached to its service, or the one default route
to its service.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc

from proxyless.control_plane.discovery.attached_routes import AttachedRoute
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.resources.attached_rule import AttachedRule
from proxyless.control_plane.resources.hedging import HEDGE, hedges
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.virtual_service import Destination, HTTPMatchRequest, HTTPRoute
from proxyless.control_plane.translate import cors, fault
from proxyless.control_plane.translate.attached import attached_rules
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.delegate import expanded
from proxyless.control_plane.translate.destination import destination_cluster
from proxyless.control_plane.translate.generated import Notes, pack
from proxyless.control_plane.translate.header_operations import header_changes
from proxyless.control_plane.translate.load_balancing import hash_policy
from proxyless.control_plane.translate.matchers import fraction
from proxyless.control_plane.translate.metadata import config_path, metadata
from proxyless.control_plane.translate.rate_limit import limit_routes
from proxyless.control_plane.translate.retry_policy import retry_policy
from proxyless.control_plane.translate.route_action import Forwarding, direct_response, forward, redirect, set_timeout
from proxyless.control_plane.translate.route_match import alternatives, applies, is_catch_all, route_match
from proxyless.control_plane.translate.traffic_policy import cluster_policy


class RouteBuilder:
    """Builds the routes of one target for one kind of client."""

    def __init__(self, catalog: Catalog, scope: Scope, host: str, port: int, notes: Notes) -> None:
        self._catalog = catalog
        self._scope = scope
        self._host = host
        self._port = port
        self._notes = notes
        # Whether each route says how many requests are sent by it; else their virtual host does for all.
        self._limits_each = False

    def default(self) -> rc.Route:
        """Everything to the service, with Istio's default retries and no timeout."""
        cluster = str(ClusterName(self._port, "", self._host))
        route = rc.Route(name="default", match=rc.RouteMatch(prefix="/"), route=rc.RouteAction(cluster=cluster))
        route.metadata.CopyFrom(metadata(proxyless={"origin": "default"}))
        set_timeout(route.route, 0.0, self._scope.kind)
        policy = self._hash_policy(cluster)
        if policy is not None:
            route.route.hash_policy.append(policy)
        retries = retry_policy(None, self._scope.kind, sticky=policy is not None)
        if retries is not None:
            route.route.retry_policy.CopyFrom(retries)
        return route

    def of_rule(self, rule: Resource[Any]) -> list[rc.Route]:
        """In the rule's order, one for each alternative of a ``match``, up to the first that nothing gets past."""
        return self._routes(expanded(self._catalog, rule, self._notes))

    def of_attached(self, attached: Sequence[AttachedRoute]) -> list[rc.Route]:
        """In the order of precedence. What matches none of them is answered with 404, never sent (GEP-1426)."""
        self._limits_each = len(attached) > 1
        routes = self._routes(attached_rules(self._catalog, self._scope, attached, self._notes))
        if routes:
            return routes
        route = rc.Route(name="unmatched", match=rc.RouteMatch(prefix="/"))
        route.direct_response.status = 404
        oldest = attached[0].resource
        origin = f"{oldest.kind} {oldest.namespace}/{oldest.name}"
        route.metadata.CopyFrom(metadata(istio={"config": config_path(oldest)}, proxyless={"origin": origin}))
        return [route]

    def _routes(self, rules: Iterable[tuple[HTTPRoute, Resource[Any], str]]) -> list[rc.Route]:
        routes: list[rc.Route] = []
        for http, written_in, origin in rules:
            for match in http.match or (None,):
                route = self._route(http, match, written_in, origin)
                if route is None:
                    continue
                for one in alternatives(route.match, self._scope.kind, self._notes, origin):
                    routes.append(rc.Route())
                    routes[-1].CopyFrom(route)
                    routes[-1].match.CopyFrom(one)
                if is_catch_all(route.match):
                    return routes
        return routes

    def _route(
        self, http: HTTPRoute, match: HTTPMatchRequest | None, rule: Resource[Any], origin: str
    ) -> rc.Route | None:
        if not applies(match, self._scope, self._port):
            return None
        matched = route_match(match, self._scope, self._notes, origin)
        if matched is None:
            return None
        if isinstance(http, AttachedRule) and http.share is not None:
            matched.runtime_fraction.default_value.CopyFrom(fraction(http.share.value))
        name = f"{http.name}.{match.name}" if match is not None and match.name else http.name
        route = rc.Route(name=name, match=matched)
        route.metadata.CopyFrom(metadata(istio={"config": config_path(rule)}, proxyless={"origin": origin}))
        if match is not None and match.stat_prefix and self._scope.kind is ClientKind.ENVOY:
            route.stat_prefix = match.stat_prefix
        changes = header_changes(http.headers)
        route.request_headers_to_add.extend(changes.request_add)
        route.request_headers_to_remove.extend(changes.request_remove)
        route.response_headers_to_add.extend(changes.response_add)
        route.response_headers_to_remove.extend(changes.response_remove)
        self._act(route, http, rule, origin)
        self._filters(route, http, origin)
        if self._limits_each:
            limit_routes(route, rule, self._scope, self._notes)
        self._note_what_grpc_ignores(route, origin)
        return route

    def _act(self, route: rc.Route, http: HTTPRoute, rule: Resource[Any], origin: str) -> None:
        if http.redirect is not None:
            action = redirect(http.redirect, self._port, self._notes, origin)
            # A redirect that cannot be made must not become a way through.
            if action is None:
                route.direct_response.CopyFrom(rc.DirectResponseAction(status=500))
            else:
                route.redirect.CopyFrom(action)
        elif http.direct_response is not None:
            route.direct_response.CopyFrom(direct_response(http.direct_response))
        elif http.route:
            around = Forwarding(
                cluster_of=lambda destination: self._cluster_of(destination, rule.namespace),
                hash_policy_of=self._hash_policy,
                kind=self._scope.kind,
                notes=self._notes,
                origin=origin,
                hedge=hedges(rule.annotations),
            )
            forward(route, http, around)
        else:
            self._notes.add(f"{origin}: has no destination, requests are answered with 500")
            route.direct_response.CopyFrom(rc.DirectResponseAction(status=500))

    def _filters(self, route: rc.Route, http: HTTPRoute, origin: str) -> None:
        if http.fault is not None and (injected := fault.fault(http.fault, self._notes, origin)) is not None:
            route.typed_per_filter_config[fault.FILTER].CopyFrom(pack(injected))
        if http.cors_policy is None:
            return
        if self._scope.kind is ClientKind.ENVOY:
            route.typed_per_filter_config[cors.FILTER].CopyFrom(pack(cors.cors_policy(http.cors_policy)))
        else:
            self._notes.add(f"{origin}: corsPolicy left out, {self._scope.kind.value} clients are no browsers")

    def _note_what_grpc_ignores(self, route: rc.Route, origin: str) -> None:
        """gRPC takes these fields and does nothing with them (grpc_xds_features.md)."""
        if self._scope.kind is not ClientKind.GRPC:
            return
        action = route.route
        mutations = (route.request_headers_to_add, route.request_headers_to_remove)
        responses = (route.response_headers_to_add, route.response_headers_to_remove)
        ignored = {
            "headers": any(mutations) or any(responses),
            "rewrite": bool(action.prefix_rewrite)
            or action.HasField("regex_rewrite")
            or bool(action.host_rewrite_literal),
            "redirect": route.HasField("redirect"),
            "directResponse": route.HasField("direct_response"),
            HEDGE: action.HasField("hedge_policy"),
        }
        for field, present in ignored.items():
            if present:
                self._notes.add(f"{origin}: {field} has no effect in gRPC clients")

    def _cluster_of(self, destination: Destination, namespace: str) -> str:
        return str(destination_cluster(self._catalog, self._scope, destination, namespace, self._port))

    def _hash_policy(self, cluster: str) -> rc.RouteAction.HashPolicy | None:
        name = ClusterName.parse(cluster)
        if name is None:
            return None
        service = self._catalog.service(name.host, self._scope.namespace)
        effective = cluster_policy(self._catalog, self._scope, name, service).effective
        return hash_policy(effective.load_balancer, self._scope.kind)

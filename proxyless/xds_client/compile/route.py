"""RDS: a RouteConfiguration, compiled once for all the targets that use it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.route.v3 import route_pb2

from proxyless.model.domains import ascii_lower, search, split_port
from proxyless.model.route import NO_MUTATIONS, Forward, HeaderMutations, Mirror, Route, VirtualHost, WeightedCluster
from proxyless.xds_client.compile import matching, metadata
from proxyless.xds_client.compile.action import MAX_BODY, Inherited, action, hedges, mirrors
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, set_fields
from proxyless.xds_client.compile.headers import mutations
from proxyless.xds_client.compile.overrides import Overrides, overrides
from proxyless.xds_client.compile.retry import retry

_IGNORED = ("vhds", "internal_only_headers", "cluster_specifier_plugins", "vhost_header")
_IGNORED_VHOST = (
    "cors", "matcher", "retry_policy_typed_config", "virtual_clusters", "rate_limits", "require_tls",
)  # fmt: skip
# A direct response is kept in memory for as long as the route: what a control plane may ask for is bounded all the
# same.
_MOST_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class RouteConfiguration:
    """clusters: every cluster that a route names, which must be here before a target that uses this is published."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...]
    clusters: frozenset[str]
    ignored: tuple[str, ...] = ()

    def select(self, target: str) -> VirtualHost | None:
        """The virtual host for a target ``host:port``, in Envoy's order: exact, longest suffix, longest prefix, any."""
        domains = [virtual_host.domains for virtual_host in self.virtual_hosts]
        found = search(domains, target, split_port(target)[0])
        return self.virtual_hosts[found[0]] if found is not None else None

    def heeding(self, *, faults: bool, rate_limits: bool) -> "RouteConfiguration":
        """What routes say to a filter that the listener does not have has no effect (Envoy)."""
        if (faults or not self._says("fault")) and (rate_limits or not self._says("rate_limit")):
            return self
        gone: dict[str, None] = {} if faults else {"fault": None}
        gone |= {} if rate_limits else {"rate_limit": None}
        return replace(self, virtual_hosts=tuple(_without(gone, virtual_host) for virtual_host in self.virtual_hosts))

    def _says(self, what: str) -> bool:
        return any(
            getattr(place, what) for host in self.virtual_hosts for route in host.routes for place in _places(route)
        )


def _places(route: Route) -> Iterator[Route | WeightedCluster]:
    yield route
    if isinstance(route.action, Forward):
        yield from route.action.clusters


def _without(gone: Mapping[str, Any], virtual_host: VirtualHost) -> VirtualHost:
    routes = []
    for route in virtual_host.routes:
        if isinstance(route.action, Forward):
            legs = tuple(replace(leg, **gone) for leg in route.action.clusters)
            route = replace(route, action=replace(route.action, clusters=legs))  # noqa: PLW2901
        routes.append(replace(route, **gone))
    return replace(virtual_host, routes=tuple(routes))


def compile_route_configuration(message: route_pb2.RouteConfiguration) -> RouteConfiguration:
    """Raises InvalidResource for what Envoy or gRPC would refuse as well."""
    try:
        return _configuration(message)
    except FieldError as error:
        raise InvalidResource(message.name, str(error)) from error


def _configuration(message: Any) -> RouteConfiguration:
    ignored: list[str] = []
    ignored += set_fields(message, _IGNORED)
    limit = message.max_direct_response_body_size_bytes
    max_body = min(limit.value, _MOST_BODY) if message.HasField("max_direct_response_body_size_bytes") else MAX_BODY
    shared = _Shared(
        message.name,
        overrides(message.typed_per_filter_config, ignored, "route_configuration", message.name),
        mutations(message, "request", ignored, "route_configuration"),
        mutations(message, "response", ignored, "route_configuration"),
        bool(message.most_specific_header_mutations_wins),
        mirrors(message, ignored, "route_configuration"),
        max_body,
    )
    if shared.specific_wins:
        ignored.append("most_specific_header_mutations_wins: the least specific wins")
    seen: dict[str, str] = {}
    hosts = []
    for index, virtual_host in enumerate(message.virtual_hosts):
        name = virtual_host.name or f"virtual_hosts[{index}]"
        for domain in virtual_host.domains:
            # Envoy: domains are unique across the virtual hosts of a route configuration.
            if seen.setdefault(ascii_lower(domain), name) != name or list(virtual_host.domains).count(domain) > 1:
                raise FieldError(
                    f"virtual host {name!r}: domain {domain!r} is already taken by {seen[ascii_lower(domain)]!r}"
                )
        hosts.append(_virtual_host(virtual_host, name, shared, ignored))
    return RouteConfiguration(
        message.name,
        tuple(hosts),
        frozenset(_clusters(hosts)),
        tuple(dict.fromkeys(ignored)),
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the whole route configuration says about every virtual host."""

    name: str
    overrides: Overrides
    request_headers: HeaderMutations
    response_headers: HeaderMutations
    specific_wins: bool
    mirrors: tuple[Mirror, ...]
    max_body: int


def _clusters(hosts: list[VirtualHost]) -> Iterator[str]:
    for virtual_host in hosts:
        for route in virtual_host.routes:
            if isinstance(route.action, Forward):
                yield from route.action.cluster_names


def _joined(first: HeaderMutations, then: HeaderMutations) -> HeaderMutations:
    if not first or not then:
        return first or then or NO_MUTATIONS
    return HeaderMutations(first.sets + then.sets, first.removes + then.removes)


def _virtual_host(message: Any, name: str, shared: _Shared, ignored: list[str]) -> VirtualHost:
    what = f"virtual_hosts[{name}]"
    if not message.domains:
        raise FieldError(f"{what} has no domains")
    for domain in message.domains:
        stars = domain.count("*")
        if not domain or stars > 1 or (stars and domain[0] != "*" and domain[-1] != "*"):
            raise FieldError(f"{what}: domain {domain!r} must be exact, '*', or have one '*' at its start or end")
    ignored += set_fields(message, _IGNORED_VHOST, what)
    general = overrides(message.typed_per_filter_config, ignored, what, shared.name).over(shared.overrides)
    vhost_retry = (
        retry(message.retry_policy, ignored, f"{what}.retry_policy") if message.HasField("retry_policy") else None
    )
    copies = mirrors(message, ignored, what) or shared.mirrors
    inherited = Inherited(vhost_retry, hedges(message, ignored, what), copies, shared.max_body, shared.name)
    routes = []
    for index, route in enumerate(message.routes):
        where = f"{what}.routes[{route.name or index}]"
        match, never = matching.route(route.match, f"{where}.match")
        ignored += never
        ignored += set_fields(route, ("tracing", "decorator"), where)
        # The most specific place wins (gRFC A39): weighted cluster, route, virtual host, route configuration, filter.
        said = overrides(route.typed_per_filter_config, ignored, where, shared.name).over(general)
        compiled = Route(
            match,
            action(route, inherited, ignored, where),
            name=route.name,
            origin=metadata.origin(route.metadata),
            request_headers=mutations(route, "request", ignored, where),
            response_headers=mutations(route, "response", ignored, where),
            fault=said.fault,
            rate_limit=said.rate_limit,
        )
        routes.append(compiled)
    return VirtualHost(
        name,
        tuple(message.domains),
        tuple(routes),
        # Envoy applies a virtual host's mutations before the route configuration's, so that the latter win.
        _joined(mutations(message, "request", ignored, what), shared.request_headers),
        _joined(mutations(message, "response", ignored, what), shared.response_headers),
    )

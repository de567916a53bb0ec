"""The filters of a server's connections that decide who is let in: RBAC (gRFC A41), JWT and local rate limits."""

from collections.abc import Iterator
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from proxyless.model.inbound import ServerFilter
from proxyless.xds_client.compile.decode import FieldError, is_a, unpack
from proxyless.xds_client.compile.jwt import jwt_filter
from proxyless.xds_client.compile.rate_limit import rate_limit
from proxyless.xds_client.compile.rbac import rbac


def server_filters(chain: Any, ignored: list[str], what: str, listener: str) -> tuple[ServerFilter, ...]:
    """Those of one filter chain of a listener, in order."""
    found: list[ServerFilter] = []
    for index, one in enumerate(chain.filters):
        where = f"{what}.filters[{one.name or index}]"
        config = one.typed_config
        if one.WhichOneof("config_type") != "typed_config":
            raise FieldError(f"{where} has no configuration")
        if is_a(config, network_rbac_pb2.RBAC):
            compiled = rbac(unpack(config, network_rbac_pb2.RBAC, where), ignored, where)
            found += [] if compiled is None else [compiled]
        elif is_a(config, hcm_pb2.HttpConnectionManager):
            _manager(unpack(config, hcm_pb2.HttpConnectionManager, where), found, ignored, where, listener)
        else:
            ignored.append(f"{where} ({config.type_url.rpartition('/')[2]})")
    return tuple(found)


def _manager(manager: Any, found: list[ServerFilter], ignored: list[str], what: str, listener: str) -> None:
    # gRFC A41: with either, the remote address is not the connection's.
    forwarded = bool(manager.xff_num_trusted_hops or manager.original_ip_detection_extensions)
    places = list(_places(manager, what))
    named = {name for place, _ in places for name in place.typed_per_filter_config}
    inline = manager.WhichOneof("route_specifier") in (None, "route_config")
    if not inline:
        ignored.append(f"{what}: what its routes say of filters is not known, they come from elsewhere")
    names: set[str] = set()
    for index, one in enumerate(manager.http_filters):
        where = f"{what}.http_filters[{one.name or index}]"
        if not one.name or one.name in names:
            raise FieldError(f"{where}: every filter needs a name of its own")
        names.add(one.name)
        config, optional, disabled = _unwrapped(one, where)
        if is_a(config, router_pb2.Router):
            continue
        if disabled and inline and one.name not in named:
            ignored.append(f"{where} (disabled)")
            continue
        if is_a(config, local_rate_limit_pb2.LocalRateLimit):
            if disabled:
                # To limit requests of other routes would refuse some that nobody wants to be refused.
                ignored.append(f"{where} is disabled but for some routes")
                continue
            message = unpack(config, local_rate_limit_pb2.LocalRateLimit, where)
            # The chains of a listener share the bucket of a filter that all have.
            limit = rate_limit(message, ignored, where, f"{listener} {one.name}")
            found += [limit] if limit.enabled else []
            continue
        if disabled:
            # A route may switch it on, and which of them a request meets is not looked at.
            ignored.append(f"{where} is disabled but for some routes, and applies to every request")
        if is_a(config, rbac_pb2.RBAC):
            compiled = rbac(unpack(config, rbac_pb2.RBAC, where), ignored, where, trusts_forwarded=forwarded)
            found += [] if compiled is None else [compiled]
        elif is_a(config, jwt_pb2.JwtAuthentication):
            found.append(jwt_filter(unpack(config, jwt_pb2.JwtAuthentication, where), ignored, where))
        elif optional:
            ignored.append(f"{where} ({config.type_url.rpartition('/')[2] or 'no configuration'})")
        else:
            kind = config.type_url.rpartition("/")[2] or one.WhichOneof("config_type") or "no configuration"
            raise FieldError(f"{where} ({kind}) is not supported and not optional (gRFC A39)")
    _overrides(places, found, ignored, forwarded)


def _unwrapped(one: Any, where: str) -> tuple[Any, bool, bool]:
    """(configuration, optional, disabled)"""
    config, optional, disabled = one.typed_config, bool(one.is_optional), bool(one.disabled)
    if is_a(config, route_components_pb2.FilterConfig):
        wrapper = unpack(config, route_components_pb2.FilterConfig, where)
        return wrapper.config, optional or wrapper.is_optional, disabled or wrapper.disabled
    return config, optional, disabled


def _places(manager: Any, what: str) -> Iterator[tuple[Any, str]]:
    """What may say something of filters, and where it is."""
    routes = manager.route_config
    yield routes, f"{what}.route_config"
    for number, host in enumerate(routes.virtual_hosts):
        where = f"{what}.route_config.virtual_hosts[{host.name or number}]"
        yield host, where
        for index, route in enumerate(host.routes):
            at = f"{where}.routes[{route.name or index}]"
            yield route, at
            for cluster in route.route.weighted_clusters.clusters:
                yield cluster, f"{at}.weighted_clusters[{cluster.name}]"


def _overrides(places: list[tuple[Any, str]], found: list[ServerFilter], ignored: list[str], forwarded: bool) -> None:
    """What routes say of these filters. Requests are not matched with routes here: it applies to all, beside the rest.

    So nobody gets in whom the route, or the filter without it, would have kept out.
    """
    for place, where in places:
        for name in sorted(place.typed_per_filter_config):
            config, at = place.typed_per_filter_config[name], f"{where}.typed_per_filter_config[{name}]"
            if is_a(config, route_components_pb2.FilterConfig):
                config = unpack(config, route_components_pb2.FilterConfig, at).config
            if not is_a(config, rbac_pb2.RBACPerRoute):
                ignored.append(at)
                continue
            ignored.append(f"{at} applies to every request, not to those of its route only")
            override = unpack(config, rbac_pb2.RBACPerRoute, at)
            if override.HasField("rbac"):
                compiled = rbac(override.rbac, ignored, f"{at}.rbac", trusts_forwarded=forwarded)
                found += [] if compiled is None else [compiled]

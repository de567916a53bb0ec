"""LDS: an API listener (gRFC A27): an HTTP connection manager with its routes inline or by reference."""

from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from proxyless.model.rate_limit import NO_LIMIT, RateLimit
from proxyless.model.route import Fault
from proxyless.xds_client.compile.decode import FieldError, InvalidResource, is_a, text_map, unpack
from proxyless.xds_client.compile.fault import NO_FAULT, fault
from proxyless.xds_client.compile.overrides import NOTHING, Overrides
from proxyless.xds_client.compile.rate_limit import rate_limit
from proxyless.xds_client.compile.route import RouteConfiguration, compile_route_configuration

_IGNORED_HCM = ("local_reply_config", "request_timeout", "stream_idle_timeout", "internal_address_config")


@dataclass(frozen=True, slots=True)
class ApiListener:
    """Either ``route_name`` (RDS) or ``routes`` (inline) is set. fault_filter, rate_limit_filter: there is one in the
    chain.
    """

    name: str
    route_name: str | None
    routes: RouteConfiguration | None
    fault: Fault | None = None
    fault_filter: bool = False
    rate_limit: RateLimit | None = None
    rate_limit_filter: bool = False
    ignored: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()


def compile_api_listener(message: listener_pb2.Listener) -> ApiListener:
    try:
        return _listener(message)
    except FieldError as error:
        raise InvalidResource(message.name, str(error)) from error


def _listener(message: Any) -> ApiListener:
    if not message.HasField("api_listener"):
        raise FieldError("api_listener is missing: only API listeners can be dialled")
    hcm = unpack(message.api_listener.api_listener, hcm_pb2.HttpConnectionManager, "api_listener.api_listener")
    ignored = [field for field in _IGNORED_HCM if _is_set(hcm, field)]
    if hcm.common_http_protocol_options.HasField("max_stream_duration"):
        ignored.append("common_http_protocol_options.max_stream_duration")
    filters = _filters(hcm.http_filters, ignored, message.name)
    route_name: str | None = None
    routes: RouteConfiguration | None = None
    match hcm.WhichOneof("route_specifier"):
        case "rds":
            source = hcm.rds.config_source.WhichOneof("config_source_specifier")
            if source not in ("ads", "self"):
                raise FieldError(
                    f"rds.config_source is {source or 'missing'}: only ads and self are supported (gRFC A27)"
                )
            # Envoy lets an RDS name be left out nowhere; gRPC takes it as it is.
            route_name = hcm.rds.route_config_name
            if not route_name:
                raise FieldError("rds.route_config_name is empty")
        case "route_config":
            try:
                routes = compile_route_configuration(hcm.route_config)
            except InvalidResource as error:
                raise FieldError(f"route_config: {error.message}") from error
        case kind:
            raise FieldError(f"route specifier {kind or '(missing)'} is not supported: only rds and route_config are")
    details = []
    for namespace in ("istio", "proxyless"):
        if namespace in message.metadata.filter_metadata:
            details += sorted(text_map(message.metadata.filter_metadata[namespace]).items())
    return ApiListener(
        message.name,
        route_name,
        routes,
        # A filter without delay and abort injects nothing by itself; routes may. The same goes for a limit of none.
        fault=injected if (injected := filters.fault) and (injected.delay or injected.abort) else None,
        fault_filter=filters.fault is not None,
        rate_limit=limit if (limit := filters.rate_limit) and limit.enabled else None,
        rate_limit_filter=filters.rate_limit is not None,
        ignored=tuple(dict.fromkeys(ignored)),
        metadata=tuple(details),
    )


def _is_set(hcm: Any, field: str) -> bool:
    # A stream_idle_timeout or request_timeout of 0 switches Envoy's own off: there is nothing not acted on.
    if not hcm.HasField(field):
        return False
    value = getattr(hcm, field)
    return bool(value.ByteSize()) if field.endswith("_timeout") else True


def _filters(filters: Any, ignored: list[str], listener: str) -> Overrides:
    """gRFC A39: unique names, unknown filters only if optional, and a router (the terminal filter) at the end.

    Of the filters that we have, what they say themselves; None for one that is not there.
    """
    found = NOTHING
    names: set[str] = set()
    if not filters:
        raise FieldError("http_filters is empty: a router filter must be the last one")
    for index, one in enumerate(filters):
        what = f"http_filters[{one.name or index}]"
        if not one.name or one.name in names:
            raise FieldError(f"{what}: every filter needs a name of its own")
        names.add(one.name)
        last = index == len(filters) - 1
        config, optional = one.typed_config, bool(one.is_optional)
        if is_a(config, route_components_pb2.FilterConfig):
            wrapper = unpack(config, route_components_pb2.FilterConfig, what)
            config, optional = wrapper.config, optional or wrapper.is_optional
        if one.WhichOneof("config_type") == "typed_config" and is_a(config, router_pb2.Router):
            if not last:
                raise FieldError(f"{what}: the router filter must be the last one")
            continue
        if last:
            raise FieldError(f"{what} is the last filter: that must be the router")
        if is_a(config, fault_pb2.HTTPFault):
            if found.fault is not None:
                ignored.append(f"{what}: a second fault filter")
                continue
            injected = fault(unpack(config, fault_pb2.HTTPFault, what), ignored, what)
            found = found._replace(fault=NO_FAULT if one.disabled else injected)
        elif is_a(config, local_rate_limit_pb2.LocalRateLimit):
            if found.rate_limit is not None:
                ignored.append(f"{what}: a second local rate limit filter")
                continue
            message = unpack(config, local_rate_limit_pb2.LocalRateLimit, what)
            limit = rate_limit(message, ignored, what, f"{listener} {what}")
            found = found._replace(rate_limit=NO_LIMIT if one.disabled else limit)
        elif optional or one.disabled:
            ignored.append(f"{what} ({config.type_url.rpartition('/')[2] or 'no configuration'})")
        else:
            kind = config.type_url.rpartition("/")[2] or one.WhichOneof("config_type") or "no configuration"
            raise FieldError(f"{what} ({kind}) is not supported and not optional (gRFC A39)")
    return found

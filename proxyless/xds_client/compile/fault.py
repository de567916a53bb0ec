"""Fault injection (gRFC A33): the filter's own configuration, and what a route says instead of it."""

from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2

from proxyless.model.route import Fault, FaultAbort, FaultDelay
from proxyless.xds_client.compile.decode import FieldError, is_a, parts_per_million, seconds, set_fields, unpack
from proxyless.xds_client.compile.matching import headers

# What a more specific place says to switch off a fault of a less specific one.
NO_FAULT = Fault()


def fault(message: Any, ignored: list[str], what: str) -> Fault:
    """An extensions.filters.http.fault.v3.HTTPFault."""
    ignored += set_fields(message, ("max_active_faults", "response_rate_limit"), what)
    for condition in ("upstream_cluster", "downstream_nodes"):
        if getattr(message, condition):
            # They narrow the fault to some requests; without them it would hit more than it should.
            ignored.append(f"{what}.{condition}: the fault is not injected")
            return NO_FAULT
    delay: FaultDelay | None = None
    if message.HasField("delay"):
        share = parts_per_million(message.delay.percentage)
        if message.delay.WhichOneof("fault_delay_secifier") == "fixed_delay":
            delay = FaultDelay(seconds(message.delay.fixed_delay, f"{what}.delay.fixed_delay"), share)
        else:
            ignored.append(f"{what}.delay.header_delay")
    return Fault(delay, _abort(message, ignored, what), headers(message.headers, f"{what}.headers"))


def _abort(message: Any, ignored: list[str], what: str) -> FaultAbort | None:
    if not message.HasField("abort"):
        return None
    share = parts_per_million(message.abort.percentage)
    match message.abort.WhichOneof("error_type"):
        case "http_status":
            status = message.abort.http_status
            if not 200 <= status < 600:
                raise FieldError(f"{what}.abort.http_status must be from 200 to 599, not {status}")
            return FaultAbort(share, http_status=status)
        case "grpc_status":
            return FaultAbort(share, grpc_status=int(message.abort.grpc_status))
        case _:
            ignored.append(f"{what}.abort.header_abort")
            return None


def override(typed_per_filter_config: Any, ignored: list[str], what: str) -> Fault | None:
    """The fault that a typed_per_filter_config sets: None when it says nothing about it (gRFC A39)."""
    found: Fault | None = None
    for name in sorted(typed_per_filter_config):
        config = typed_per_filter_config[name]
        where = f"{what}.typed_per_filter_config[{name}]"
        optional = False
        if is_a(config, route_components_pb2.FilterConfig):
            wrapper = unpack(config, route_components_pb2.FilterConfig, where)
            optional = wrapper.is_optional
            if wrapper.disabled:
                if "fault" in name or is_a(wrapper.config, fault_pb2.HTTPFault):
                    found = NO_FAULT
                continue
            config = wrapper.config
        if is_a(config, fault_pb2.HTTPFault):
            found = fault(unpack(config, fault_pb2.HTTPFault, where), ignored, where)
        else:
            # Envoy keeps a configuration for a filter that is not in the chain; it has no effect.
            ignored.append(where + (" (optional)" if optional else ""))
    return found

"""Fault injection (gRFC A33)."""

from typing import Any

from proxyless.model.route import Fault, FaultAbort, FaultDelay
from proxyless.xds_client.compile.decode import FieldError, parts_per_million, seconds, set_fields
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

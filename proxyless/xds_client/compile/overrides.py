"""typed_per_filter_config (gRFC A39): what a place says to filters instead of what a less specific place says."""

from typing import Any, NamedTuple

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2

from proxyless.model.rate_limit import NO_LIMIT, RateLimit
from proxyless.model.route import Fault
from proxyless.xds_client.compile.decode import is_a, unpack
from proxyless.xds_client.compile.fault import NO_FAULT, fault
from proxyless.xds_client.compile.rate_limit import rate_limit


class Overrides(NamedTuple):
    """None for what the place says nothing about."""

    fault: Fault | None = None
    rate_limit: RateLimit | None = None

    def over(self, general: "Overrides") -> "Overrides":
        """With what a less specific place says of the rest."""
        return Overrides(self.fault or general.fault, self.rate_limit or general.rate_limit)


NOTHING = Overrides()


def overrides(typed_per_filter_config: Any, ignored: list[str], what: str, within: str) -> Overrides:
    """what: the place. within: the route configuration, which with it tells the bucket of a rate limit from others."""
    injected: Fault | None = None
    limit: RateLimit | None = None
    for name in sorted(typed_per_filter_config):
        config = typed_per_filter_config[name]
        where = f"{what}.typed_per_filter_config[{name}]"
        optional = disabled = False
        if is_a(config, route_components_pb2.FilterConfig):
            wrapper = unpack(config, route_components_pb2.FilterConfig, where)
            config, optional, disabled = wrapper.config, wrapper.is_optional, wrapper.disabled
        if is_a(config, fault_pb2.HTTPFault) or (disabled and "fault" in name):
            injected = NO_FAULT if disabled else fault(unpack(config, fault_pb2.HTTPFault, where), ignored, where)
        elif is_a(config, local_rate_limit_pb2.LocalRateLimit) or (disabled and "ratelimit" in name):
            limit = NO_LIMIT
            if not disabled:
                message = unpack(config, local_rate_limit_pb2.LocalRateLimit, where)
                limit = rate_limit(message, ignored, where, f"{within} {where}")
        elif not disabled:
            # Envoy keeps a configuration for a filter that is not in the chain; it has no effect.
            ignored.append(where + (" (optional)" if optional else ""))
    return Overrides(injected, limit) if injected or limit else NOTHING

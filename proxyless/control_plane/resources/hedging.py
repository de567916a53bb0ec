"""The annotation by which routes hedge. Istio's API has no word for it; what it becomes is Envoy's
route.v3.HedgePolicy.hedge_on_per_try_timeout.
"""

from collections.abc import Mapping

HEDGE = "proxyless.io/hedge-on-per-try-timeout"


def hedges(annotations: Mapping[str, str]) -> bool:
    """Whether the forwarding routes of a VirtualService, HTTPRoute or GRPCRoute with these hedge."""
    return annotations.get(HEDGE) == "true"

"""A rule of an HTTPRoute or GRPCRoute as a VirtualService would have it, with what only these kinds can say.

No document has these: ``discovery.route_rules`` makes them, and from there on both are translated alike.
"""

from proxyless.control_plane.resources.base import Int32, Percent, StringMatch, Text
from proxyless.control_plane.resources.virtual_service import (
    HTTPRedirect,
    HTTPRoute,
    HTTPRouteDestination,
    RegexRewrite,
)


class SegmentPrefix(StringMatch):
    """``prefix``, without a slash at its end, matches whole segments of a path only; empty, every path."""


class RuleRedirect(HTTPRedirect):
    uri_regex_rewrite: RegexRewrite | None = None


class Backend(HTTPRouteDestination):
    """fault: why nothing can be sent there, empty if only its absence can be the reason."""

    fault: Text = ""


class AttachedRule(HTTPRoute):
    """fault_status: what the share of a backend that is not there is answered with. share: of the requests that match;
    the others go on to the next rule.
    """

    fault_status: Int32 = 500
    share: Percent | None = None

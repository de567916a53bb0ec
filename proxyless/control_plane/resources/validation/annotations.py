"""Annotations of our own: a mistyped one must not do nothing in silence. Codes are Istio's (IST0107, IST0108)."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from proxyless.control_plane.resources.destination_rule import LOAD_BALANCING
from proxyless.control_plane.resources.hedging import HEDGE
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.rate_limit import RATE_LIMIT, parse_rates
from proxyless.control_plane.resources.service import ServiceSpec
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.virtual_service import VirtualServiceSpec

_PREFIX = "proxyless.io/"
# Annotation -> the kinds that it acts on.
_KNOWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        LOAD_BALANCING: ("DestinationRule",),
        RATE_LIMIT: ("Service", "VirtualService", "HTTPRoute", "GRPCRoute"),
        HEDGE: ("VirtualService", "HTTPRoute", "GRPCRoute"),
    }
)


def check_annotations(checks: Checks) -> None:
    resource = checks.resource
    for name in resource.annotations:
        path = child("metadata.annotations", name)
        if name.startswith(_PREFIX) and name not in _KNOWN:
            names = [known.removeprefix(_PREFIX) for known in _KNOWN]
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), names, n=1)
            hint = f"did you mean {_PREFIX}{near[0]}?" if near else f"known are {', '.join(_KNOWN)}"
            checks.warning(path, f"unknown annotation, it does nothing; {hint}", "UnknownAnnotation")
        elif name in _KNOWN and resource.kind not in _KNOWN[name]:
            kinds = ", ".join(_KNOWN[name])
            checks.warning(path, f"does nothing on a {resource.kind}; put it on: {kinds}", "MisplacedAnnotation")
        elif name == RATE_LIMIT:
            _rate_limit(checks, path, resource.annotations[name])


def _rate_limit(checks: Checks, path: str, text: str) -> None:
    try:
        found = parse_rates(text)
    except ValueError as error:
        checks.error(path, str(error))
        return
    spec = checks.resource.spec
    if isinstance(spec, ServiceSpec):
        ports = {name for port in spec.ports for name in (port.name, str(port.port)) if name}
        for rate in found:
            if rate.port and rate.port not in ports:
                checks.error(path, f"the Service has no port {rate.port}; it has {', '.join(sorted(ports))}")
    elif any(rate.port for rate in found):
        checks.error(path, 'only a Service has ports to name; write the rate alone, such as "100/s"')
    if isinstance(spec, VirtualServiceSpec) and not (spec.hosts and spec.http):
        what = "routes of TCP and TLS have no requests" if spec.hosts else "the VirtualService that delegates counts"
        checks.warning(path, f"does nothing here: {what}", "MisplacedAnnotation")

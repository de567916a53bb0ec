"""VirtualService: rules that no request can reach (Istio: VirtualServiceUnreachableRule and ...IneffectiveMatch)."""

from collections.abc import Sequence

from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.virtual_service import HTTPRoute, TCPRoute, TLSRoute, VirtualServiceSpec


def check_reachability(checks: Checks, spec: VirtualServiceSpec) -> None:
    _routes(checks, "spec.http", spec.http)
    _routes(checks, "spec.tls", spec.tls)
    _routes(checks, "spec.tcp", spec.tcp)


def _routes(checks: Checks, path: str, routes: Sequence[HTTPRoute | TLSRoute | TCPRoute]) -> None:
    catch_all: int | None = None
    seen: dict[str, int] = {}
    for index, route in enumerate(routes):
        here = f"{path}[{index}]"
        if catch_all is not None:
            message = f"is never used: {path}[{catch_all}] before it has no match and takes everything"
            checks.warning(here, message, code="VirtualServiceUnreachableRule")
            continue
        if not route.match:
            catch_all = index
            continue
        duplicates = 0
        for position, match in enumerate(route.match):
            # The name of a match is for people and does not route.
            written = match.model_dump_json(exclude={"name"})
            earlier = seen.setdefault(written, index)
            if earlier != index:
                duplicates += 1
                message = f"is never used: {path}[{earlier}] has the same match"
                checks.warning(f"{here}.match[{position}]", message, code="VirtualServiceIneffectiveMatch")
        if duplicates == len(route.match):
            message = "is never used: rules before it have all its matches"
            checks.warning(here, message, code="VirtualServiceUnreachableRule")

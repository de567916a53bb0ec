"""The rules of the routes that are attached to a service, in the order in which they are tried, for one client."""

from collections.abc import Iterable, Iterator
from typing import Any

from proxyless.control_plane.discovery.attached_routes import AttachedRoute
from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.route_rules import RouteRule
from proxyless.control_plane.resources.attached_rule import AttachedRule, Backend
from proxyless.control_plane.resources.base import Percent
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.virtual_service import Destination, HTTPDirectResponse
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.generated import Notes


def attached_rules(
    catalog: Catalog, scope: Scope, attached: Iterable[AttachedRoute], notes: Notes
) -> Iterator[tuple[AttachedRule, Resource[Any], str]]:
    """Each with the route that it is of, and where it is written there.

    A backend that is not there keeps its share of the requests, which are answered with an error.
    """
    for rule in sorted((rule for route in attached for rule in route.rules), key=lambda rule: rule.rank):
        live, lost, reasons = [], 0, []
        for one in rule.http.route:
            assert isinstance(one, Backend)
            if reason := one.fault or _missing(catalog, scope, one.destination):
                lost += one.weight
                reasons.append(f"{one.destination.host} {reason}")
            else:
                live.append(one)
        if lost:
            why = ", ".join(reasons)
            notes.add(f"{rule.origin}: {why}; its requests are answered with {rule.http.fault_status}")
            yield _lost(rule, lost, sum(one.weight for one in live)), rule.resource, f"{rule.origin} ({why})"
        if live or not lost:
            mirrors = [one for one in rule.http.mirrors if not _missing(catalog, scope, one.destination)]
            update = {"route": tuple(live), "mirrors": tuple(mirrors)}
            yield rule.http.model_copy(update=update), rule.resource, rule.origin


def _lost(rule: RouteRule, lost: int, live: int) -> AttachedRule:
    update = {
        "direct_response": HTTPDirectResponse(status=rule.http.fault_status),
        "route": (),
        "share": Percent(value=100.0 * lost / (lost + live)) if live else None,
    }
    return rule.http.model_copy(update=update)


def _missing(catalog: Catalog, scope: Scope, destination: Destination) -> str:
    """Why a destination is none; empty if it is one."""
    service = catalog.service(destination.host, scope.namespace)
    if service is None:
        return "does not exist"
    port = destination.port
    return "" if port is None or service.port(port.number) else f"has no port {port.number}"

"""What a schema cannot say: whether a well-formed resource makes sense. One file a kind, and one for all together.

Source: Istio's pkg/config/validation for what is an error and what a warning; Kubernetes for Service, EndpointSlice.
"""

from collections.abc import Callable
from typing import Any

from proxyless.control_plane.resources.problem import Problem
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.validation.annotations import check_annotations
from proxyless.control_plane.resources.validation.authorization_policy import check_authorization_policy
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.validation.destination_rule import check_destination_rule
from proxyless.control_plane.resources.validation.gateway_route import check_grpc_route, check_http_route
from proxyless.control_plane.resources.validation.peer_authentication import check_peer_authentication
from proxyless.control_plane.resources.validation.request_authentication import check_request_authentication
from proxyless.control_plane.resources.validation.service import check_endpoint_slice, check_service
from proxyless.control_plane.resources.validation.service_entry import check_service_entry, check_workload_entry
from proxyless.control_plane.resources.validation.sidecar import check_sidecar
from proxyless.control_plane.resources.validation.virtual_service import check_virtual_service

_CHECKS: dict[str, Callable[[Checks, Any], None]] = {
    "AuthorizationPolicy": check_authorization_policy,
    "DestinationRule": check_destination_rule,
    "EndpointSlice": check_endpoint_slice,
    "GRPCRoute": check_grpc_route,
    "HTTPRoute": check_http_route,
    "PeerAuthentication": check_peer_authentication,
    "RequestAuthentication": check_request_authentication,
    "Service": check_service,
    "ServiceEntry": check_service_entry,
    "Sidecar": check_sidecar,
    "VirtualService": check_virtual_service,
    "WorkloadEntry": check_workload_entry,
}


def check(resource: Resource[Any]) -> list[Problem]:
    """Everything wrong with one resource by itself; an Error among them refuses it."""
    checks = Checks(resource)
    check_annotations(checks)
    if resource.kind in _CHECKS:
        _CHECKS[resource.kind](checks, resource.spec)
    return checks.problems

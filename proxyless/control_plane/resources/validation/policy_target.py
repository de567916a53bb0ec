"""Which workloads a policy of security.istio.io is for: what Istio checks of the fields that say so."""

from proxyless.control_plane.resources.authorization_policy import AuthorizationPolicySpec
from proxyless.control_plane.resources.base import PolicyTargetReference
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.request_authentication import RequestAuthenticationSpec
from proxyless.control_plane.resources.validation.checks import Checks

_TARGETS = frozenset(
    {
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    }
)


def check_target(checks: Checks, spec: AuthorizationPolicySpec | RequestAuthenticationSpec) -> None:
    if sum((spec.selector is not None, spec.target_ref is not None, bool(spec.target_refs))) > 1:
        checks.error("spec", "only one of selector, targetRefs may be set")
    if spec.selector is not None:
        checks.labels("spec.selector.matchLabels", spec.selector.match_labels)
        if not spec.selector.match_labels:
            checks.warning("spec.selector", "is empty and selects every workload of the namespace")
    if spec.target_ref is not None:
        _reference(checks, "spec.targetRef", spec.target_ref)
    for index, reference in enumerate(spec.target_refs):
        _reference(checks, child("spec.targetRefs", index), reference)


def _reference(checks: Checks, path: str, reference: PolicyTargetReference) -> None:
    if not reference.name:
        checks.error(f"{path}.name", "is required")
    if reference.namespace:
        checks.error(f"{path}.namespace", "must not be set: what is targeted is in the policy's own namespace")
    if (reference.group or "core", reference.kind) not in _TARGETS:
        kinds = ", ".join(sorted(kind for _, kind in _TARGETS))
        checks.error(f"{path}.kind", f"{reference.group}/{reference.kind} is not one of {kinds}")

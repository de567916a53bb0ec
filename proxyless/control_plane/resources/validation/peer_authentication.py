"""PeerAuthentication: what Istio's ValidatePeerAuthentication checks."""

from proxyless.control_plane.resources.peer_authentication import PeerAuthenticationSpec
from proxyless.control_plane.resources.validation.checks import Checks


def check_peer_authentication(checks: Checks, spec: PeerAuthenticationSpec) -> None:
    selects = spec.selector is not None and bool(spec.selector.match_labels)
    if spec.port_level_mtls and not selects:
        checks.error("spec.portLevelMtls", "needs a selector: a policy for a namespace or the mesh has no ports")
    if "port_level_mtls" in spec.model_fields_set and not spec.port_level_mtls:
        checks.error("spec.portLevelMtls", "must list at least one port; remove it if there is none")
    if spec.selector is not None:
        checks.labels("spec.selector.matchLabels", spec.selector.match_labels)
        if not spec.selector.match_labels:
            checks.warning("spec.selector", "is empty and selects every workload of the namespace")

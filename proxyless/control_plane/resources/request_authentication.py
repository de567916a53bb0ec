"""Istio's RequestAuthentication (security.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/security/request_authentication/
"""

from proxyless.control_plane.resources.base import (
    Boolean,
    Duration,
    PolicyTargetReference,
    Spec,
    Text,
    WorkloadSelector,
)


class JWTHeader(Spec):
    name: Text = ""
    prefix: Text = ""


class ClaimToHeader(Spec):
    header: Text = ""
    claim: Text = ""


class JWTRule(Spec):
    """A token of ``issuer``, if there is one, must be valid. timeout: of fetching keys, 5s unless set.

    Without from_*: the header ``Authorization: Bearer``, then the query parameter ``access_token`` (Envoy).
    """

    issuer: Text = ""
    audiences: tuple[Text, ...] = ()
    jwks_uri: Text = ""
    jwks: Text = ""
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[Text, ...] = ()
    from_cookies: tuple[Text, ...] = ()
    output_payload_to_header: Text = ""
    forward_original_token: Boolean = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    space_delimited_claims: tuple[Text, ...] = ()


class RequestAuthenticationSpec(Spec):
    """Without selector: the namespace; in the root namespace: the mesh. All policies of a workload act together."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    jwt_rules: tuple[JWTRule, ...] = ()

"""RequestAuthentication: what Istio's ValidateRequestAuthentication checks."""

from proxyless.control_plane.resources import key_sets
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.request_authentication import JWTRule, RequestAuthenticationSpec
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.validation.policy_target import check_target


def check_request_authentication(checks: Checks, spec: RequestAuthenticationSpec) -> None:
    check_target(checks, spec)
    for index, rule in enumerate(spec.jwt_rules):
        _rule(checks, child("spec.jwtRules", index), rule)


def _rule(checks: Checks, path: str, rule: JWTRule) -> None:
    if not rule.issuer and not rule.jwks_uri:
        checks.error(f"{path}.issuer", "one of issuer, jwksUri is required")
    if rule.jwks_uri and not key_sets.is_url(rule.jwks_uri):
        checks.error(f"{path}.jwksUri", "is not an http:// or https:// URL, without a user name")
    if rule.jwks and (fault := key_sets.fault(rule.jwks)):
        checks.error(f"{path}.jwks", fault)
    elif rule.jwks and key_sets.has_private_key(rule.jwks):
        checks.warning(
            f"{path}.jwks", "has a private key, which every server is sent; leave all but the public part out"
        )
    if rule.jwks and rule.jwks_uri:
        checks.warning(f"{path}.jwksUri", "is not used beside jwks")
    for index, header in enumerate(rule.from_headers):
        checks.header_name(f"{path}.fromHeaders[{index}].name", header.name)
    for name in ("audiences", "from_params", "from_cookies", "space_delimited_claims"):
        for index, value in enumerate(getattr(rule, name)):
            if not value:
                field = type(rule).model_fields[name].alias or name
                checks.error(child(f"{path}.{field}", index), "must not be empty")
    if rule.output_payload_to_header:
        checks.header_name(f"{path}.outputPayloadToHeader", rule.output_payload_to_header)
    for index, claim in enumerate(rule.output_claim_to_headers):
        here = f"{path}.outputClaimToHeaders[{index}]"
        checks.header_name(f"{here}.header", claim.header)
        if not claim.claim:
            checks.error(f"{here}.claim", "is required")
    checks.duration(f"{path}.timeout", rule.timeout)

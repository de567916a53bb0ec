"""RequestAuthentication: what Istio's ValidateRequestAuthentication checks."""

import json
from typing import Any
from urllib.parse import urlsplit

from proxyless.control_plane.resources.names import is_host, is_ip
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.request_authentication import JWTRule, RequestAuthenticationSpec
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.validation.policy_target import check_target

# Type and curve of those that Envoy knows.
_KEYS = frozenset({("RSA", None), ("oct", None), ("OKP", "Ed25519"), ("EC", "P-256"), ("EC", "P-384"), ("EC", "P-521")})


def check_request_authentication(checks: Checks, spec: RequestAuthenticationSpec) -> None:
    check_target(checks, spec)
    for index, rule in enumerate(spec.jwt_rules):
        _rule(checks, child("spec.jwtRules", index), rule)


def _rule(checks: Checks, path: str, rule: JWTRule) -> None:
    if not rule.issuer and not rule.jwks_uri:
        checks.error(f"{path}.issuer", "one of issuer, jwksUri is required")
    if rule.jwks_uri and not is_url(rule.jwks_uri):
        checks.error(f"{path}.jwksUri", f"{rule.jwks_uri!r} is not an http:// or https:// URL")
    if rule.jwks and not _is_key_set(rule.jwks):
        checks.error(f"{path}.jwks", 'is not a JSON Web Key Set with a key that can verify: {"keys": [...]}, as a text')
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


def is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    known = parts.scheme in ("http", "https") and port != 0
    return known and (is_ip(host) or is_host(host, wildcard=False)) and text.isascii() and text.isprintable()


def _is_key_set(text: str) -> bool:
    """Or one key, which Istio's reader takes too. Envoy refuses a set without a key that it can use."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    keys = data.get("keys", [data]) if isinstance(data, dict) else None
    return isinstance(keys, list) and any(map(_is_key, keys))


def _is_key(key: Any) -> bool:
    from jwt import PyJWK, PyJWTError

    if not isinstance(key, dict) or (key.get("kty"), key.get("crv")) not in _KEYS:
        return False
    try:
        PyJWK(key)
    except (PyJWTError, ValueError, TypeError, AttributeError):
        return False
    return True

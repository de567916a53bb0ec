"""JSON Web Key Sets (RFC 7517): what servers can verify tokens with, and where the keys of an issuer come from."""

import json
from typing import Any
from urllib.parse import urlsplit

from proxyless.control_plane.resources.names import is_host, is_ip
from proxyless.control_plane.resources.request_authentication import JWTRule
from proxyless.model.authentication import MAX_JWKS, MAX_KEYS

# OpenID Connect Discovery 1.0, section 4.
DISCOVERY = "/.well-known/openid-configuration"
# Type and curve of those that Envoy knows. No set: what is looked up in it may be unhashable.
_KEYS = (("RSA", None), ("oct", None), ("OKP", "Ed25519"), ("EC", "P-256"), ("EC", "P-384"), ("EC", "P-521"))


def source(rule: JWTRule) -> str:
    """The URL that a rule's keys are fetched from; "" if they are in it, or nowhere.

    Source: Istio's jwksUri: "if not set, the URL is discovered from the issuer".
    """
    if rule.jwks:
        return ""
    return rule.jwks_uri or (rule.issuer.rstrip("/") + DISCOVERY if is_url(rule.issuer) else "")


def is_url(text: str) -> bool:
    """Of a kind that keys are fetched from."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    known = parts.scheme in ("http", "https") and port != 0 and parts.username is None
    return known and (is_ip(host) or is_host(host, wildcard=False)) and text.isascii() and text.isprintable()


def fault(text: str) -> str:
    """Why servers would not take a key set, "" if they do. One key is taken for a set, as Istio does."""
    if len(text) > MAX_JWKS:
        return f"has more than {MAX_JWKS} characters"
    keys = _read(text)
    if keys is None:
        return 'is not a JSON Web Key Set: {"keys": [...]}, as a text'
    if len(keys) > MAX_KEYS:
        return f"has {len(keys)} keys, at most {MAX_KEYS} are accepted"
    # Envoy refuses a set without a key that it can use.
    return "" if any(map(_is_key, keys)) else "is a JSON Web Key Set without a key that can verify"


def has_private_key(text: str) -> bool:
    return any(isinstance(key, dict) and key.get("kty") != "oct" and "d" in key for key in _read(text) or ())


def as_set(text: str) -> str:
    """Envoy takes a set only."""
    return text if "keys" in json.loads(text) else f'{{"keys": [{text}]}}'


def _read(text: str) -> list[Any] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    keys = data.get("keys", [data]) if isinstance(data, dict) else None
    return keys if isinstance(keys, list) else None


def _is_key(key: Any) -> bool:
    from jwt import PyJWK, PyJWTError

    if not isinstance(key, dict) or (key.get("kty"), key.get("crv")) not in _KEYS:
        return False
    try:
        PyJWK(key)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return False
    return True

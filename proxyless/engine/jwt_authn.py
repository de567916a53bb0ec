"""Verifying tokens, as Envoy's jwt_authn filter does: where they are, what must hold, and what it answers.

PyJWT verifies signatures; everything else is decided here. Nothing of a token is believed before its signature.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from proxyless.engine.matching import Subject, route_matches
from proxyless.engine.replies import original_url, respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Respond
from proxyless.model.authentication import Either, JwtAuthn, JwtKey, JwtProvider, Requirement, Verified

# What a token may cost; servers bound heads as well.
_MAX_TOKEN = 32 * 1024
_MAX_REMEMBERED = 4096
_MISSING = "Jwt is missing"
_FORBIDDEN = "Audiences in Jwt are not allowed"
_NOT_A_TOKEN = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"  # noqa: S105


class Token(NamedTuple):
    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    encoded: str  # the payload as it came


class Known(NamedTuple):
    """What verified tokens say. claims: for policies. remove, add: header lines of the request, names lower case."""

    claims: dict[str, Any]
    remove: frozenset[str]
    add: tuple[tuple[str, str], ...]


class _Failed(Exception):
    """Why a requirement is not met, in Envoy's words."""


def authenticate(filter_: JwtAuthn, head: Request, clock: Callable[[], float] = time.time) -> Known | Respond:
    """clock: Unix seconds."""
    # What only this filter may say.
    remove = {name for provider in filter_.providers for name in _written(provider)}
    nothing = Known({}, frozenset(remove), ())
    if filter_.preflight and _is_preflight(head):
        return nothing
    subject = Subject(head)
    for rule in filter_.rules:
        if rule.match is not None and not route_matches(rule.match, subject, 0.0):
            continue
        if rule.requirement is None:
            return nothing
        found: list[tuple[JwtProvider, Token, str]] = []
        try:
            _require(rule.requirement, head, clock(), found)
        except _Failed as failed:
            return _refuse(head, str(failed))
        return _known(found, remove)
    return nothing


def _require(requirement: Requirement, head: Request, now: float, found: list[tuple[JwtProvider, Token, str]]) -> None:
    if isinstance(requirement, Verified):
        found += _verified(requirement, head, now)
        return
    if isinstance(requirement, Either):
        problem = _MISSING
        for part in requirement.parts:
            try:
                _require(part, head, now, found)
            except _Failed as failed:
                problem = problem if str(failed) == _MISSING else str(failed)
            else:
                return
        if requirement.failed or (requirement.missing and problem == _MISSING):
            return
        raise _Failed(problem)
    for part in requirement.parts:
        _require(part, head, now, found)


def _verified(wanted: Verified, head: Request, now: float) -> list[tuple[JwtProvider, Token, str]]:
    """Every token in the provider's places must hold."""
    tokens = list(_tokens(wanted.provider, head))
    if not tokens:
        raise _Failed(_MISSING)
    audiences = wanted.provider.audiences if wanted.audiences is None else wanted.audiences
    return [(wanted.provider, _checked(wanted.provider, audiences, text, now), place) for place, text in tokens]


def _tokens(provider: JwtProvider, head: Request) -> list[tuple[str, str]]:
    """(header name or "", token)"""
    found = []
    for name, prefix in provider.headers:
        for line in head.values(name):
            _, mark, rest = line.partition(prefix) if prefix else ("", "x", line)
            if mark:
                # Envoy: up to the first character that a token cannot have.
                found.append((name, rest.strip().partition(" ")[0].partition(",")[0]))
    if provider.params:
        for part in head.path.partition("?")[2].split("&"):
            name, _, value = part.partition("=")
            if unquote_plus(name) in provider.params:
                found.append(("", unquote_plus(value)))
    if provider.cookies:
        for line in head.values("cookie"):
            for pair in line.split(";"):
                name, _, value = pair.partition("=")
                if name.strip() in provider.cookies:
                    found.append(("", value.strip().strip('"')))
    return found


def _checked(provider: JwtProvider, audiences: frozenset[str], text: str, now: float) -> Token:
    token = _parsed(text)
    claims = token.payload
    if provider.issuer and claims.get("iss") != provider.issuer:
        raise _Failed("Jwt issuer is not configured")
    begins, ends = _moment(claims, "nbf"), _moment(claims, "exp")
    if begins is not None and now + provider.skew < begins:
        raise _Failed("Jwt not yet valid")
    if ends is not None and now >= ends + provider.skew:
        raise _Failed("Jwt is expired")
    if ends is None and provider.expires:
        raise _Failed("Jwt expiration is missing")
    if audiences and not audiences & _audiences(claims):
        raise _Failed(_FORBIDDEN)
    if not provider.keys:
        raise _Failed(
            "Jwks remote fetch is failed" if provider.keys is None else "Jwks doesn't have any valid public key"
        )
    algorithm, kid = token.header["alg"], token.header.get("kid", "")
    fitting = [
        key for key in provider.keys if algorithm in key.algorithms and (not kid or not key.kid or key.kid == kid)
    ]
    if not fitting:
        raise _Failed("Jwks doesn't have key to match kid or alg from Jwt")
    if not any(_signed(text, key, algorithm) for key in fitting):
        raise _Failed("Jwt verification fails")
    return token


def _signed(text: str, key: JwtKey, algorithm: str) -> bool:
    # Callers send the same token again and again; a signature that holds once always does.
    return (_verify_once if len(text) <= _MAX_REMEMBERED else _verify)(text, key, algorithm)


def _verify(text: str, key: JwtKey, algorithm: str) -> bool:
    import jwt  # with its cryptography it costs a process that verifies nothing too much

    try:
        jwt.PyJWS().decode_complete(text, key.key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return False
    return True


_verify_once = lru_cache(maxsize=1024)(_verify)


def _parsed(text: str) -> Token:
    parts = text.split(".")
    if len(parts) != 3 or len(text) > _MAX_TOKEN:
        raise _Failed(_NOT_A_TOKEN)
    header, payload = _object(parts[0]), _object(parts[1])
    if header is None or not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise _Failed("Jwt header is an invalid JSON")
    if payload is None:
        raise _Failed("Jwt payload is an invalid JSON")
    return Token(header, payload, parts[1])


def _object(encoded: str) -> dict[str, Any] | None:
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        raise _Failed(f"Jwt payload [{name}] field is not a number")
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> frozenset[str]:
    value = claims.get("aud")
    return frozenset(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _known(found: list[tuple[JwtProvider, Token, str]], remove: set[str]) -> Known:
    claims: dict[str, Any] = {}
    add: list[tuple[str, str]] = []
    for provider, token, place in found:
        if place and not provider.forward:
            remove.add(place)
        if provider.metadata:
            claims[provider.metadata] = _split(token.payload, provider.split)
        if provider.header_metadata:
            claims[provider.header_metadata] = token.header
        if provider.payload_header:
            encoded = token.encoded.rstrip("=")
            add.append((provider.payload_header, encoded + "=" * (-len(encoded) % 4) if provider.padded else encoded))
        for header, path in provider.claims_to_headers:
            text = _line(token.payload, path)
            if text is not None:
                add.append((header, text))
    return Known(claims, frozenset(remove), tuple(add))


def _split(payload: Mapping[str, Any], names: frozenset[str]) -> Mapping[str, Any]:
    return {
        name: value.split(" ") if name in names and isinstance(value, str) else value for name, value in payload.items()
    }


def _line(payload: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    value: Any = payload
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list):
        try:
            text = json.dumps(value, separators=(",", ":"))
        except RecursionError:
            return None
        return base64.urlsafe_b64encode(text.encode()).decode("ascii")
    if not isinstance(value, str) or any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in value):
        return None
    return value.encode("utf-8", "surrogatepass").decode("latin-1")


def _written(provider: JwtProvider) -> list[str]:
    return ([provider.payload_header] if provider.payload_header else []) + [
        name for name, _ in provider.claims_to_headers
    ]


def _is_preflight(head: Request) -> bool:
    wanted = ("origin", "access-control-request-method")
    return head.method == "OPTIONS" and all(any(head.values(name)) for name in wanted)


def _refuse(head: Request, problem: str) -> Respond:
    status = 403 if problem == _FORBIDDEN else 401
    error = "" if problem == _MISSING else ', error="invalid_token"'
    challenge = ("www-authenticate", f'Bearer realm="{original_url(head)}"{error}')
    return respond(head, status, problem.encode(), problem, (), headers=(challenge,))

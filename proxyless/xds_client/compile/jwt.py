"""JWT filters (Envoy's extensions.filters.http.jwt_authn.v3.JwtAuthentication): providers, keys, requirements.

A filter with something that we do not know has no keys: then no request that carries a token is let in.
"""

import json
from typing import Any

from proxyless.model.authentication import (
    MAX_JWKS,
    MAX_KEYS,
    Each,
    Either,
    JwtAuthn,
    JwtKey,
    JwtProvider,
    JwtRule,
    Requirement,
    Verified,
)
from proxyless.xds_client.compile import matching
from proxyless.xds_client.compile.decode import FieldError, has_unknown, set_fields

# Envoy's places for a provider that names none.
_DEFAULT_HEADERS = (("authorization", "Bearer "),)
_DEFAULT_PARAMS = ("access_token",)
_DEFAULT_SKEW = 60.0
MAX_DEPTH = 32

# RFC 7518 and RFC 8037, by key type; those of elliptic curves by curve.
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HMAC = ("HS256", "HS384", "HS512")
_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "secp256k1": ("ES256K",)}

_NOT_SUPPORTED = ("subjects", "max_lifetime", "failed_status_in_metadata")
_WITHOUT_EFFECT = ("jwt_cache_config", "clear_route_cache")


class _Unsupported(Exception):
    """A requirement of a newer API."""


def jwt_filter(message: Any, ignored: list[str], what: str) -> JwtAuthn:
    unknown = set_fields(message, ("filter_state_rules",), what)
    if has_unknown(message):
        unknown.append(f"{what}: a field of a newer API")
    for name in sorted(message.providers):
        where = f"{what}.providers[{name}]"
        provider = message.providers[name]
        unknown += set_fields(provider, _NOT_SUPPORTED, where)
        ignored += set_fields(provider, _WITHOUT_EFFECT, where)
        if has_unknown(provider):
            unknown.append(f"{where}: a field of a newer API")
    if message.strip_failure_response:
        ignored.append(f"{what}.strip_failure_response")
    if unknown:
        ignored += [f"{field} is not supported: requests that carry a token are answered 401" for field in unknown]
        return _closed(message)
    providers = {
        name: _provider(name, provider, _keys(provider, ignored, where), ignored, where)
        for name, provider in sorted(message.providers.items())
        for where in (f"{what}.providers[{name}]",)
    }
    rules: list[JwtRule] = []
    for index, one in enumerate(message.rules):
        try:
            rule = _rule(one, message, providers, ignored, f"{what}.rules[{index}]")
        except _Unsupported as unsupported:
            ignored.append(f"{unsupported} is not supported: requests that carry a token are answered 401")
            return _closed(message)
        rules += [] if rule is None else [rule]
    return JwtAuthn(tuple(rules), tuple(providers.values()), bool(message.bypass_cors_preflight))


def _provider(name: str, message: Any, keys: tuple[JwtKey, ...] | None, ignored: list[str], what: str) -> JwtProvider:
    places = message.from_headers or message.from_params or message.from_cookies
    if any(not one.name for one in message.from_headers):
        raise FieldError(f"{what}.from_headers has an empty name")
    if message.from_params and not message.forward:
        ignored.append(f"{what}.forward: a token in a parameter is passed on")
    return JwtProvider(
        name,
        message.issuer,
        frozenset(message.audiences),
        keys,
        tuple((one.name.lower(), one.value_prefix) for one in message.from_headers) if places else _DEFAULT_HEADERS,
        tuple(message.from_params) if places else _DEFAULT_PARAMS,
        tuple(message.from_cookies),
        bool(message.forward),
        message.forward_payload_header.lower(),
        bool(message.pad_forward_payload_header),
        tuple((one.header_name.lower(), tuple(one.claim_name.split("."))) for one in message.claim_to_headers),
        message.payload_in_metadata,
        message.header_in_metadata,
        frozenset(message.normalize_payload_in_metadata.space_delimited_claims),
        float(message.clock_skew_seconds) or _DEFAULT_SKEW,
        bool(message.require_expiration),
    )


def _keys(message: Any, ignored: list[str], what: str) -> tuple[JwtKey, ...] | None:
    """None: there are no keys here."""
    match message.WhichOneof("jwks_source_specifier"):
        case "local_jwks" if message.local_jwks.WhichOneof("specifier") == "inline_string":
            return _parsed(message.local_jwks.inline_string, ignored, f"{what}.local_jwks")
        case "local_jwks" if message.local_jwks.WhichOneof("specifier") == "inline_bytes":
            text = message.local_jwks.inline_bytes.decode("utf-8", "replace")
            return _parsed(text, ignored, f"{what}.local_jwks")
        case None:
            raise FieldError(f"{what} has neither local_jwks nor remote_jwks")
        case kind:
            ignored.append(f"{what}.{kind}: only inline keys are supported, every token is answered 401")
            return None


def _parsed(text: str, ignored: list[str], what: str) -> tuple[JwtKey, ...]:
    if len(text) > MAX_JWKS:
        raise FieldError(f"{what} has {len(text)} characters, at most {MAX_JWKS} are accepted")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{what} is not JSON: {str(error)[:100]}") from error
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise FieldError(f"{what} has no list of keys (RFC 7517)")
    if len(listed) > MAX_KEYS:
        raise FieldError(f"{what} has {len(listed)} keys, at most {MAX_KEYS} are accepted")
    keys = []
    for index, one in enumerate(listed):
        key = _key(one)
        if key is None:
            # RFC 7517 section 5: keys that are not understood are left out.
            ignored.append(f"{what}.keys[{index}]")
        else:
            keys.append(key)
    return tuple(keys)


def _key(one: Any) -> JwtKey | None:
    import jwt  # with its cryptography it costs a process that verifies nothing too much

    if not isinstance(one, dict) or one.get("use", "sig") != "sig":
        return None
    kid, algorithm = one.get("kid", ""), one.get("alg")
    match one.get("kty"):
        case "RSA":
            possible: tuple[str, ...] = _RSA
        case "EC":
            possible = _CURVES.get(str(one.get("crv")), ())
        case "oct":
            possible = _HMAC
        case "OKP" if one.get("crv") == "Ed25519":
            possible = ("EdDSA",)
        case _:
            return None
    if algorithm is not None:
        possible = tuple(each for each in possible if each == algorithm)
    if not possible or not isinstance(kid, str):
        return None
    try:
        key: Any = jwt.PyJWK(one, algorithm=possible[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if hasattr(key, "public_key"):
        # Somebody gave more away than he had to; what verifies is the public half.
        key = key.public_key()
    return JwtKey(json.dumps(one, sort_keys=True), kid, possible, key)


def _rule(message: Any, whole: Any, providers: dict[str, JwtProvider], ignored: list[str], what: str) -> JwtRule | None:
    if not message.HasField("match"):
        raise FieldError(f"{what}.match is missing")
    match, never = matching.route(message.match, f"{what}.match")
    requirement: Requirement | None = None
    match message.WhichOneof("requirement_type"):
        case "requires":
            requirement = _requirement(message.requires, providers, f"{what}.requires", 0)
        case "requirement_name":
            named = message.requirement_name
            if named not in whole.requirement_map:
                raise FieldError(f"{what}.requirement_name {named!r} is not in requirement_map")
            where = f"{what}: requirement_map[{named}]"
            requirement = _requirement(whole.requirement_map[named], providers, where, 0)
    if not never and not has_unknown(message):
        return JwtRule(match, requirement)
    ignored.append(f"{what}: its match is not supported, so it applies to every request unless it asks for nothing")
    return None if requirement is None else JwtRule(None, requirement)


def _requirement(message: Any, providers: dict[str, JwtProvider], what: str, depth: int) -> Requirement | None:
    if depth > MAX_DEPTH:
        raise FieldError(f"{what}: requirements are nested deeper than {MAX_DEPTH}")
    if has_unknown(message):
        raise _Unsupported(what)
    anybody = tuple(Verified(provider) for provider in providers.values())
    match message.WhichOneof("requires_type"):
        case "provider_name":
            return Verified(_named(message.provider_name, providers, what))
        case "provider_and_audiences":
            wanted = message.provider_and_audiences
            return Verified(_named(wanted.provider_name, providers, what), frozenset(wanted.audiences))
        case "requires_any":
            parts: list[Requirement] = []
            missing = failed = False
            for index, one in enumerate(message.requires_any.requirements):
                kind = one.WhichOneof("requires_type")
                missing = missing or kind == "allow_missing"
                failed = failed or kind == "allow_missing_or_failed"
                if kind not in ("allow_missing", "allow_missing_or_failed"):
                    part = _requirement(one, providers, f"{what}.requires_any[{index}]", depth + 1)
                    if part is not None:
                        parts.append(part)
            return Either(tuple(parts) or anybody, missing, failed)
        case "requires_all":
            each = [
                _requirement(one, providers, f"{what}.requires_all[{index}]", depth + 1)
                for index, one in enumerate(message.requires_all.requirements)
            ]
            return Each(tuple(one for one in each if one is not None))
        case "allow_missing":
            return Either(anybody, missing=True)
        case "allow_missing_or_failed":
            return Either(anybody, missing=True, failed=True)
        case _:
            return None


def _named(name: str, providers: dict[str, JwtProvider], what: str) -> JwtProvider:
    if name not in providers:
        raise FieldError(f"{what}: there is no provider {name!r}")
    return providers[name]


def _closed(message: Any) -> JwtAuthn:
    """Its places without its keys: no token that is there holds."""
    providers = tuple(
        _provider(name, provider, None, [], f"providers[{name}]")
        for name, provider in sorted(message.providers.items())
    )
    required = has_unknown(message) or any(_required(rule, message) for rule in message.rules)
    either = Either(tuple(Verified(provider) for provider in providers), missing=not required)
    return JwtAuthn((JwtRule(None, either),), providers)


def _required(rule: Any, message: Any) -> bool:
    """Whether some request without a token is refused; which path a rule is for is not looked at."""
    match rule.WhichOneof("requirement_type"):
        case "requires":
            return not _may_be_missing(rule.requires)
        case "requirement_name":
            named = message.requirement_map
            return rule.requirement_name not in named or not _may_be_missing(named[rule.requirement_name])
        case _:
            return has_unknown(rule)


def _may_be_missing(requirement: Any) -> bool:
    if has_unknown(requirement):
        return False
    match requirement.WhichOneof("requires_type"):
        case "allow_missing" | "allow_missing_or_failed":
            return True
        case "requires_any":
            return any(_may_be_missing(one) for one in requirement.requires_any.requirements)
        case "requires_all":
            return all(_may_be_missing(one) for one in requirement.requires_all.requirements)
        case None:
            return True
        case _:
            return False

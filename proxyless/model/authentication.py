"""Which tokens (JWT) a port of this workload wants verified, as its listener says (Envoy's jwt_authn filter)."""

from dataclasses import dataclass, field
from typing import Any

from proxyless.model.matching import RouteMatch

# Of one JWKS, so that nobody is made to read more: characters, and keys.
MAX_JWKS = 256 * 1024
MAX_KEYS = 256


@dataclass(frozen=True, slots=True)
class JwtKey:
    """One key of a JWKS. jwk: all of it. kid: "" if it has none. algorithms: those it may verify. key: PyJWT's."""

    jwk: str = field(repr=False)
    kid: str
    algorithms: tuple[str, ...]
    key: Any = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class JwtProvider:
    """One issuer. keys: None while there is none, then no token verifies.

    headers: names and what comes before the token. params, cookies: names. forward: leave the token in the request.
    payload_header: gets the payload in base64url, "" for none; padded: with ``=``. claims_to_headers: (header, path of
    the claim). metadata, header_metadata: under which keys policies see payload and header, "" for not at all.
    split: claims that policies see as lists, by spaces. skew: seconds that clocks may differ.
    """

    name: str
    issuer: str = ""
    audiences: frozenset[str] = frozenset()
    keys: tuple[JwtKey, ...] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    forward: bool = False
    payload_header: str = ""
    padded: bool = False
    claims_to_headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    metadata: str = ""
    header_metadata: str = ""
    split: frozenset[str] = frozenset()
    skew: float = 60.0
    expires: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """A token of this provider, which must be there. audiences: instead of the provider's."""

    provider: JwtProvider
    audiences: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Either:
    """One of these. missing: or no token at all. failed: or whatever token."""

    parts: "tuple[Requirement, ...]"
    missing: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Each:
    parts: "tuple[Requirement, ...]"


Requirement = Verified | Either | Each


@dataclass(frozen=True, slots=True)
class JwtRule:
    """The first rule that matches counts; without a requirement nothing is verified. match None: every request."""

    match: RouteMatch | None
    requirement: Requirement | None


@dataclass(frozen=True, slots=True)
class JwtAuthn:
    """One JWT filter. providers: of all rules; what they write is taken out of requests. preflight: CORS's passes."""

    rules: tuple[JwtRule, ...]
    providers: tuple[JwtProvider, ...]
    preflight: bool = False

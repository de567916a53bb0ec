"""Enrolment tokens, signed: HS256 with a key that never leaves the state dir."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import jwt

from proxyless.identity.private_files import exclusive, read_private, write_private
from proxyless.identity.svid import TrustBundle
from proxyless.identity.token import ANY, AUDIENCE, MAX_TOKEN_BYTES, EnrolmentClaims, claims_of, dev_token_file
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.spiffe import SpiffeId

ISSUER = "proxyless"
DEFAULT_TTL = 3600.0
_DEV_TTL = 30 * 24 * 3600.0
_KEY_BYTES = 32


class TokenIssuer:
    """Issues and verifies enrolment tokens. Its random key is made on first use (``ca/token-key``, 0600).

    bundle: its roots' hashes go into each token. clock: Unix seconds.
    """

    def __init__(self, state_dir: Path, bundle: TrustBundle, *, clock: Callable[[], float] = time.time) -> None:
        self._bundle = bundle
        self._clock = clock
        self._state_dir = state_dir
        path = state_dir / "ca" / "token-key"
        with exclusive(path.parent):
            if not path.exists():
                write_private(path, secrets.token_bytes(_KEY_BYTES))
        self._key = read_private(path)
        if len(self._key) < _KEY_BYTES:
            raise ConfigurationError(f"{path} is too short to be a signing key; delete it, and issue all tokens anew")

    def __repr__(self) -> str:
        return f"TokenIssuer({self._bundle.trust_domain!r})"

    def issue(self, namespace: str, service_account: str, ttl: float = DEFAULT_TTL) -> str:
        """A token that enrols one service account for ``ttl`` seconds. Raises IdentityError for a name that cannot be
        one.
        """
        SpiffeId(self._bundle.trust_domain, namespace, service_account)
        if not ttl > 0:
            raise IdentityError(f"an enrolment token cannot be valid for {ttl} s")
        return self._sign(namespace, service_account, ttl)

    def verify(self, token: str, *, allow_any: bool = False) -> EnrolmentClaims:
        """What a token says, once its signature, audience, issuer and expiry hold; raises IdentityError otherwise.

        allow_any: accept the ``--dev`` token too. One that is left over from an earlier ``--dev`` run is refused
        without it.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise IdentityError(f"the enrolment token has more than {MAX_TOKEN_BYTES} bytes")
        try:
            payload = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Expiry is checked below, against the injected clock.
                options={"require": ["exp", "aud", "iss", "sub"], "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError):
            raise IdentityError("the enrolment token was not issued by this control plane") from None
        claims = claims_of(payload, now=self._clock())
        if claims.trust_domain != self._bundle.trust_domain:
            raise IdentityError(f"the enrolment token is for the trust domain {claims.trust_domain!r}")
        if claims.any_identity and not allow_any:
            raise IdentityError("the enrolment token is a development token, and this control plane runs without --dev")
        return claims

    def write_dev_token(self) -> Path:
        """Leave a token for any identity in the state dir (0600): who can read it is who may enrol. Valid for 30
        days.
        """
        path = dev_token_file(self._state_dir)
        write_private(path, self._sign(ANY, ANY, _DEV_TTL).encode() + b"\n")
        return path

    def remove_dev_token(self) -> None:
        """Take it away again: a control plane that runs without ``--dev`` calls this at start."""
        dev_token_file(self._state_dir).unlink(missing_ok=True)

    def _sign(self, namespace: str, service_account: str, ttl: float) -> str:
        now = self._clock()
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"system:serviceaccount:{namespace}:{service_account}",
            "iat": int(now),
            "exp": int(now + ttl),
            "trust_domain": self._bundle.trust_domain,
            "root_sha256": sorted(self._bundle.fingerprints),
        }
        return jwt.encode(payload, self._key, algorithm="HS256")

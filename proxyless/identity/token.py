"""Enrolment tokens: what lets a workload ask for its first certificate.

A JWT (RFC 7519) that carries, like kubeadm's join tokens, the hash of the root certificate: an address and a token
are all a workload needs, and its first contact with the control plane is not blind. Only the control plane can verify
the signature (``control_plane.ca.token_issuer``); a workload got the token from its operator and reads it here.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId

AUDIENCE = "proxyless-ca"
ANY = "*"  # in place of namespace and service account: the --dev token
MAX_TOKEN_BYTES = 8 * 1024
_MAX_ROOTS = 16
_DEV_FILE = "dev-token"
_COMMAND = "proxyless token --service-account NAMESPACE/ACCOUNT"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SUBJECT = re.compile(r"system:serviceaccount:([^:]{1,253}):([^:]{1,253})\Z")


@dataclass(frozen=True, slots=True)
class EnrolmentClaims:
    """What a token says. root_sha256: hex SHA-256 of each root's DER. expires: Unix seconds."""

    trust_domain: str
    root_sha256: tuple[str, ...]
    namespace: str
    service_account: str
    expires: float

    @property
    def any_identity(self) -> bool:
        """Whether the holder may choose who it is (``--dev`` only)."""
        return self.namespace == ANY

    def identity(self, namespace: str = "", service_account: str = "") -> SpiffeId:
        """The SPIFFE ID to ask for: the token's, which must be the wished-for one where that is given.

        Raises IdentityError when they differ, or when a token for any identity meets no wish.
        """
        wished = (namespace or self.namespace, service_account or self.service_account)
        if self.any_identity:
            if ANY in wished:
                raise IdentityError("this enrolment token is for any identity: say a namespace and a service account")
        elif wished != (self.namespace, self.service_account):
            raise IdentityError(
                f"the enrolment token is for service account {self.namespace}/{self.service_account}, "
                f"not {wished[0]}/{wished[1]}: name the token's namespace and service account, or get another token "
                f"with: proxyless token --service-account {wished[0]}/{wished[1]}"
            )
        return SpiffeId(self.trust_domain, *wished)


def read(token: str, *, now: float | None = None) -> EnrolmentClaims:
    """What a workload's token says, without verifying its signature (only the control plane can).

    Raises IdentityError when it is not an enrolment token, or has expired at ``now`` (Unix seconds, default: the
    clock).
    """
    import jwt

    if len(token) > MAX_TOKEN_BYTES:
        raise IdentityError(f"the enrolment token has {len(token)} bytes; at most {MAX_TOKEN_BYTES} are read")
    try:
        payload = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise IdentityError(f"this is not an enrolment token; get one with: {_COMMAND}") from None
    return claims_of(payload, now=time.time() if now is None else now)


def claims_of(payload: Mapping[str, Any], *, now: float) -> EnrolmentClaims:
    """The claims in a decoded token, checked field by field; raises IdentityError naming the one that is wrong."""
    if payload.get("aud") != AUDIENCE:
        raise IdentityError(f"the token's audience is not {AUDIENCE!r}: it is not an enrolment token")
    subject = payload.get("sub")
    match = _SUBJECT.match(subject) if isinstance(subject, str) else None
    if match is None:
        raise IdentityError("the enrolment token's subject is not system:serviceaccount:NAMESPACE:SERVICE-ACCOUNT")
    roots = payload.get("root_sha256")
    if (
        not isinstance(roots, list)
        or not 0 < len(roots) <= _MAX_ROOTS
        or not all(isinstance(root, str) and _SHA256.match(root) for root in roots)
    ):
        raise IdentityError(
            f"the enrolment token's root_sha256 is not a list of 1 to {_MAX_ROOTS} SHA-256 hashes in hex"
        )
    trust_domain, expires = payload.get("trust_domain"), payload.get("exp")
    if not isinstance(trust_domain, str):
        raise IdentityError("the enrolment token names no trust domain")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise IdentityError("the enrolment token has no expiry")
    namespace, service_account = match.groups()
    if (namespace == ANY) != (service_account == ANY):
        raise IdentityError("the enrolment token's subject is not system:serviceaccount:NAMESPACE:SERVICE-ACCOUNT")
    # Constructed for its checks of the parts.
    SpiffeId(trust_domain, *(("any", "any") if namespace == ANY else (namespace, service_account)))
    if now >= expires:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires))
        raise IdentityError(f"the enrolment token expired at {when}; get a new one with: {_COMMAND}")
    return EnrolmentClaims(trust_domain, tuple(roots), namespace, service_account, float(expires))


def read_file(path: Path) -> str:
    """The token in a file, without surrounding white space. Read it anew for each use: tokens are replaced in place.

    Raises IdentityError naming the file when it is missing, unreadable, empty or too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except FileNotFoundError:
        if path.name == _DEV_FILE:
            raise IdentityError(
                f"there is no token: start the control plane with --dev and the state directory {path.parent}, or name "
                "a token file with --token-file or PROXYLESS_TOKEN_FILE"
            ) from None
        raise IdentityError(f"token file {path} does not exist; write one with: {_COMMAND} > {path}") from None
    except OSError as error:
        raise IdentityError(f"token file {path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_TOKEN_BYTES:
        raise IdentityError(f"token file {path} has more than {MAX_TOKEN_BYTES} bytes; it holds no enrolment token")
    token = content.decode("ascii", "replace").strip()
    if not token:
        raise IdentityError(f"token file {path} is empty; write one with: {_COMMAND} > {path}")
    return token


def dev_token_file(state_dir: Path) -> Path:
    """Where ``proxyless control-plane --dev`` leaves a token for processes of the same user."""
    return state_dir / _DEV_FILE

"""Bounded reading of PEM certificate lists, without a parser of X.509: enough to split and to fingerprint."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

from proxyless.model.errors import IdentityError

MAX_BUNDLE_BYTES = 64 * 1024
MAX_CERTIFICATES = 32

# One repetition only, of what cannot begin the end: two that could share white space take quadratic time over it.
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def certificates_der(pem: bytes) -> list[bytes]:
    """The DER of every certificate in ``pem``, in order.

    Raises IdentityError for more than 64 KiB, more than 32 certificates, or broken base64. An empty list is possible.
    """
    if len(pem) > MAX_BUNDLE_BYTES:
        raise IdentityError(f"a list of certificates has {len(pem)} bytes; at most {MAX_BUNDLE_BYTES} are read")
    found: list[bytes] = []
    for block in _BLOCK.finditer(pem):
        if len(found) == MAX_CERTIFICATES:
            raise IdentityError(f"a list of certificates has more than {MAX_CERTIFICATES} entries")
        try:
            found.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error as error:
            raise IdentityError(f"certificate {len(found) + 1} in a PEM list is not valid base64") from error
    return found


def certificates_pem(ders: Iterable[bytes]) -> bytes:
    """The inverse of ``certificates_der``."""
    lines: list[bytes] = []
    for der in ders:
        text = base64.b64encode(der)
        lines.append(b"-----BEGIN CERTIFICATE-----")
        lines += [text[start : start + 64] for start in range(0, len(text), 64)]
        lines.append(b"-----END CERTIFICATE-----")
    return b"\n".join(lines) + b"\n" if lines else b""


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate's DER, in lower-case hex."""
    return hashlib.sha256(der).hexdigest()

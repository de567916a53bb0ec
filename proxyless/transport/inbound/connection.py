"""What is known of one accepted connection, and how an application sees it in its ASGI scope.

Source of ``extensions["tls"]``: the ASGI TLS extension (asgi.readthedocs.io/en/latest/specs/tls.html).
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from proxyless.engine.caller import Caller
from proxyless.identity.source import REQUESTED_NAME, IdentitySource
from proxyless.identity.verify import peer_certificate, verify_peer
from proxyless.model.errors import IdentityError
from proxyless.model.inbound import InboundListener
from proxyless.telemetry.observation import Connection as Observed

# RFC 8446 section 4.2.1 and its predecessors.
_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
EXTENSION = "proxyless"
UNKNOWN = Caller()


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of our own server. certificate_hash: SHA-256 of the peer's certificate in hex, "" without one.

    tls_extension: the ``tls`` extension of the ASGI scope, None over plaintext. local, remote: ``host:port``.
    not_after: Unix seconds at which the peer's certificate ends, None without one.
    Worked out of these, once: observed, for telemetry; element, of ``x-forwarded-client-cert``, "" without a peer.
    """

    caller: Caller
    local_id: str = ""
    certificate_hash: str = ""
    local: str = ""
    remote: str = ""
    tls_extension: dict[str, Any] | None = field(default=None, repr=False)
    not_after: float | None = None
    observed: Observed = field(init=False, repr=False, compare=False)
    element: str = field(init=False, repr=False, compare=False)
    _ours: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        peer = self.caller.peer
        principal = "" if peer is None else str(peer)
        observed = Observed(peer, bool(self.caller.tls), self.remote, self.local, principal)
        element = f"By={self.local_id};Hash={self.certificate_hash};URI={principal}" if principal else ""
        object.__setattr__(self, "observed", observed)
        object.__setattr__(self, "element", element)
        ours = {"peer": principal or None, "tls": self.caller.tls, "connection": self, "handled": False}
        object.__setattr__(self, "_ours", ours)

    def extensions(self, *, handled: bool = False) -> dict[str, Any]:
        """For one request: fresh, since an application may write to it.

        handled: it has been judged, so a mesh inside the application leaves it alone.
        """
        ours = self._ours.copy()
        ours["handled"] = handled
        if self.tls_extension is None:
            return {EXTENSION: ours}
        return {"tls": self.tls_extension.copy(), EXTENSION: ours}


def examine(
    tls: ssl.SSLObject | None,
    identity: IdentitySource,
    listener: InboundListener | None,
    *,
    local: str = "",
    remote: str = "",
) -> Connection:
    """Look at a connection once, after its handshake. ``tls`` is None over plaintext.

    Raises IdentityError if the peer presented a certificate that names no identity this port may accept.
    """
    svid, bundle = identity.svid, identity.bundle
    local_id = "" if svid is None else str(svid.spiffe_id)
    caller = Caller(tls is not None, None, local, remote, getattr(tls, REQUESTED_NAME, None))
    if tls is None:
        return Connection(caller, local_id, local=local, remote=remote)
    server_cert = "" if svid is None else _first_certificate(svid.chain_pem.decode("ascii"))
    der = tls.getpeercert(binary_form=True)
    if not der:
        extension = _extension(tls, server_cert, None, None)
        return Connection(caller, local_id, local=local, remote=remote, tls_extension=extension)
    if bundle is None:
        raise IdentityError("there is no trust bundle to judge the peer's certificate by")
    peer = verify_peer(der, () if listener is None else listener.san, bundle.trust_domain)
    extension = _extension(tls, server_cert, der, _distinguished_name(tls))
    digest, not_after = hashlib.sha256(der).hexdigest(), peer_certificate(der).not_after
    caller = replace(caller, peer=peer)
    return Connection(caller, local_id, digest, local, remote, extension, not_after)


def _extension(tls: ssl.SSLObject, server_cert: str, der: bytes | None, name: str | None) -> dict[str, Any]:
    cipher = tls.cipher()
    return {
        "server_cert": server_cert or None,
        "client_cert_chain": [] if der is None else _chain(tls, der),
        "client_cert_name": name,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(tls.version() or ""),
        "cipher_suite": None if cipher is None else _cipher_suites(tls.context).get(cipher[0]),
    }


def _chain(tls: ssl.SSLObject, der: bytes) -> list[str]:
    """The verified chain where Python can tell it (3.13 on), else the peer's own certificate."""
    verified = getattr(tls, "get_verified_chain", None)
    chain = verified() if verified is not None else [der]
    return [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain]


def _distinguished_name(tls: ssl.SSLObject) -> str:
    """RFC 4514, most specific part first; a SPIFFE certificate's subject is usually empty."""
    subject: Any = (tls.getpeercert() or {}).get("subject", ())
    parts = [f"{key}={_escape(str(value))}" for relative in subject for key, value in relative]
    return ",".join(reversed(parts))


def _escape(value: str) -> str:
    return "".join(f"\\{letter}" if letter in ',+"\\<>;=' else letter for letter in value)


def _first_certificate(pem: str) -> str:
    end = "-----END CERTIFICATE-----"
    head, found, _ = pem.partition(end)
    return head + found + "\n" if found else ""


@lru_cache(maxsize=8)
def _cipher_suites(context: ssl.SSLContext) -> dict[str, int]:
    """OpenSSL's ids carry the protocol in their upper half; the lower half is the number on the wire."""
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}

"""Who the peer of a TLS connection is.

The TLS stack has verified the chain; it cannot match URI names (Python's ``ssl`` knows only DNS names and addresses),
so each connection's certificate is read here, and its SPIFFE ID compared with what the control plane allowed.
Source: the X.509-SVID standard (exactly one URI SAN) and gRFC A29 (an empty match list accepts any identity of the
mesh).
"""

import functools
from dataclasses import dataclass

from proxyless.model.cluster import UpstreamTls
from proxyless.model.errors import IdentityError
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

_MAX_DER = 32 * 1024
_MAX_NAMES = 128
_MAX_URI = 2048  # the SPIFFE standard's own limit


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a verified certificate says. not_after: Unix seconds."""

    spiffe_id: SpiffeId
    not_after: float


def peer_id(cert_der: bytes | None) -> SpiffeId:
    """The SPIFFE ID in a certificate; IdentityError unless its one URI SAN is a workload's ID."""
    return peer_certificate(cert_der).spiffe_id


def peer_certificate(cert_der: bytes | None) -> PeerCertificate:
    """Like ``peer_id``, with the moment the certificate ends. Only for chains the TLS stack verified."""
    if not cert_der:
        raise IdentityError("the peer presented no certificate")
    uris, _, not_after = _names(cert_der)
    if len(uris) != 1:
        raise IdentityError(f"the peer's certificate has {len(uris)} URI names; a SPIFFE certificate has exactly one")
    return PeerCertificate(SpiffeId.parse(uris[0]), not_after)


def verify_peer(cert_der: bytes | None, san: tuple[StringMatcher, ...], trust_domain: str) -> SpiffeId:
    """The peer's SPIFFE ID, once it is of ``trust_domain`` and matches one of ``san`` (any, if ``san`` is empty).

    Call it on every connection after the handshake. Raises IdentityError naming what was expected and what was found.
    """
    found = peer_id(cert_der)
    if found.trust_domain != trust_domain:
        raise IdentityError(f"the peer is {found}, of another trust domain than ours ({trust_domain})")
    if san and not _any_matches(san, str(found)):
        raise IdentityError(f"the peer is {found}, but this connection is only for {_describe(san)}")
    return found


def verify_upstream(cert_der: bytes | None, tls: UpstreamTls, trust_domain: str) -> SpiffeId | None:
    """``verify_peer`` for an endpoint of a cluster; None for a server outside the mesh (``mesh_trust`` False).

    For the latter the TLS stack has checked the host name; ``san``, if any, must also match a DNS or URI name.
    """
    if tls.mesh_trust:
        return verify_peer(cert_der, tls.san, trust_domain)
    if tls.san:
        if not cert_der:
            raise IdentityError("the peer presented no certificate")
        uris, dns, _ = _names(cert_der)
        if not any(_any_matches(tls.san, name) for name in (*uris, *dns)):
            names = ", ".join((*uris, *dns)[:8]) or "nothing"
            raise IdentityError(f"the peer's certificate names {names[:600]}, expected {_describe(tls.san)}")
    return None


# A process meets few certificates, and often; the key is the whole DER, so no collision can lend an identity.
@functools.lru_cache(maxsize=512)
def _names(cert_der: bytes) -> tuple[tuple[str, ...], tuple[str, ...], float]:
    """URI names, DNS names and notAfter. Raises IdentityError for anything that is not a well-formed certificate."""
    if len(cert_der) > _MAX_DER:
        raise IdentityError(f"the peer's certificate has {len(cert_der)} bytes; at most {_MAX_DER} are read")
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(cert_der)
        extensions = certificate.extensions
        if any(isinstance(e.value, x509.BasicConstraints) and e.value.ca for e in extensions):
            raise IdentityError("the peer presented the certificate of an authority, which no workload may be")
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        dns = tuple(names.get_values_for_type(x509.DNSName))
        not_after = certificate.not_valid_after_utc.timestamp()
        count = len(names)
    except IdentityError:
        raise
    except x509.ExtensionNotFound:
        raise IdentityError("the peer's certificate has no subject alternative name, so it names no workload") from None
    except Exception as error:  # cryptography has many for bad input, not one base: a stranger chooses the bytes
        raise IdentityError(f"the peer's certificate is malformed: {str(error)[:200]}") from None
    if count > _MAX_NAMES or any(len(uri) > _MAX_URI for uri in uris):
        raise IdentityError("the peer's certificate has too many or too long names")
    if any("\0" in name for name in (*uris, *dns)):
        raise IdentityError("the peer's certificate has a name with an embedded NUL")
    return uris, dns, not_after


def _any_matches(matchers: tuple[StringMatcher, ...], name: str) -> bool:
    return any(_matches(matcher, name) for matcher in matchers)


def _matches(matcher: StringMatcher, name: str) -> bool:
    """Envoy's type.matcher.v3.StringMatcher; ignore_case has no effect on a regex, as there."""
    value = matcher.value
    if matcher.ignore_case:
        name, value = (name, value) if matcher.kind is StringKind.REGEX else (name.lower(), value.lower())
    match matcher.kind:
        case StringKind.EXACT:
            return name == value
        case StringKind.PREFIX:
            return name.startswith(value)
        case StringKind.SUFFIX:
            return name.endswith(value)
        case StringKind.CONTAINS:
            return value in name
        case StringKind.REGEX:
            return matcher.regex is not None and matcher.regex.fullmatch(name)
        case StringKind.NEVER:
            return False


def _describe(matchers: tuple[StringMatcher, ...]) -> str:
    shown = [m.value if m.kind is StringKind.EXACT else f"{m.kind.value} {m.value!r}" for m in matchers[:5]]
    more = f" or {len(matchers) - 5} more" if len(matchers) > 5 else ""
    return " or ".join(shown)[:1200] + more

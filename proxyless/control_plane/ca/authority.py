"""Signs workload certificates. It decides what a certificate says; a request contributes a public key and nothing
else.
"""

import datetime as dt
import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxyless.control_plane.ca.root import Root, create_root, domain_of, key_usage, load_root
from proxyless.identity.control_plane import control_plane_id
from proxyless.identity.istio_ca import MAX_CSR_BYTES
from proxyless.identity.private_files import exclusive
from proxyless.identity.request import CertificateRequest
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.spiffe import SpiffeId

# Istio's defaults: security/pkg/cmd.
DEFAULT_TTL = 24 * 3600.0
MAX_TTL = 90 * 24 * 3600.0
_BACKDATE = dt.timedelta(minutes=2)

# Names whose DNS form belongs to one SPIFFE ID only: DNS ignores case, and a dot in a namespace could move the border
# between service account and namespace.
_DNS_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DNS_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")

WorkloadKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class CertificateAuthority:
    """Issues certificates of one trust domain.

    state_dir: where its own root lives (``ca/root-cert.pem``, ``ca/root-key.pem`` 0600), made on first start, unless
    a root is given by both ``root_cert_path`` and ``root_key_path``. The certificate file may hold more than one
    root: see ``root.load_root``. clock: Unix seconds. Raises ConfigurationError when the root cannot be used.
    """

    def __init__(
        self,
        state_dir: Path,
        trust_domain: str = "cluster.local",
        *,
        root_cert_path: Path | None = None,
        root_key_path: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if (root_cert_path is None) != (root_key_path is None):
            raise ConfigurationError("a given CA needs both its certificate and its key")
        self._clock = clock
        self.trust_domain = trust_domain
        cert_path = root_cert_path or state_dir / "ca" / "root-cert.pem"
        key_path = root_key_path or state_dir / "ca" / "root-key.pem"
        if root_cert_path is None:
            with exclusive(cert_path.parent):
                if not cert_path.exists():
                    create_root(cert_path, key_path, trust_domain, self._now())
        self._root: Root = load_root(cert_path, key_path, self._now())
        made_for = domain_of(self._root) if root_cert_path is None else ""
        if made_for and made_for != trust_domain[:64]:
            raise ConfigurationError(
                f"the root in {cert_path.parent} was made for the trust domain {made_for}, not {trust_domain}: start "
                f"with --trust-domain {made_for}, or with another --state-dir"
            )
        self._bundle = TrustBundle(trust_domain, b"".join(map(_pem, self._root.roots)))

    @property
    def bundle(self) -> TrustBundle:
        """What workloads of this mesh trust."""
        return self._bundle

    @property
    def identity(self) -> SpiffeId:
        """The control plane's own SPIFFE ID."""
        return control_plane_id(self.trust_domain)

    def sign(self, csr_pem: bytes, spiffe_id: SpiffeId, ttl: float = DEFAULT_TTL) -> list[str]:
        """Certify the key of ``csr_pem`` as ``spiffe_id`` for ``ttl`` seconds (0 for 24 h, at most 90 d and the
        issuer's end).

        The caller has authorised ``spiffe_id``; subject and names in the request are ignored. Returns Istio's
        ``cert_chain``: leaf, intermediates, and last the roots, PEM each. Raises IdentityError for a request that is
        not acceptable.
        """
        return self._issue(_key_of(csr_pem), spiffe_id, ttl, ())

    def server_svid(self, hosts: Iterable[str] = (), ttl: float = DEFAULT_TTL) -> Svid:
        """A certificate for the control plane itself: its SPIFFE ID and DNS name, ``localhost``, and ``hosts``
        (names, addresses).
        """
        request = CertificateRequest.new(self.identity)
        names = [_host_name(host) for host in dict.fromkeys(("localhost", "127.0.0.1", "::1", *hosts)) if host]
        chain = self._issue(_key_of(request.csr_pem), self.identity, ttl, names)
        svid, _ = request.accept(chain, now=self._clock())
        return svid

    def _issue(self, key: WorkloadKey, spiffe_id: SpiffeId, ttl: float, names: Iterable[x509.GeneralName]) -> list[str]:
        if spiffe_id.trust_domain != self.trust_domain:
            raise IdentityError(f"{spiffe_id} is not of this certificate authority's trust domain, {self.trust_domain}")
        if not ttl >= 0:  # also refuses NaN
            raise IdentityError(f"a certificate cannot be valid for {ttl} s")
        issuer, now = self._root.certificate, self._now()
        # A certificate that outlives an issuer would fail in the middle of its life (Istio release note 59768).
        end = min(now + dt.timedelta(seconds=min(ttl or DEFAULT_TTL, MAX_TTL)), self._root.not_after)
        if end <= now:
            raise ConfigurationError("the CA certificate has expired; replace it and restart the control plane")
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
        if _DNS_NAMESPACE.match(spiffe_id.namespace) and _DNS_ACCOUNT.match(spiffe_id.service_account):
            alternatives.append(x509.DNSName(spiffe_id.dns_name))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([*alternatives, *names]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                key_usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPublicKey)), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key(issuer), critical=False)
            .sign(self._root.key, hashes.SHA256())
        )
        chain = [_pem(certificate).decode() for certificate in (leaf, *self._root.intermediates)]
        return [*chain, self._bundle.roots_pem.decode()]

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(int(self._clock()), dt.UTC)


def _key_of(csr_pem: bytes) -> WorkloadKey:
    """The public key of a request whose holder proved to have the private one."""
    if len(csr_pem) > MAX_CSR_BYTES:
        raise IdentityError(f"the certificate request has {len(csr_pem)} bytes; at most {MAX_CSR_BYTES} are read")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key, proven = csr.public_key(), csr.is_signature_valid
    except Exception as error:  # UnsupportedAlgorithm, ValueError, TypeError: whatever a stranger's bytes provoke
        raise IdentityError(f"the certificate request is malformed: {str(error)[:200]}") from None
    if not proven:
        raise IdentityError("the certificate request's signature does not match its key")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise IdentityError("the certificate request's key must be EC P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519")


def requested_id(csr_pem: bytes) -> SpiffeId | None:
    """The SPIFFE ID a request asks for, None if it names none. It is a wish: authorise it. Raises IdentityError if
    unreadable.
    """
    _key_of(csr_pem)
    try:
        names = x509.load_pem_x509_csr(csr_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        return None
    except Exception as error:
        raise IdentityError(f"the certificate request's names are malformed: {str(error)[:200]}") from None
    if len(uris) > 1:
        raise IdentityError("the certificate request names more than one URI; a SPIFFE certificate has exactly one")
    return SpiffeId.parse(uris[0]) if uris else None


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigurationError(f"{host!r} can be no name in a certificate: write it in ASCII (IDNA)") from None


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

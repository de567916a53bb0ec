"""A new key, the request to sign it, and the checks on what comes back."""

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxyless.identity.pem import MAX_BUNDLE_BYTES, certificates_der, certificates_pem
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.identity.verify import peer_certificate
from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A fresh P-256 key and the PEM request for it, naming the SPIFFE ID it is for."""

    spiffe_id: SpiffeId
    csr_pem: bytes
    _key: "EllipticCurvePrivateKey" = field(repr=False)

    @classmethod
    def new(cls, spiffe_id: SpiffeId) -> "CertificateRequest":
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
        return cls(spiffe_id, csr.public_bytes(serialization.Encoding.PEM), key)

    def accept(self, cert_chain: list[str], *, now: float) -> tuple[Svid, TrustBundle]:
        """The answer of a certificate authority, which is Istio's: leaf, intermediates, and last the roots (PEM).

        Raises IdentityError unless the leaf is for our key and our SPIFFE ID, is valid at ``now`` and chains to one
        of the roots.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        if not 2 <= len(cert_chain) <= 16 or sum(map(len, cert_chain)) > 2 * MAX_BUNDLE_BYTES:
            raise IdentityError("the certificate authority's answer is not a chain of 2 to 16 certificates")
        bundle = TrustBundle(self.spiffe_id.trust_domain, cert_chain[-1].encode())
        chain_der = certificates_der("\n".join(cert_chain[:-1]).encode())
        try:
            chain = [x509.load_der_x509_certificate(der) for der in chain_der]
            roots = [x509.load_der_x509_certificate(der) for der in certificates_der(bundle.roots_pem)]
        except (ValueError, x509.InvalidVersion):
            raise IdentityError("the certificate authority's answer holds a malformed certificate") from None
        if not chain or chain[0].public_key() != self._key.public_key():
            raise IdentityError("the certificate authority signed another key than ours")
        found = peer_certificate(chain_der[0]).spiffe_id
        if found != self.spiffe_id:
            raise IdentityError(f"the certificate authority signed {found}; we asked for {self.spiffe_id}")
        leaf = chain[0]
        not_before, not_after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        if not not_before <= now < not_after:
            raise IdentityError(
                f"the new certificate is valid from {leaf.not_valid_before_utc:%FT%TZ} to "
                f"{leaf.not_valid_after_utc:%FT%TZ}, not now: compare this machine's clock with the control plane's"
            )
        _check_chain(chain, roots)
        key_pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Svid(self.spiffe_id, certificates_pem(chain_der), key_pem, not_before, not_after), bundle


def _check_chain(chain: "list[x509.Certificate]", roots: "list[x509.Certificate]") -> None:
    from cryptography.exceptions import InvalidSignature

    def issued(certificate: "x509.Certificate", issuer: "x509.Certificate") -> bool:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    linked = all(issued(child, parent) for child, parent in itertools.pairwise(chain))
    if not linked or not any(issued(chain[-1], root) for root in roots):
        raise IdentityError("the certificate authority's answer does not chain to its own roots")

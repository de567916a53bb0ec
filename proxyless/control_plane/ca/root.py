"""The root of the mesh's trust: made on first start, or given by the operator; checked before it signs anything."""

import datetime as dt
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from proxyless.identity.private_files import read_private, write_private
from proxyless.model.errors import ConfigurationError

_ROOT_LIFETIME = dt.timedelta(days=3650)
_BACKDATE = dt.timedelta(minutes=2)
_MAX_CERTIFICATES = 16

IssuerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Root:
    """certificate: the one that signs (root or intermediate). intermediates: it and those above it, without roots.

    roots: what the mesh trusts; several while one replaces another. not_after: the first end in the signer's chain.
    """

    certificate: x509.Certificate
    key: IssuerKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    not_after: dt.datetime


def create_root(cert_path: Path, key_path: Path, trust_domain: str, now: dt.datetime) -> None:
    """Make a self-signed P-256 root, valid for 10 years, and write it (key 0600).

    The certificate is written last. A key that is there without one is kept: either a start was cut short, or somebody
    lost the certificate, and what the key has signed stays good. Raises ConfigurationError for a key that is none.
    """
    key = _load_key(key_path) if key_path.exists() else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if not key_path.exists():
        write_private(key_path, encoded)
    write_private(cert_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def domain_of(root: Root) -> str:
    """The trust domain (its first 64 characters) that a root of ``create_root`` was made for, "" for another's root."""
    name = list(root.certificate.subject)
    return str(name[0].value) if len(name) == 1 and name[0].oid == NameOID.ORGANIZATION_NAME else ""


def load_root(cert_path: Path, key_path: Path, now: dt.datetime) -> Root:
    """Read and check a root (or intermediate) that signs, from PEM files.

    The certificate file holds the signing certificate first. Self-signed ones in it are trusted roots: add the old
    root after the new one, and both are trusted while workloads move over. Others complete the chain, in order.
    Raises ConfigurationError naming the file and the remedy.
    """
    try:
        with cert_path.open("rb") as file:
            pem = file.read(64 * 1024)
        certificates = x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise ConfigurationError(f"CA certificate {cert_path} cannot be read: {error.strerror}") from None
    except (ValueError, x509.InvalidVersion):
        raise ConfigurationError(f"CA certificate {cert_path} is not a PEM certificate") from None
    if len(certificates) > _MAX_CERTIFICATES:
        raise ConfigurationError(f"CA certificate {cert_path} holds more than {_MAX_CERTIFICATES} certificates")
    signer, key = certificates[0], _load_key(key_path)
    if signer.public_key() != key.public_key():
        raise ConfigurationError(f"CA key {key_path} does not belong to the first certificate in {cert_path}")
    for certificate in certificates:
        _check_authority(certificate, cert_path, now)
    roots = tuple(certificate for certificate in certificates if _self_signed(certificate))
    intermediates = tuple(certificate for certificate in certificates if not _self_signed(certificate))
    if not roots:
        raise ConfigurationError(
            f"CA certificate {cert_path} has no root: append the self-signed certificate of its issuer"
        )
    anchor = _anchor(signer, intermediates, roots, cert_path)
    ends = [certificate.not_valid_after_utc for certificate in (anchor, *intermediates)]
    return Root(signer, key, intermediates, roots, min(ends))


def key_usage(**uses: bool) -> x509.KeyUsage:
    """A KeyUsage extension with only the named uses."""
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    chosen: dict[str, Any] = dict.fromkeys(every, False) | uses
    return x509.KeyUsage(**chosen)


def _load_key(path: Path) -> IssuerKey:
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError):
        raise ConfigurationError(f"CA key {path} is not an unencrypted PEM private key") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size >= 256:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    raise ConfigurationError(f"CA key {path} must be EC (P-256 or larger) or RSA (2048 bits or more)")


def _check_authority(certificate: x509.Certificate, path: Path, now: dt.datetime) -> None:
    name = certificate.subject.rfc4514_string() or "without a subject"
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise ConfigurationError(f"certificate {name} in {path} is not a CA (basicConstraints CA:TRUE is missing)")
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not usage.key_cert_sign:
        raise ConfigurationError(f"certificate {name} in {path} must not sign others (keyUsage lacks keyCertSign)")
    if now >= certificate.not_valid_after_utc:
        raise ConfigurationError(
            f"certificate {name} in {path} expired at {certificate.not_valid_after_utc:%FT%TZ}; replace it"
        )
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc
        raise ConfigurationError(f"certificate {name} in {path} is not valid before {start:%FT%TZ}; check the clock")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _self_signed(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer and _issued_by(certificate, certificate)


def _anchor(
    signer: x509.Certificate,
    intermediates: tuple[x509.Certificate, ...],
    roots: tuple[x509.Certificate, ...],
    path: Path,
) -> x509.Certificate:
    """The root that the signing certificate chains to."""
    if signer in roots:
        if intermediates:
            raise ConfigurationError(f"{path}: after a root that signs, only further roots may follow")
        return signer
    for child, parent in itertools.pairwise(intermediates):
        if not _issued_by(child, parent):
            raise ConfigurationError(f"{path}: its certificates are not a chain, each issued by the next")
    for root in roots:
        if _issued_by(intermediates[-1], root):
            return root
    raise ConfigurationError(f"{path}: its chain does not end in one of its roots")

"""What the certificate authority signs, and what it refuses to start with."""

import datetime as dt
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control_plane.ca.authority import CertificateAuthority, requested_id
from proxyless.identity.pem import certificates_der
from proxyless.identity.request import CertificateRequest
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.spiffe import SpiffeId

WEB = SpiffeId("cluster.local", "default", "web")
PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


def csr(key: Any = None, *names: x509.GeneralName, subject: str = "", digest: Any = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return builder.sign(key, digest).public_bytes(PEM)


def leaf_of(chain: list[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())


def test_a_leaf_is_what_the_mesh_promises(ca: CertificateAuthority) -> None:
    before = time.time()
    chain = ca.sign(csr(), WEB)
    leaf = leaf_of(chain)
    assert len(chain) == 2
    assert chain[-1].encode() == ca.bundle.roots_pem
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical  # RFC 5280: it must be, as the subject is empty
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert names.value.get_values_for_type(x509.DNSName) == ["web.default.sa.cluster.local"]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc.timestamp() == pytest.approx(before - 120, abs=5)
    assert leaf.not_valid_after_utc.timestamp() == pytest.approx(before + 86_400, abs=5)
    assert leaf_of(ca.sign(csr(), WEB)).serial_number != leaf.serial_number


def test_nothing_but_the_key_is_taken_from_a_request(ca: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = x509.UniformResourceIdentifier("spiffe://cluster.local/ns/istio-system/sa/control-plane")
    leaf = leaf_of(ca.sign(csr(key, other, x509.DNSName("evil.example"), subject="admin"), WEB))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [str(WEB), WEB.dns_name]
    assert len(leaf.subject) == 0
    assert leaf.public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA-2048"],
)
def test_keys_that_are_signed(ca: CertificateAuthority, key: Any) -> None:
    assert leaf_of(ca.sign(csr(key), WEB)).public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        dsa.generate_private_key(1024),
    ],
    ids=["P-521", "secp256k1", "RSA-1024", "DSA"],
)
def test_keys_that_are_not(ca: CertificateAuthority, key: Any) -> None:
    with pytest.raises(IdentityError, match=r"key must be|malformed"):
        ca.sign(csr(key), WEB)


def test_a_request_not_signed_by_its_own_key_is_refused(ca: CertificateAuthority) -> None:
    der = bytearray(x509.load_pem_x509_csr(csr()).public_bytes(serialization.Encoding.DER))
    der[-5] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(PEM)
    with pytest.raises(IdentityError, match=r"signature|malformed"):
        ca.sign(forged, WEB)


@given(garbage=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_requests_never_raise_anything_else(garbage: bytes) -> None:
    wrapped = b"-----BEGIN CERTIFICATE REQUEST-----\n" + garbage + b"\n-----END CERTIFICATE REQUEST-----\n"
    for text in (garbage, wrapped, b"x" * 20_000):
        with pytest.raises(IdentityError):
            requested_id(text)


@pytest.mark.parametrize(
    ("names", "result"),
    [
        ((), None),
        ((x509.DNSName("web"),), None),
        ((x509.UniformResourceIdentifier(str(WEB)),), WEB),
        ((x509.UniformResourceIdentifier(str(WEB)), x509.UniformResourceIdentifier("https://x/")), "more than one"),
        ((x509.UniformResourceIdentifier("https://x/"),), "not of the form"),
    ],
)
def test_what_a_request_wishes(names: tuple[x509.GeneralName, ...], result: SpiffeId | str | None) -> None:
    if isinstance(result, str):
        with pytest.raises(IdentityError, match=result):
            requested_id(csr(None, *names))
    else:
        assert requested_id(csr(None, *names)) == result


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(0, 86_400), (60, 60), (1e30, 90 * 86_400), (-1, None), (float("nan"), None)]
)
def test_lifetimes(ca: CertificateAuthority, ttl: float, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(IdentityError, match="valid for"):
            ca.sign(csr(), WEB, ttl)
    else:
        left = leaf_of(ca.sign(csr(), WEB, ttl)).not_valid_after_utc.timestamp() - time.time()
        assert left == pytest.approx(seconds, abs=5)


@pytest.mark.parametrize(
    ("namespace", "service_account", "has_dns_name"),
    [
        ("default", "web", True),
        ("default", "web.v2", True),
        ("default", "Web", False),  # DNS ignores case: this one is not web.default.sa
        ("a.b", "web", False),  # would read as service account web.a in namespace b
        ("default", "web_2", False),
        ("Default", "web", False),
    ],
)
def test_a_dns_name_is_only_given_where_it_is_one_identitys_alone(
    ca: CertificateAuthority, namespace: str, service_account: str, has_dns_name: bool
) -> None:
    leaf = leaf_of(ca.sign(csr(), SpiffeId("cluster.local", namespace, service_account)))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert bool(names.get_values_for_type(x509.DNSName)) == has_dns_name


def test_another_trust_domain_is_not_ours_to_sign(ca: CertificateAuthority) -> None:
    with pytest.raises(IdentityError, match="trust domain"):
        ca.sign(csr(), SpiffeId("other.example", "default", "web"))


def test_the_control_planes_own_certificate(ca: CertificateAuthority) -> None:
    svid = ca.server_svid(["10.0.0.1", "mesh.example", ""])
    names = x509.load_pem_x509_certificate(svid.chain_pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == [
        "spiffe://cluster.local/ns/istio-system/sa/control-plane",
        "control-plane.istio-system.sa.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "mesh.example",
    ]
    with pytest.raises(ConfigurationError, match="ASCII"):
        ca.server_svid(["mäsh.example"])


# ---- the root


def test_the_root_is_made_once_and_private(tmp_path: Path) -> None:
    first = CertificateAuthority(tmp_path / "state")
    ca_dir = tmp_path / "state" / "ca"
    assert stat.S_IMODE((ca_dir / "root-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(ca_dir.stat().st_mode) == 0o700
    assert CertificateAuthority(tmp_path / "state").bundle == first.bundle
    assert sorted(path.name for path in ca_dir.iterdir()) == ["root-cert.pem", "root-key.pem"]
    root = x509.load_pem_x509_certificate(first.bundle.roots_pem)
    assert root.not_valid_after_utc - root.not_valid_before_utc == dt.timedelta(days=3650, minutes=2)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "PRIVATE" not in repr(first) + repr(vars(first))


def test_a_first_start_that_was_cut_short_begins_anew(tmp_path: Path) -> None:
    CertificateAuthority(tmp_path)
    (tmp_path / "ca" / "root-cert.pem").unlink()
    CertificateAuthority(tmp_path).sign(csr(), WEB)


def test_two_first_starts_at_once_agree(tmp_path: Path) -> None:
    found: list[frozenset[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(CertificateAuthority(tmp_path).bundle.fingerprints))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    CertificateAuthority(tmp_path)
    key = tmp_path / "ca" / "root-key.pem"
    key.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {key}"):
        CertificateAuthority(tmp_path)


def test_a_lost_key_is_named(tmp_path: Path) -> None:
    CertificateAuthority(tmp_path)
    (tmp_path / "ca" / "root-key.pem").unlink()
    with pytest.raises(ConfigurationError, match=r"root-key\.pem cannot be read: No such file"):
        CertificateAuthority(tmp_path)


class Given:
    """A CA made by somebody else, in files."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = directory / "given-cert.pem", directory / "given-key.pem"

    def write(self, certificates: list[x509.Certificate], key: Any) -> "Given":
        self.cert.write_bytes(b"".join(certificate.public_bytes(PEM) for certificate in certificates))
        encoded = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.key.touch(0o600)
        self.key.write_bytes(encoded)
        return self

    def start(self, directory: Path) -> CertificateAuthority:
        return CertificateAuthority(directory, root_cert_path=self.cert, root_key_path=self.key)


def authority(
    key: Any, name: str, *, issuer: str = "", issuer_key: Any = None, ca: bool | None = True,
    days: float = 10, sign_use: bool = True, start: float = -1,
) -> x509.Certificate:  # fmt: skip
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"digital_signature": True, "key_cert_sign": sign_use, "crl_sign": False, "decipher_only": False}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer or name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=min(start, days - 1)))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(issuer_key or key, hashes.SHA256())


KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("key", [KEY, OTHER, RSA], ids=["P-384", "P-256", "RSA"])
def test_a_given_root_signs(tmp_path: Path, key: Any) -> None:
    given_ca = Given(tmp_path).write([authority(key, "root")], key)
    request = CertificateRequest.new(WEB)
    svid, bundle = request.accept(given_ca.start(tmp_path).sign(request.csr_pem, WEB), now=time.time())
    assert svid.spiffe_id == WEB
    assert bundle.roots_pem.count(b"BEGIN") == 1
    assert not (tmp_path / "ca").exists()


def test_a_given_intermediate_signs_and_its_chain_is_sent(tmp_path: Path) -> None:
    chain = [authority(KEY, "middle", issuer="root", issuer_key=OTHER), authority(OTHER, "root")]
    ca = Given(tmp_path).write(chain, KEY).start(tmp_path)
    request = CertificateRequest.new(WEB)
    answer = ca.sign(request.csr_pem, WEB)
    assert len(answer) == 3
    svid, bundle = request.accept(answer, now=time.time())
    assert svid.chain_pem.count(b"BEGIN") == 2
    assert len(certificates_der(bundle.roots_pem)) == 1


def test_a_leaf_never_outlives_what_it_chains_to(tmp_path: Path) -> None:
    for chain in (
        [authority(KEY, "root", days=0.5)],
        [authority(KEY, "middle", issuer="root", issuer_key=OTHER, days=5), authority(OTHER, "root", days=0.5)],
        [authority(KEY, "middle", issuer="root", issuer_key=OTHER, days=0.5), authority(OTHER, "root", days=5)],
    ):
        ca = Given(tmp_path).write(chain, KEY).start(tmp_path)
        end = min(certificate.not_valid_after_utc for certificate in chain)
        assert leaf_of(ca.sign(csr(), WEB)).not_valid_after_utc == end


def test_a_root_that_expires_while_running_signs_no_more(tmp_path: Path) -> None:
    now = time.time()
    ca = CertificateAuthority(tmp_path, clock=lambda: now)
    now += 3651 * 86_400
    with pytest.raises(ConfigurationError, match="expired"):
        ca.sign(csr(), WEB)


def test_an_old_root_stays_trusted_beside_the_new(tmp_path: Path) -> None:
    ca = Given(tmp_path).write([authority(KEY, "new"), authority(OTHER, "old", days=0.2)], KEY).start(tmp_path)
    assert len(ca.bundle.fingerprints) == 2
    left = leaf_of(ca.sign(csr(), WEB)).not_valid_after_utc.timestamp() - time.time()
    assert left == pytest.approx(86_400, abs=5)  # the old root's end binds nobody who chains to the new one


@pytest.mark.parametrize(
    ("certificates", "key", "complaint"),
    [
        ([authority(KEY, "root")], OTHER, "does not belong"),
        ([authority(KEY, "leaf", ca=False)], KEY, "not a CA"),
        ([authority(KEY, "leaf", ca=None)], KEY, "not a CA"),
        ([authority(KEY, "root", sign_use=False)], KEY, "keyCertSign"),
        ([authority(KEY, "root", days=-1)], KEY, "expired at"),
        ([authority(KEY, "root", days=5, start=2)], KEY, "check the clock"),
        ([authority(KEY, "middle", issuer="root", issuer_key=OTHER)], KEY, "has no root"),
        ([authority(KEY, "middle", issuer="root", issuer_key=OTHER), authority(RSA, "root")], KEY, "does not end"),
        ([authority(KEY, "root"), authority(OTHER, "x", issuer="y", issuer_key=RSA)], KEY, "only further roots"),
        ([authority(KEY, "root")], ec.generate_private_key(ec.SECP192R1()), "must be EC|does not belong"),
        ([authority(KEY, "root")], ed25519.Ed25519PrivateKey.generate(), "must be EC"),
        ([], KEY, "not a PEM certificate"),
        ([authority(KEY, "root")] * 17, KEY, "more than 16"),
    ],
)
def test_a_given_ca_that_cannot_work_is_refused(
    tmp_path: Path, certificates: list[x509.Certificate], key: Any, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refusal:
        Given(tmp_path).write(certificates, key).start(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_given_ca_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both"):
        CertificateAuthority(tmp_path, root_cert_path=tmp_path / "cert.pem")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Given(tmp_path).start(tmp_path)


def test_an_unusable_state_dir_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}{os.sep}file"):
        CertificateAuthority(tmp_path / "file")


# ---- what the requester makes of an answer


def test_answers_that_a_workload_refuses(ca: CertificateAuthority, tmp_path: Path) -> None:
    request, other = CertificateRequest.new(WEB), CertificateRequest.new(WEB)
    good = ca.sign(request.csr_pem, WEB)
    stranger = CertificateAuthority(tmp_path / "stranger")
    api = SpiffeId("cluster.local", "default", "api")
    cases = [
        (good[:1], "not a chain"),
        ([], "not a chain"),
        ([*good[:-1], "nothing"], "no PEM certificate"),
        (["nothing", good[-1]], "another key"),
        (ca.sign(other.csr_pem, WEB), "another key"),
        (ca.sign(request.csr_pem, api), "we asked for"),
        ([good[0], stranger.bundle.roots_pem.decode()], "does not chain"),
        ([good[0], stranger.bundle.roots_pem.decode(), good[-1]], "does not chain"),
        ([good[0], "x" * 200_000], "not a chain"),
    ]
    for answer, complaint in cases:
        with pytest.raises(IdentityError, match=complaint):
            request.accept(answer, now=time.time())
    for moment in (time.time() - 3600, time.time() + 2 * 86_400):
        with pytest.raises(IdentityError, match="clock"):
            request.accept(good, now=moment)
    assert "PRIVATE" not in repr(request)
    assert "_key" not in repr(request)


def test_a_root_is_of_the_trust_domain_it_was_made_for(tmp_path: Path) -> None:
    """Else every identity of the mesh would change, and nobody was told."""
    CertificateAuthority(tmp_path, "first.example")
    with pytest.raises(ConfigurationError, match=r"trust domain first\.example.*--trust-domain first\.example"):
        CertificateAuthority(tmp_path, "second.example")
    assert CertificateAuthority(tmp_path, "first.example").bundle.trust_domain == "first.example"
    long = "a" * 63 + "." + "b" * 63
    CertificateAuthority(tmp_path / "long", long)
    assert CertificateAuthority(tmp_path / "long", long).trust_domain == long


def test_a_lost_root_certificate_is_made_again_for_the_same_key(tmp_path: Path) -> None:
    """What the key signed stays good, and a backup of the certificate would fit."""
    first = CertificateAuthority(tmp_path)
    leaf = leaf_of(first.sign(csr(), WEB))
    certificate, key = tmp_path / "ca" / "root-cert.pem", tmp_path / "ca" / "root-key.pem"
    kept, before = certificate.read_bytes(), key.read_bytes()
    certificate.unlink()
    again = CertificateAuthority(tmp_path)
    assert key.read_bytes() == before
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(again.bundle.roots_pem))
    certificate.write_bytes(kept)
    assert CertificateAuthority(tmp_path).bundle.roots_pem == first.bundle.roots_pem
    certificate.unlink()
    key.write_bytes(b"no key")
    with pytest.raises(ConfigurationError, match=r"root-key\.pem is not an unencrypted PEM private key"):
        CertificateAuthority(tmp_path)

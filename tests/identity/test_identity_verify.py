"""Reading identities out of certificates, and matching them: what strangers send must never widen anything."""

import contextlib
import datetime as dt
import re
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.identity.pem import certificates_der
from proxyless.identity.verify import peer_certificate, peer_id, verify_peer, verify_upstream
from proxyless.model.cluster import UpstreamTls
from proxyless.model.errors import IdentityError
from proxyless.model.matching import NEVER, Regex, StringKind, StringMatcher

KEY = ec.generate_private_key(ec.SECP256R1())
WEB = "spiffe://cluster.local/ns/default/sa/web"


def certificate(*names: x509.GeneralName, ca: bool = False, raw_san: bytes | None = None) -> bytes:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if raw_san is not None:
        oid = x509.SubjectAlternativeName.oid
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, raw_san), critical=False)
    elif names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


def raw_uris(*values: bytes) -> bytes:
    """A SubjectAlternativeName of URIs, byte by byte: cryptography would refuse to build some of them."""
    body = b"".join(b"\x86" + bytes([len(value)]) + value for value in values)
    return b"\x30" + bytes([len(body)]) + body


def test_a_workloads_certificate_names_it() -> None:
    found = peer_certificate(certificate(uri(WEB), x509.DNSName("web.default.sa.cluster.local")))
    assert str(found.spiffe_id) == WEB
    assert found.not_after == dt.datetime(2026, 1, 2, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("der", "complaint"),
    [
        (None, "no certificate"),
        (b"", "no certificate"),
        (b"\x30\x03\x02\x01\x00", "malformed"),
        (b"\x30" * 40_000, "at most"),
        (certificate(), "no subject alternative name"),
        (certificate(x509.DNSName("web.default.sa.cluster.local")), "0 URI names"),
        (certificate(uri(WEB), uri("spiffe://cluster.local/ns/default/sa/admin")), "2 URI names"),
        (certificate(uri(WEB), uri("https://example.com/")), "2 URI names"),
        (certificate(uri("https://example.com/")), "not of the form"),
        (certificate(uri(WEB + "/more")), "not of the form"),
        (certificate(uri("spiffe://cluster.local/ns/default/sa/")), "cannot be part"),
        (certificate(uri("spiffe://cluster.local/ns/../sa/web")), "cannot be part"),
        (certificate(uri("spiffe://user@cluster.local/ns/default/sa/web")), "not a SPIFFE trust domain"),
        (certificate(uri("spiffe://cluster.local:80/ns/default/sa/web")), "not a SPIFFE trust domain"),
        (certificate(uri(WEB + "?x")), "cannot be part"),
        (certificate(uri("spiffe://cluster.local/ns/" + "a" * 3000 + "/sa/web")), "too many or too long"),
        (certificate(*[x509.DNSName(f"n{i}.example") for i in range(200)], uri(WEB)), "too many or too long"),
        (certificate(raw_san=raw_uris(WEB.encode() + b"\0.evil")), "NUL"),
        (certificate(raw_san=raw_uris(b"\0")), "NUL"),
        (certificate(raw_san=raw_uris(b"spiffe://\xff\xfe")), "malformed"),
        (certificate(raw_san=b"\x30\x7f\x86"), "malformed"),
        (certificate(raw_san=b"garbage"), "malformed"),
        (certificate(uri(WEB), ca=True), "authority"),
    ],
)
def test_what_is_not_one_workloads_certificate_is_refused(der: bytes | None, complaint: str) -> None:
    with pytest.raises(IdentityError, match=complaint):
        peer_id(der)


GOOD = certificate(uri(WEB))


@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=200, deadline=None)
def test_damaged_certificates_never_raise_anything_else(position: int, value: int, cut: bool) -> None:
    damaged = GOOD[:position] if cut else GOOD[:position] + bytes([value]) + GOOD[position + 1 :]
    with contextlib.suppress(IdentityError):
        peer_id(damaged)


@given(garbage=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    with pytest.raises(IdentityError):
        peer_id(garbage)
    with contextlib.suppress(IdentityError):
        certificates_der(b"-----BEGIN CERTIFICATE-----\n" + garbage + b"\n-----END CERTIFICATE-----\n")


def regex(source: str) -> StringMatcher:
    compiled = re.compile(source)
    return StringMatcher(
        StringKind.REGEX, source, regex=Regex(source, lambda text: compiled.fullmatch(text) is not None)
    )


@pytest.mark.parametrize(
    ("matchers", "allowed"),
    [
        ((), True),
        ((StringMatcher(StringKind.EXACT, WEB),), True),
        ((StringMatcher(StringKind.EXACT, WEB.upper()),), False),
        ((StringMatcher(StringKind.EXACT, WEB.upper(), ignore_case=True),), True),
        ((StringMatcher(StringKind.EXACT, WEB + "2"),), False),
        ((StringMatcher(StringKind.EXACT, "other"), StringMatcher(StringKind.EXACT, WEB)), True),
        ((StringMatcher(StringKind.PREFIX, "spiffe://cluster.local/ns/default/"),), True),
        ((StringMatcher(StringKind.PREFIX, "spiffe://cluster.local/ns/other/"),), False),
        ((StringMatcher(StringKind.SUFFIX, "/sa/web"),), True),
        ((StringMatcher(StringKind.SUFFIX, "/sa/eb"),), False),
        ((StringMatcher(StringKind.CONTAINS, "/NS/DEFAULT/", ignore_case=True),), True),
        ((StringMatcher(StringKind.CONTAINS, "/ns/none/"),), False),
        ((regex("spiffe://.*/sa/web"),), True),
        ((regex("spiffe"),), False),
        ((StringMatcher(StringKind.REGEX, ".*"),), False),  # never compiled: never matches
        ((NEVER,), False),
        ((StringMatcher(StringKind.EXACT, "web.default.sa.cluster.local"),), False),  # a DNS name is no identity
    ],
)
def test_matching_a_peer(matchers: tuple[StringMatcher, ...], allowed: bool) -> None:
    der = certificate(uri(WEB), x509.DNSName("web.default.sa.cluster.local"))
    if allowed:
        assert str(verify_peer(der, matchers, "cluster.local")) == WEB
    else:
        with pytest.raises(IdentityError, match="only for") as refusal:
            verify_peer(der, matchers, "cluster.local")
        assert WEB in str(refusal.value)


def test_another_trust_domain_is_refused_whatever_matches() -> None:
    with pytest.raises(IdentityError, match="another trust domain"):
        verify_peer(certificate(uri(WEB)), (StringMatcher(StringKind.EXACT, WEB),), "prod.example")


def test_the_refusal_names_both_sides_and_stays_short() -> None:
    many = tuple(StringMatcher(StringKind.EXACT, f"spiffe://cluster.local/ns/default/sa/s{i}") for i in range(5000))
    with pytest.raises(IdentityError) as refusal:
        verify_peer(certificate(uri(WEB)), many, "cluster.local")
    assert "sa/s0" in str(refusal.value)
    assert "4995 more" in str(refusal.value)
    assert len(str(refusal.value)) < 2000


@pytest.mark.parametrize(
    ("tls", "result"),
    [
        (UpstreamTls(san=(StringMatcher(StringKind.EXACT, WEB),)), WEB),
        (UpstreamTls(san=(StringMatcher(StringKind.EXACT, "web.example"),)), IdentityError),
        (UpstreamTls(mesh_trust=False), None),
        (UpstreamTls(mesh_trust=False, san=(StringMatcher(StringKind.EXACT, "web.example"),)), None),
        (UpstreamTls(mesh_trust=False, san=(StringMatcher(StringKind.EXACT, "other.example"),)), IdentityError),
    ],
)
def test_an_upstream_is_verified_as_its_cluster_says(tls: UpstreamTls, result: Any) -> None:
    der = certificate(uri(WEB), x509.DNSName("web.example"))
    if result is IdentityError:
        with pytest.raises(IdentityError):
            verify_upstream(der, tls, "cluster.local")
    else:
        found = verify_upstream(der, tls, "cluster.local")
        assert (found and str(found)) == result

"""Enrolment and renewal end to end: grpclib in front, TLS front and grpc.aio behind, and everything that must be
refused.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from ca_stack import Stack, stack
from free_ports import free_port
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.identity.control_plane import control_plane_id, open_channel
from proxyless.identity.enrol import (
    ControlPlaneUnreachable,
    Enrolment,
    IdentityNotAllowed,
    RootMismatch,
    TokenRefused,
    enrol,
    fetch_bundle,
    request_certificate,
)
from proxyless.identity.istio_ca import CREATE_CERTIFICATE, messages
from proxyless.identity.request import CertificateRequest
from proxyless.identity.rotation import CertificateRotation
from proxyless.identity.source import IdentitySource
from proxyless.identity.token import read, read_file
from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId

WEB = SpiffeId("cluster.local", "default", "web")
API = SpiffeId("cluster.local", "default", "api")


async def refused(kind: type[Exception], match: str, attempt: Awaitable[Any]) -> None:
    with pytest.raises(kind, match=match):
        await attempt


def test_a_first_certificate_needs_an_address_and_a_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            svid, bundle = await enrol(s.address, s.tokens.issue("default", "web"))
            assert svid.spiffe_id == WEB
            assert bundle.same_roots(s.ca.bundle)
            assert svid.not_after == pytest.approx(time.time() + 86_400, abs=10)
            assert s.signed == [WEB]
            short, _ = await enrol(s.address, s.tokens.issue("default", "web"), "default", "web", ttl=60)
            assert short.not_after == pytest.approx(time.time() + 60, abs=10)
            assert short.key_pem != svid.key_pem

    asyncio.run(main())


def test_tokens_that_do_not_enrol(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            token = s.tokens.issue("default", "web")
            for attempt, kind, match in [
                (enrol(s.address, token, "default", "api"), IdentityError, "is for service account default/web"),
                (enrol(s.address, token[:-4] + "AAAA"), TokenRefused, "not issued by this control plane"),
                (enrol(s.address, "nonsense"), IdentityError, "not an enrolment token"),
                (
                    request_certificate(s.address, API, s.ca.bundle, token=token),
                    IdentityNotAllowed,
                    "for spiffe://cluster.local/ns/default/sa/web, not for",
                ),
                (request_certificate(s.address, WEB, s.ca.bundle), TokenRefused, "neither an enrolment token nor"),
                (request_certificate(s.address, WEB, s.ca.bundle, token="x"), TokenRefused, "not issued"),
            ]:
                await refused(kind, match, attempt)
            # A good certificate does not make up for a bad token.
            attempt = request_certificate(s.address, WEB, s.ca.bundle, svid=s.workload("web"), token="x")
            await refused(TokenRefused, "not issued", attempt)
            assert s.signed == []

    asyncio.run(main())


def test_expired_tokens_are_refused_by_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            past = TokenIssuer(tmp_path, s.ca.bundle, clock=lambda: time.time() - 100)
            token = past.issue("default", "web", 60)
            await refused(IdentityError, "expired", enrol(s.address, token))
            attempt = enrol(s.address, token, clock=lambda: time.time() - 100)  # a workload whose clock is late
            await refused(TokenRefused, "expired", attempt)

    asyncio.run(main())


def test_a_control_plane_with_another_root_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def main() -> None:
        elsewhere = CertificateAuthority(tmp_path / "elsewhere")
        token = TokenIssuer(tmp_path / "elsewhere", elsewhere.bundle).issue("default", "web")
        async with stack(tmp_path / "ours") as s:
            await refused(RootMismatch, r"man-in-the-middle\). Nothing was sent", enrol(s.address, token))
            attempt = request_certificate(s.address, WEB, elsewhere.bundle, token=token)
            await refused(RootMismatch, "verify failed", attempt)

    asyncio.run(main())


def test_a_man_in_the_middle_with_the_right_bundle_gets_no_token(tmp_path: Path) -> None:
    """Roots are public: an impostor can hand out ours, and even holds a workload's certificate of them."""

    async def main() -> None:
        async with stack(tmp_path) as s:
            s.certificate.source.set(s.workload("web"), s.ca.bundle)
            token = s.tokens.issue("default", "web")
            assert (await fetch_bundle(s.address, read(token))).same_roots(s.ca.bundle)
            await refused(RootMismatch, "is not spiffe://cluster.local/ns/istio-system/sa/", enrol(s.address, token))
            assert s.signed == []

    asyncio.run(main())


@pytest.mark.parametrize("sends", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 100_000])
def test_what_is_no_control_plane_is_unreachable(sends: bytes) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sends)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        claims = _claims()
        try:
            await refused(ControlPlaneUnreachable, "is it running", fetch_bundle(f"127.0.0.1:{port}", claims))
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def _claims() -> Any:
    from proxyless.identity.token import EnrolmentClaims

    return EnrolmentClaims("cluster.local", ("a" * 64,), "default", "web", time.time() + 100)


def test_silence_and_closed_ports_are_unreachable_within_the_time_allowed() -> None:
    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            await refused(ControlPlaneUnreachable, "cannot reach", fetch_bundle(address, _claims()))
            silent.listen(1)
            await refused(ControlPlaneUnreachable, "within 0.2 s", fetch_bundle(address, _claims(), within=0.2))

    asyncio.run(main())


def test_an_endless_bundle_is_not_read_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            roots = s.ca.bundle.roots_pem
            endless = type("Endless", (), {"roots_pem": roots * 200, "trust_domain": "cluster.local"})()
            s.front._current_context()
            generation = s.certificate.source._current
            object.__setattr__(generation, "bundle", endless)
            claims = read(s.tokens.issue("default", "web"))
            await refused(RootMismatch, "at most 65536", fetch_bundle(s.address, claims))

    asyncio.run(main())


def test_only_roots_that_the_token_vouches_for_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        other = CertificateAuthority(tmp_path / "other")
        async with stack(tmp_path / "ours") as s:
            claims = read(s.tokens.issue("default", "web"))
            both = type(s.ca.bundle)("cluster.local", other.bundle.roots_pem + s.ca.bundle.roots_pem)
            s.certificate.source.set(s.ca.server_svid(), both)
            assert (await fetch_bundle(s.address, claims)).fingerprints == s.ca.bundle.fingerprints

    asyncio.run(main())


# ---- renewal


def test_a_certificate_renews_itself_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            svid = s.workload("web")
            renewed, _ = await request_certificate(s.address, WEB, s.ca.bundle, svid=svid)
            assert renewed.spiffe_id == WEB
            attempt = request_certificate(s.address, API, s.ca.bundle, svid=svid)
            await refused(IdentityNotAllowed, "cannot renew as spiffe://cluster.local/ns/default/sa/api", attempt)
            # A request that names nobody renews who it is.
            channel = open_channel(s.address, s.ca.bundle, svid)
            try:
                answer = await _create(channel, _bare_csr())
                assert s.signed == [WEB, WEB]
                assert len(answer.cert_chain) == 2
            finally:
                channel.close()

    asyncio.run(main())


def _bare_csr() -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


async def _create(channel: Any, csr: str, token: str = "", ttl: int = 0) -> Any:
    from grpclib.client import UnaryUnaryMethod

    request, response = messages()
    metadata = {"authorization": f"Bearer {token}"} if token else None
    method = UnaryUnaryMethod(channel, CREATE_CERTIFICATE, request, response)
    return await method(request(csr=csr, validity_duration=ttl), metadata=metadata)


def test_bad_requests_have_the_right_status(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            token = s.tokens.issue("default", "web")
            channel = open_channel(s.address, s.ca.bundle, None)
            try:
                for csr, ttl, status, match in [
                    ("", 0, Status.INVALID_ARGUMENT, "malformed"),
                    ("nonsense", 0, Status.INVALID_ARGUMENT, "malformed"),
                    ("x" * 17_000, 0, Status.INVALID_ARGUMENT, "at most 16384"),
                    (_bare_csr(), -5, Status.INVALID_ARGUMENT, "valid for"),
                ]:
                    with pytest.raises(GRPCError, match=match) as refusal:
                        await _create(channel, csr, token, ttl)
                    assert refusal.value.status is status
                answer = await _create(channel, _bare_csr(), token, 2**62)
                assert len(answer.cert_chain) == 2
            finally:
                channel.close()

    asyncio.run(main())


def test_nobody_else_becomes_the_control_plane(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path, dev=True) as s:
            own = control_plane_id("cluster.local")
            s.tokens.write_dev_token()
            for token in (s.tokens.issue(own.namespace, own.service_account), read_file(tmp_path / "dev-token")):
                attempt = request_certificate(s.address, own, s.ca.bundle, token=token)
                await refused(IdentityNotAllowed, "the control plane's own identity", attempt)

    asyncio.run(main())


def test_the_development_token_lets_the_workload_choose(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path, dev=True) as s:
            token = read_file(s.tokens.write_dev_token())
            svid, _ = await enrol(s.address, token, "shop", "cart")
            assert str(svid.spiffe_id) == "spiffe://cluster.local/ns/shop/sa/cart"
            await refused(IdentityError, "for any identity", enrol(s.address, token))
            other = SpiffeId("other.example", "shop", "cart")
            attempt = request_certificate(s.address, other, s.ca.bundle, token=token)
            with pytest.raises(IdentityNotAllowed, match="trust domain"):
                await attempt
            channel = open_channel(s.address, s.ca.bundle, None)
            try:
                with pytest.raises(GRPCError, match="must name a SPIFFE ID"):
                    await _create(channel, _bare_csr(), token)
            finally:
                channel.close()
            s.peers.register = _from_afar(s)  # type: ignore[method-assign]
            await refused(IdentityNotAllowed, "this machine only", enrol(s.address, token, "shop", "cart"))
        async with stack(tmp_path, dev=False) as s:
            await refused(TokenRefused, "without --dev", enrol(s.address, token, "shop", "cart"))

    asyncio.run(main())


def _from_afar(s: Stack) -> Any:
    from dataclasses import replace

    register = s.peers.register
    return lambda port, caller: register(port, replace(caller, address="10.1.2.3"))


def test_rotation_enrols_renews_and_survives_a_restart_with_another_root(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole life of a workload's certificate, with the loop that lives in the mesh thread."""
    token_file = tmp_path / "token"
    source, rotated = IdentitySource(), asyncio.Queue[Any]()

    async def main() -> None:
        port = free_port()
        enrolment = Enrolment(f"127.0.0.1:{port}", source, lambda: read_file(token_file), within=5)
        rotation = CertificateRotation(source, enrolment, on_rotated=rotated.put_nowait)
        failed = asyncio.Event()
        rotation._on_failure = lambda _: failed.set()
        running = asyncio.create_task(rotation.run())
        try:
            async with asyncio.timeout(30):
                await failed.wait()  # no token yet
                assert "token file" in rotation.last_error
                async with stack(tmp_path / "first", port=port) as s:
                    token_file.write_text(s.tokens.issue("default", "web"))
                    first = await rotated.get()
                    assert rotation.last_error == ""
                    token_file.unlink()  # from here on the certificate is enough
                    rotation.renew_at = 0
                    running.cancel()
                    running = asyncio.create_task(rotation.run())
                    second = await rotated.get()
                    assert second.spiffe_id == first.spiffe_id == WEB
                    assert second.key_pem != first.key_pem
                failed.clear()
                async with stack(tmp_path / "second", port=port) as s:
                    rotation.renew_at = 0
                    running.cancel()
                    running = asyncio.create_task(rotation.run())
                    await failed.wait()
                    assert "enrolling anew failed too" in rotation.last_error
                    assert source.svid is second  # what there is stays in use
                    token_file.write_text(s.tokens.issue("default", "web"))
                    await rotated.get()
                    assert source.bundle is not None
                    assert source.bundle.same_roots(s.ca.bundle)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert "PRIVATE KEY" not in caplog.text
    assert source.svid is not None
    assert source.svid.key_pem.decode().splitlines()[1] not in caplog.text
    assert "eyJ" not in caplog.text  # no token either


def test_an_expired_certificate_is_not_renewed_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            source = IdentitySource()
            past = CertificateAuthority(tmp_path, clock=lambda: time.time() - 60)
            request = CertificateRequest.new(WEB)
            expired, bundle = request.accept(past.sign(request.csr_pem, WEB, 30), now=time.time() - 60)
            source.set(expired, bundle)
            svid, _ = await Enrolment(s.address, source, lambda: s.tokens.issue("default", "web"))()
            assert svid.not_after > time.time()

    asyncio.run(main())

"""The TLS front with real sockets: who gets in, as whom, and what happens to everybody else."""

import asyncio
import contextlib
import gc
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ca_stack import WHOAMI, Stack, stack
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.peer_identities import Caller, PeerIdentities
from proxyless.control_plane.tls_front import TlsFront
from proxyless.identity.contexts import present, trust
from proxyless.identity.control_plane import BUNDLE_ALPN, control_plane_context, control_plane_id, open_channel
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid
from proxyless.identity.verify import PeerCertificate
from proxyless.model.errors import ConfigurationError, NotReadyError
from proxyless.model.spiffe import SpiffeId


class Bytes:
    """A message that is its own bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def SerializeToString(self) -> bytes:
        return self.content

    @classmethod
    def FromString(cls, content: bytes) -> "Bytes":
        return cls(content)


async def whoami(channel: Any, content: bytes = b"") -> str:
    async with channel.request(WHOAMI, Cardinality.UNARY_UNARY, Bytes, Bytes) as stream:
        await stream.send_message(Bytes(content), end=True)
        answer = await stream.recv_message()
        return str(answer.content.decode())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(s: Stack, svid: Svid | None, content: bytes = b"") -> str:
    channel = open_channel(s.address, s.ca.bundle, svid)
    try:
        return await whoami(channel, content)
    finally:
        channel.close()


def raw_context(alpn: str | None, svid: Svid | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    if svid is not None:
        present(context, svid)
    return context


async def read_all(port: int, context: ssl.SSLContext | None, send: bytes = b"") -> bytes:
    """Everything the front says until it hangs up, also by a reset."""
    received = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError:
        return received
    with contextlib.suppress(OSError):
        writer.write(send)
        async with asyncio.timeout(10):
            while chunk := await reader.read(65536):
                received += chunk
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return received


def test_callers_are_known_by_their_certificates(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            assert await ask(s, None, b"hello") == "anonymous hello"
            assert await ask(s, s.workload("web")) == "spiffe://cluster.local/ns/default/sa/web "
            # Side by side, each stays who it is.
            answers = await asyncio.gather(*(ask(s, s.workload(f"w{n}") if n % 3 else None) for n in range(12)))
            assert [answer.rpartition("/")[2].strip() for answer in answers] == [
                f"w{n}" if n % 3 else "anonymous" for n in range(12)
            ]
            await until(lambda: s.peers.count == 0)

    asyncio.run(main())


def test_large_bodies_pass_both_ways_intact(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            channel = open_channel(s.address, s.ca.bundle, s.workload("web"))
            try:
                content = bytes(range(97, 123)) * 120_000  # 3 MB: many times every buffer on the way
                answers = await asyncio.gather(*(whoami(channel, content) for _ in range(3)))
                assert all(answer.endswith("sa/web " + content.decode()) for answer in answers)
            finally:
                channel.close()

    asyncio.run(main())


def test_the_trust_bundle_is_given_to_anyone(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            assert await read_all(s.port, raw_context(BUNDLE_ALPN)) == s.ca.bundle.roots_pem
            await until(lambda: not s.front._inside.open)

    asyncio.run(main())


def test_strangers_do_not_reach_the_grpc_server(tmp_path: Path) -> None:
    async def main() -> None:
        foreign = CertificateAuthority(tmp_path / "foreign")
        web = SpiffeId("cluster.local", "default", "web")
        request = CertificateRequest.new(web)
        foreign_svid, _ = request.accept(foreign.sign(request.csr_pem, web), now=time.time())
        async with stack(tmp_path / "ours") as s:
            past = CertificateAuthority(tmp_path / "ours", clock=lambda: time.time() - 60)
            request = CertificateRequest.new(web)
            expired, _ = request.accept(past.sign(request.csr_pem, web, 30), now=time.time() - 60)
            sibling = CertificateAuthority(  # our root, another trust domain
                tmp_path / "ours",
                "other.example",
                root_cert_path=tmp_path / "ours" / "ca" / "root-cert.pem",
                root_key_path=tmp_path / "ours" / "ca" / "root-key.pem",
            )
            other = SpiffeId("other.example", "default", "web")
            request = CertificateRequest.new(other)
            other_domain, _ = request.accept(sibling.sign(request.csr_pem, other), now=time.time())
            ours = s.workload("web")
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
            cases = {
                "a certificate of another root": raw_context("h2", foreign_svid),
                "an expired certificate": raw_context("h2", expired),
                "another trust domain": raw_context("h2", other_domain),
                "no ALPN": raw_context(None),
                "an unknown ALPN": raw_context("http/1.1", ours),
                "no TLS": None,
            }
            for name, context in cases.items():
                assert await read_all(s.port, context, preface) == b"", name
            assert s.peers.count == 0
            assert (await ask(s, ours)).endswith("sa/web ")

    asyncio.run(main())


def test_tls_1_1_is_refused_and_1_2_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            context = raw_context(BUNDLE_ALPN)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await read_all(s.port, context) == s.ca.bundle.roots_pem
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            assert await read_all(s.port, context) == b""

    asyncio.run(main())


def test_a_handshake_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path, handshake_timeout=0.2) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            await until(lambda: not s.front._handshakes)

    asyncio.run(main())


def test_who_shows_no_certificate_and_stays_makes_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyless.control_plane.tls_relay.MAX_ANONYMOUS", 2)

    async def main() -> None:
        async with stack(tmp_path, max_handshakes=2) as s:
            known = open_channel(s.address, s.ca.bundle, s.workload("web"))
            await whoami(known)
            idle = [await asyncio.open_connection("127.0.0.1", s.port, ssl=raw_context("h2")) for _ in range(3)]
            slow = [await asyncio.open_connection("127.0.0.1", s.port) for _ in range(3)]
            # The oldest of each sort went; everybody else is served.
            for reader, _ in (idle[0], slow[0]):
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionError):
                        while await reader.read(65536):
                            pass
            assert await ask(s, None) == "anonymous "
            assert (await whoami(known)).startswith("spiffe://")
            known.close()
            for _, writer in (*idle, *slow):
                writer.transport.abort()
            await until(lambda: not s.front._inside.open and not s.front._handshakes)
            assert not s.front._inside.anonymous

    asyncio.run(main())


def test_connections_beyond_the_limit_are_closed_and_make_room_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path, max_connections=2) as s:
            channels = [open_channel(s.address, s.ca.bundle, None) for _ in range(2)]
            for channel in channels:
                await whoami(channel)
            with pytest.raises(OSError):
                await ask(s, None)
            for channel in channels:
                assert await whoami(channel)
                channel.close()
            await until(lambda: not s.front._inside.open)
            assert await ask(s, None) == "anonymous "

    asyncio.run(main())


def test_a_renewed_server_certificate_serves_new_connections_and_leaves_old_ones(tmp_path: Path) -> None:
    async def serial(s: Stack) -> int:
        context = control_plane_context(s.ca.bundle, None)
        name = control_plane_id("cluster.local").dns_name
        _, writer = await asyncio.open_connection("127.0.0.1", s.port, ssl=context, server_hostname=name)
        found = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return int(found, 16)

    async def main() -> None:
        async with stack(tmp_path) as s:
            channel = open_channel(s.address, s.ca.bundle, s.workload("web"))
            try:
                before = await whoami(channel)
                first = await serial(s)
                assert await serial(s) == first
                s.certificate.source.set(s.ca.server_svid(), s.ca.bundle)
                assert await serial(s) != first
                assert await whoami(channel) == before
            finally:
                channel.close()

    asyncio.run(main())


def test_an_identity_ends_with_its_certificate_though_the_connection_lives(tmp_path: Path) -> None:
    async def main() -> None:
        now = time.time()
        async with stack(tmp_path, peers=PeerIdentities(clock=lambda: now)) as s:
            channel = open_channel(s.address, s.ca.bundle, s.workload("web"))
            try:
                assert (await whoami(channel)).endswith("sa/web ")
                now += 86_400 + 60
                assert await whoami(channel) == "anonymous "
                with pytest.raises(GRPCError) as refusal:
                    await create(channel, SpiffeId("cluster.local", "default", "web"))
                assert refusal.value.status is Status.UNAUTHENTICATED
            finally:
                channel.close()

    asyncio.run(main())


async def create(channel: Any, spiffe_id: SpiffeId) -> None:
    from grpclib.client import UnaryUnaryMethod

    from proxyless.identity.istio_ca import CREATE_CERTIFICATE, messages

    request, response = messages()
    csr = CertificateRequest.new(spiffe_id).csr_pem.decode()
    await UnaryUnaryMethod(channel, CREATE_CERTIFICATE, request, response)(request(csr=csr))


def test_closing_ends_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            channel = open_channel(s.address, s.ca.bundle, s.workload("web"))
            half_open = await asyncio.open_connection("127.0.0.1", s.port)
            await whoami(channel)
            await s.front.close()
            await until(lambda: s.peers.count == 0)
            with pytest.raises(OSError):
                await ask(s, None)
            channel.close()
            half_open[1].close()
        gc.collect()  # a socket left behind would fail the test as an unraisable warning

    asyncio.run(main())


def test_a_grpc_server_that_is_away_ends_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with stack(tmp_path) as s:
            lonely = TlsFront(s.certificate.source, s.peers, 1)
            _, port = await lonely.start("127.0.0.1", 0)
            try:
                assert await read_all(port, raw_context("h2"), b"PRI") == b""
            finally:
                await lonely.close()

    asyncio.run(main())


def test_a_front_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(NotReadyError):
            await TlsFront(IdentitySource(), PeerIdentities(), 1).start("127.0.0.1", 0)
        async with stack(tmp_path) as s:
            with pytest.raises(ConfigurationError, match=f"127.0.0.1:{s.port}: Address already in use"):
                await TlsFront(s.certificate.source, s.peers, 1).start("127.0.0.1", s.port)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("ipv4:127.0.0.1:4000", True),
        ("ipv4:127.0.0.1:4001", False),
        ("ipv4:127.0.0.2:4000", False),
        ("ipv6:[::1]:4000", False),
        ("ipv4:127.0.0.1:", False),
        ("ipv4:127.0.0.1:４０００", False),
        ("ipv4:127.0.0.1:-4000", False),
        ("unix:4000", False),
        ("4000", False),
        ("", False),
    ],
)
def test_peers_are_looked_up_exactly(peer: str, found: bool) -> None:
    now = 100.0
    peers = PeerIdentities(clock=lambda: now)
    caller = Caller(PeerCertificate(SpiffeId("cluster.local", "default", "web"), not_after=200.0), "10.0.0.1")
    peers.register(4000, caller)
    assert (peers.lookup(peer) is not None) == found
    now = 200.0
    assert peers.lookup(peer) is None
    peers.register(4000, replace(caller, certificate=None))
    assert peers.lookup(peer) is None
    assert (peers.caller(peer) is not None) == found
    peers.unregister(4000)
    assert peers.caller(peer) is None


def test_the_inner_port_gives_nobody_an_identity(tmp_path: Path) -> None:
    """Any process of this machine can reach it: it must be worth no more than the plaintext port."""

    async def main() -> None:
        from grpclib.client import Channel

        async with stack(tmp_path) as s:
            keep = open_channel(s.address, s.ca.bundle, s.workload("web"))
            await whoami(keep)
            channel = Channel("127.0.0.1", s.inner_port)
            try:
                assert await whoami(channel) == "anonymous "
                with pytest.raises(GRPCError, match="over TLS only"):
                    await create(channel, SpiffeId("cluster.local", "default", "web"))
            finally:
                channel.close()
                keep.close()

    asyncio.run(main())


def test_contexts_trust_the_bundle_alone(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust(context, CertificateAuthority(tmp_path).bundle)
    assert context.cert_store_stats()["x509_ca"] == 1

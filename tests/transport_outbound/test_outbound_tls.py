"""Mutual TLS: who may serve a request, and who is told."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
from outbound_support import CLIENTS, Client, FakeRuntime, Peer, Server, cluster, echo, eventually, run, snapshot

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.engine.steps import FailureKind
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid
from proxyless.model.cluster import UpstreamTls
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"


class Authority:
    def __init__(self, state_dir: Path) -> None:
        self.ca = CertificateAuthority(state_dir, "cluster.local")

    def svid(self, service_account: str) -> Svid:
        spiffe_id = SpiffeId("cluster.local", "default", service_account)
        request = CertificateRequest.new(spiffe_id)
        svid, _ = request.accept(self.ca.sign(request.csr_pem, spiffe_id, 3600), now=time.time())
        return svid

    def source(self, service_account: str = "") -> IdentitySource:
        source = IdentitySource()
        source.set(self.svid(service_account) if service_account else None, self.ca.bundle)
        return source

    def server(self, service_account: str = "reviews", mode: MutualTls = MutualTls.STRICT) -> Server:
        return Server(echo, self.source(service_account).server_context(mode))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


def exactly(*uris: str) -> UpstreamTls:
    return UpstreamTls(san=tuple(StringMatcher(StringKind.EXACT, uri) for uri in uris))


def runtime_for(server: Server, tls: UpstreamTls, identity: IdentitySource) -> FakeRuntime:
    runtime = FakeRuntime(snapshot(cluster(server.port, tls=tls), retry=None))
    runtime.identity = identity
    return runtime


@every_client
def test_the_right_peer(which: Which, authority: Authority) -> None:
    async def scenario() -> None:
        with authority.server() as server:
            runtime = runtime_for(server, exactly(REVIEWS), authority.source("productpage"))
            async with Client(*which, runtime) as client:
                for _ in range(3):
                    response = await client.post(content=b"x" * 100_000)
                    assert len(response.content) > 100_000
                    assert response.extensions["proxyless"].attempts[0].peer == REVIEWS
                first = runtime.ended[0][0].attempts[0]  # type: ignore[attr-defined]
                assert first.connect is not None and first.tls is not None
            assert server.connections == 1
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
@pytest.mark.parametrize("case", ["another identity", "another authority", "no bundle", "plaintext server"])
def test_the_wrong_peer_gets_not_one_byte(which: Which, case: str, authority: Authority, stranger: Authority) -> None:
    async def scenario() -> None:
        served = {
            "another identity": lambda: authority.server("ratings"),
            "another authority": lambda: stranger.server("reviews"),
            "no bundle": authority.server,
            "plaintext server": lambda: Server(echo),
        }[case]()
        expected = {
            "another identity": "ns/default/sa/ratings",
            "another authority": "certificate refused",
            "no bundle": "no trust bundle",
            "plaintext server": "TLS",
        }[case]
        with served as server:
            identity = IdentitySource() if case == "no bundle" else authority.source("productpage")
            runtime = runtime_for(server, exactly(REVIEWS), identity)
            async with Client(*which, runtime) as client:
                response = await client.get(timeout=0.3 if case == "plaintext server" else 5)
                assert response.status_code == 503
                assert response.headers["x-envoy-response-flags"] == "UF"
                if case != "plaintext server":
                    assert expected in response.headers["x-proxyless-reason"]
                failure = response.extensions["proxyless"].attempts[0].failure
                assert failure.kind is FailureKind.CONNECT
                assert not failure.request_sent
            assert server.requests == []
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
def test_a_client_without_certificate(which: Which, authority: Authority) -> None:
    async def scenario() -> None:
        with authority.server(mode=MutualTls.STRICT) as server:
            runtime = runtime_for(server, exactly(REVIEWS), authority.source())
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 503
                # TLS 1.3 tells the client only after its side of the handshake: with luck as an alert, else as an end.
                assert response.headers["x-envoy-response-flags"] in ("UF", "UC")
            assert server.requests == []
        with authority.server(mode=MutualTls.PERMISSIVE) as server:
            runtime = runtime_for(server, exactly(REVIEWS), authority.source())
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200

    run(scenario())


@every_client
def test_a_new_certificate_means_new_connections(which: Which, authority: Authority) -> None:
    async def scenario() -> None:
        with authority.server() as server:
            identity = authority.source("productpage")
            runtime = runtime_for(server, exactly(REVIEWS), identity)
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                async with client.stream("GET") as response:  # in flight during the swap: untouched
                    identity.set(authority.svid("productpage"), authority.ca.bundle)
                    assert b"".join([chunk async for chunk in client.chunks(response)])
                assert server.connections == 1
                assert (await client.get()).status_code == 200
                assert (await client.get()).status_code == 200
                assert server.connections == 2
                # What the control plane now allows counts for old connections too.
                runtime.world = snapshot(cluster(server.port, tls=exactly(REVIEWS.replace("reviews", "ratings"))))
                assert (await client.get()).status_code == 503

    run(scenario())


@every_client
def test_an_https_url_is_never_sent_in_the_clear(which: Which, authority: Authority) -> None:
    async def scenario() -> None:
        with Server(echo) as plain, authority.server() as secure:
            for server in (plain, secure):
                runtime = FakeRuntime(snapshot(cluster(server.port), retry=None, target="reviews:443"))
                async with Client(*which, runtime) as client:
                    response = await client.get("https://reviews/", timeout=0.3)
                    assert response.status_code == 503
                    assert response.headers["x-envoy-response-flags"] == "UF"
                assert server.requests == []

    run(scenario())


@every_client
def test_a_reset_is_not_the_end_of_a_body(which: Which, authority: Authority) -> None:
    """A body that ends with its connection must end in order; Python's TLS socket takes a reset for that, too."""
    arrived = threading.Event()

    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf")
        await asyncio.to_thread(arrived.wait, 60)
        peer.reset()

    async def scenario() -> None:
        with Server(cut, authority.source("reviews").server_context(MutualTls.STRICT)) as server:
            runtime = runtime_for(server, exactly(REVIEWS), authority.source("productpage"))
            async with Client(*which, runtime) as client:
                with pytest.raises((client.module.ReadError, client.module.RemoteProtocolError)):
                    async with client.stream("GET") as response:
                        async for _ in client.chunks(response):
                            arrived.set()

    run(scenario())

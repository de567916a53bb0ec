"""HTTP/2 under TLS: who decides on it, what a renewed certificate does to it, and a server that is not ours."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from http2_support import H2Server, echo2
from hypercorn.asyncio import serve
from hypercorn.config import Config
from outbound_support import CLIENTS, URL, Client, FakeRuntime, Server, cluster, echo, eventually, run, snapshot
from test_outbound_tls import REVIEWS, Authority, exactly

from proxyless.model.cluster import Protocol, UpstreamTls
from proxyless.model.inbound import MutualTls
from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport
from proxyless.transport.tls import offering

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
kinds = pytest.mark.parametrize("which", [("httpx", "async"), ("httpx", "sync")], ids="-".join)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def secure(authority: Authority, *alpn: str, http2: bool) -> Server:
    context = authority.source("reviews").server_context(MutualTls.STRICT)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return H2Server(echo2, context) if http2 else Server(echo, context)


def runtime_for(server: Server, authority: Authority, protocol: Protocol, **of: Any) -> FakeRuntime:
    members = cluster(server.port, tls=of.pop("tls", exactly(REVIEWS)), protocol=protocol, **of)
    runtime = FakeRuntime(snapshot(members, retry=None))
    runtime.identity = authority.source("productpage")
    return runtime


@every_client
@pytest.mark.parametrize(
    ("protocol", "offered", "served", "version"),
    [
        (Protocol.AUTO, (), ("h2", "http/1.1"), b"HTTP/2"),
        (Protocol.AUTO, (), ("http/1.1",), b"HTTP/1.1"),
        (Protocol.HTTP2, ("h2", "http/1.1"), ("http/1.1",), b"HTTP/1.1"),
        (Protocol.HTTP2, ("h2", "http/1.1"), ("h2",), b"HTTP/2"),
        (Protocol.HTTP2, ("istio-peer-exchange", "istio", "h2"), ("istio-peer-exchange", "h2"), b"HTTP/2"),
        (Protocol.HTTP1, ("istio-peer-exchange", "istio"), ("istio-peer-exchange", "http/1.1"), b"HTTP/1.1"),
        (Protocol.HTTP1, ("h2",), ("http/1.1",), b"HTTP/1.1"),
    ],
)
def test_the_version_is_negotiated(
    which: Which, protocol: Protocol, offered: tuple[str, ...], served: tuple[str, ...], version: bytes,
    authority: Authority,
) -> None:  # fmt: skip
    async def scenario() -> None:
        with secure(authority, *served, http2=version == b"HTTP/2") as server:
            tls = replace(exactly(REVIEWS), alpn=offered)
            async with Client(*which, runtime_for(server, authority, protocol, tls=tls)) as client:
                for _ in range(3):
                    response = await client.post(content=b"x" * 100_000)
                    assert response.status_code == 200, response.headers
                    assert len(response.content) > 100_000
                    assert response.extensions["http_version"] == version
                    assert response.extensions["proxyless"].attempts[0].peer == REVIEWS
            assert server.connections == 1

    run(scenario())


@pytest.mark.parametrize(
    ("listed", "protocol", "expected"),
    [
        ((), Protocol.HTTP1, ("http/1.1",)),
        ((), Protocol.HTTP2, ("h2",)),
        ((), Protocol.AUTO, ("h2", "http/1.1")),
        (("h2",), Protocol.HTTP1, ("http/1.1",)),
        (("istio-peer-exchange", "istio", "h2"), Protocol.HTTP2, ("istio", "h2")),
        (("istio-http/1.1", "istio", "http/1.1"), Protocol.HTTP1, ("istio-http/1.1", "istio", "http/1.1")),
        (("http/1.1", "h2"), Protocol.HTTP2, ("http/1.1", "h2")),
    ],
)
def test_what_is_offered(listed: tuple[str, ...], protocol: Protocol, expected: tuple[str, ...]) -> None:
    assert offering(UpstreamTls(alpn=listed), protocol).alpn == expected


@kinds
def test_the_first_requests_wait_for_one_connection(which: Which, authority: Authority) -> None:
    """Which HTTP it will speak is not known before: with HTTP/1.1 each then makes its own."""

    async def scenario() -> None:
        for http2 in (True, False):
            with secure(authority, "h2" if http2 else "http/1.1", http2=http2) as server:
                runtime = runtime_for(server, authority, Protocol.AUTO)
                async with Client(*which, runtime, timeout=30) as client:
                    gets = [
                        client.client.get(f"{URL}{n}")
                        if client.is_async
                        else asyncio.to_thread(client.client.get, f"{URL}{n}")
                        for n in range(20)
                    ]
                    answers = await asyncio.gather(*gets)
                assert [answer.status_code for answer in answers] == [200] * 20
                assert server.connections == 1 if http2 else 1 < server.connections <= 20

    run(scenario())


@kinds
@pytest.mark.parametrize("case", ["another identity", "another authority"])
def test_the_wrong_peer_gets_no_request(which: Which, case: str, authority: Authority, tmp_path: Path) -> None:
    async def scenario() -> None:
        other = authority if case == "another identity" else Authority(tmp_path)
        context = other.source("ratings").server_context(MutualTls.STRICT)
        context.set_alpn_protocols(["h2"])
        with H2Server(echo2, context) as server:
            async with Client(*which, runtime_for(server, authority, Protocol.HTTP2)) as client:
                response = await client.get()
                assert response.status_code == 503
                assert response.headers["x-envoy-response-flags"] == "UF"
            assert server.requests == []
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
def test_a_client_without_certificate(which: Which, authority: Authority) -> None:
    """With TLS 1.3 the server refuses after the handshake: the settings that never come say so before a request."""

    async def scenario() -> None:
        with secure(authority, "h2", http2=True) as server:
            runtime = runtime_for(server, authority, Protocol.HTTP2)
            runtime.identity = authority.source()
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 503
                assert response.headers["x-envoy-response-flags"] == "UF"
            assert server.requests == []

    run(scenario())


def idle(client: Client) -> list[int]:
    """The generations of the identity with which the connections that wait in the client's pool were made."""
    if isinstance(client.transport, MeshTransport):
        stores = [client.transport._pool._store]
    else:
        stores = [pool.store for pool in client.transport._pools._pools.values()]
    buckets = [bucket for store in stores for those in list(store._buckets.values()) for bucket in those]
    unclaimed = [one for bucket in buckets for one in list(bucket.shared) if not one.claimed]
    return [one.generation for one in (*(one for bucket in buckets for one in list(bucket.idle)), *unclaimed)]


@every_client
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_a_renewed_certificate(which: Which, http2: bool, authority: Authority) -> None:
    """The next connection is made while the last one serves once more; then the last one ends."""

    async def scenario() -> None:
        with secure(authority, "h2" if http2 else "http/1.1", http2=http2) as server:
            protocol = Protocol.HTTP2 if http2 else Protocol.HTTP1
            runtime = runtime_for(server, authority, protocol)
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                for renewal in range(1, 4):
                    runtime.identity.set(authority.svid("productpage"), authority.ca.bundle)
                    first = await client.get()
                    assert first.extensions["proxyless"].attempts[0].reused
                    await eventually(lambda: idle(client) == [runtime.identity.generation])
                    then = await client.get()
                    assert then.extensions["proxyless"].attempts[0].reused
                    assert server.connections == renewal + 1
            await eventually(lambda: server.open == 0)

    run(scenario())


@kinds
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_changed_trust_ends_connections_at_once(
    which: Which, http2: bool, authority: Authority, tmp_path: Path
) -> None:
    async def scenario() -> None:
        with secure(authority, "h2" if http2 else "http/1.1", http2=http2) as server:
            runtime = runtime_for(server, authority, Protocol.HTTP2 if http2 else Protocol.HTTP1)
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                stranger = Authority(tmp_path)
                runtime.identity.set(stranger.svid("productpage"), stranger.ca.bundle)
                assert (await client.get()).status_code == 503
                assert len(server.requests) == 1
            await eventually(lambda: server.open == 0)

    run(scenario())


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-version", scope["http_version"].encode())]}
    )
    for start in range(0, len(body) + 1, 100_000):
        await send({"type": "http.response.body", "body": body[start : start + 100_000], "more_body": True})
    await send({"type": "http.response.body"})


@contextlib.contextmanager
def hypercorn(**settings: str) -> Iterator[int]:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 1
    for name, value in settings.items():
        setattr(config, name, value)
    ready, ports, stop = threading.Event(), [], []
    create = config.create_sockets

    def create_sockets():  # type: ignore[no-untyped-def]
        made = create()
        ports.extend(sock.getsockname()[1] for sock in (*made.secure_sockets, *made.insecure_sockets))
        return made

    config.create_sockets = create_sockets  # type: ignore[method-assign]

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        task = loop.create_task(serve(application, config, shutdown_trigger=stopped.wait))  # type: ignore[arg-type]
        await eventually(lambda: bool(ports))
        ready.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield ports[0]
    finally:
        stop[0]()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("encrypted", [False, True], ids=["h2c", "tls"])
def test_hypercorn(encrypted: bool, authority: Authority, tmp_path: Path) -> None:
    """An HTTP/2 server by other hands."""
    settings: dict[str, str] = {}
    if encrypted:
        svid = authority.svid("reviews")
        (tmp_path / "cert.pem").write_bytes(svid.chain_pem)
        (tmp_path / "key.pem").write_bytes(svid.key_pem)
        settings = {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem")}
    with hypercorn(**settings) as port:
        members = cluster(port, tls=exactly(REVIEWS) if encrypted else None, protocol=Protocol.HTTP2)
        runtime = FakeRuntime(snapshot(members))
        runtime.identity = authority.source("productpage")

        async def scenario() -> None:
            async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime), timeout=30) as client:
                bodies = [b"%d" % n * (n * 3000) for n in range(60)]
                answers = await asyncio.gather(*(client.post(URL, content=body) for body in bodies))
                assert [answer.content for answer in answers] == bodies
                assert {answer.headers["x-version"] for answer in answers} == {"2"}

        run(scenario())
        with httpx.Client(transport=MeshTransport(runtime), timeout=30) as client:
            for n in range(5):
                assert client.post(URL, content=b"%d" % n * 200_000).content == b"%d" % n * 200_000

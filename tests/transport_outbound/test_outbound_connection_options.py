"""What a DestinationRule says of connections themselves: keepalive, how long they last, how many streams they take."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from http2_support import H2Peer, H2Server, echo2, mesh2
from outbound_support import CLIENTS, URL, Client, FakeRuntime, Peer, Server, cluster, echo, eventually, run, snapshot

from proxyless.model.cluster import ConnectionOptions, Protocol, TcpKeepalive
from proxyless.model.snapshot import EMPTY
from proxyless.transport.pool import aio
from proxyless.transport.pool import store as store_module
from proxyless.transport.pool.store import Store

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
kinds = pytest.mark.parametrize("which", [("httpx", "async"), ("httpx", "sync")], ids="-".join)


@every_client
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, (0, None, None, None)),
        (TcpKeepalive(), (1, None, None, None)),
        (TcpKeepalive(probes=4, time=33, interval=7), (1, 4, 33, 7)),
    ],
    ids=["none", "the kernel's", "all"],
)
def test_the_kernel_is_asked_to_probe(
    which: Which, asked: TcpKeepalive | None, expected: tuple[int | None, ...]
) -> None:
    async def scenario() -> None:
        with Server(echo) as server, socket.socket() as untouched:
            options = ConnectionOptions(keepalive=asked) if asked is not None else None
            runtime = FakeRuntime(snapshot(cluster(server.port, connection_options=options)))
            async with Client(*which, runtime) as client, client.stream("GET") as response:
                sock = response.extensions["network_stream"].get_extra_info("socket")
                wanted = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)] + [
                    (socket.IPPROTO_TCP, name)
                    for name in (socket.TCP_KEEPCNT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
                ]
                for (level, name), value in zip(wanted, expected, strict=True):
                    default = untouched.getsockopt(level, name)
                    assert sock.getsockopt(level, name) == (default if value is None else value)

    run(scenario())


@every_client
@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_a_connection_is_as_old_as_it_may_get(which: Which, http2: bool) -> None:
    """Its last request ends on it, and no further one begins."""
    gate = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        while headers[":path"] == "/slow" and not gate.is_set():
            await asyncio.sleep(0.005)
        await echo2(peer, number, headers)

    async def scenario() -> None:
        ever = ConnectionOptions(max_duration=3600.0)
        with mesh2(script) if http2 else Server(echo) as made:
            server = made[0] if http2 else made
            protocol = {"protocol": made[1].world.clusters["reviews"].protocol} if http2 else {}
            world = {
                options: snapshot(cluster(server.port, connection_options=options, **protocol), retry=None)
                for options in (ever, ConnectionOptions(max_duration=0.0), ConnectionOptions(max_duration=0.2))
            }
            runtime = FakeRuntime(world[ever])
            async with Client(*which, runtime) as client:
                for expected, options in ((1, ever), (4, ConnectionOptions(max_duration=0.0))):
                    runtime.world = world[options]
                    for _ in range(3):
                        assert (await client.get()).status_code == 200
                    assert server.connections == expected
                await eventually(lambda: server.open <= 1)  # of the first options: the sweep ends it
                if not (http2 and client.is_async):
                    return
                runtime.world = world[ConnectionOptions(max_duration=0.2)]
                slow = asyncio.ensure_future(client.get(f"{URL}slow"))
                await eventually(lambda: server.requests[-1][2].get(":path") == "/slow")
                begun = time.monotonic()
                await eventually(lambda: time.monotonic() > begun + 0.2)
                assert (await client.get()).status_code == 200
                assert server.connections == 6
                gate.set()
                assert (await slow).status_code == 200
                await eventually(lambda: server.open <= 2)

    run(scenario())


@kinds
def test_fewer_streams_than_the_server_takes(which: Which) -> None:
    gate = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.005)
        await echo2(peer, number, headers)

    async def scenario() -> None:
        members = {"connection_options": ConnectionOptions(max_streams=3)}
        with mesh2(script, members=members, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                with ThreadPoolExecutor(9) as threads:
                    loop = asyncio.get_running_loop()

                    def ask():  # type: ignore[no-untyped-def]
                        if client.is_async:
                            return client.client.get(URL)
                        return loop.run_in_executor(threads, client.client.get, URL)

                    tasks = [asyncio.ensure_future(ask()) for _ in range(9)]
                    await eventually(lambda: len(server.requests) == 9)
                    gate.set()
                    assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}
                assert server.connections == 3
                assert {peer.most_open for peer in server.peers} == {3}

    run(scenario())


class Kept:
    """An idle connection. made_at: virtual time."""

    def __init__(self, made_at: float) -> None:
        self.made_at, self.idle_since, self.requests, self.generation = made_at, made_at, 1, 0
        self.closed = False

    def usable(self) -> bool:
        return not self.closed

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1


def test_the_store_ends_what_is_old_and_what_was_made_for_other_options() -> None:
    world = EMPTY
    store: Store[Kept, Kept] = Store(lambda: world)  # type: ignore[type-var]
    members = cluster(1, connection_options=ConnectionOptions(max_duration=10.0))
    world = snapshot(members)
    (one,) = members.endpoints
    bucket = store.bucket(one, None, members)
    assert store.bucket(one, None, cluster(1)) is not bucket
    old, young = Kept(made_at=0.0), Kept(made_at=6.0)
    store.give(bucket, old, 0, now=9.0)
    store.give(bucket, young, 0, now=9.0)
    store.sweep(10.0)
    assert (old.closed, young.closed) == (True, False)
    assert store.take(bucket, 0, now=15.0) is young
    store.give(bucket, young, 0, now=16.0)
    assert young.closed
    left = Kept(made_at=16.0)
    store.give(bucket, left, 0, now=17.0)
    world = snapshot(cluster(1, connection_options=ConnectionOptions(max_duration=11.0)))
    store.sweep(18.0)
    assert left.closed
    assert not store.sweep(19.0)  # and the bucket is gone


@kinds
@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_an_endpoint_that_leaves_finishes_what_it_has(
    which: Which, http2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store_module, aio):
        monkeypatch.setattr(module, "SWEEP_EVERY", 0.02)
    gate = threading.Event()

    async def slowly(peer: Peer) -> None:
        while True:
            line, _ = await peer.head()
            while "/slow" in line and not gate.is_set():
                await asyncio.sleep(0.005)
            await peer.ok()

    async def slow_script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        while headers[":path"] == "/slow" and not gate.is_set():
            await asyncio.sleep(0.005)
        await echo2(peer, number, headers)

    def server() -> Server:
        return H2Server(slow_script) if http2 else Server(slowly)

    async def scenario() -> None:
        protocol = Protocol.HTTP2 if http2 else Protocol.HTTP1
        with server() as leaving, server() as staying, ThreadPoolExecutor(1) as threads:
            runtime = FakeRuntime(snapshot(cluster(leaving.port, protocol=protocol), retry=None))
            async with Client(*which, runtime) as client:
                if client.is_async:
                    slow = asyncio.ensure_future(client.client.get(f"{URL}slow"))
                else:
                    slow = asyncio.get_running_loop().run_in_executor(threads, client.client.get, f"{URL}slow")
                await eventually(lambda: len(leaving.requests) == 1)
                runtime.world = snapshot(cluster(staying.port, protocol=protocol), retry=None)
                for _ in range(5):
                    assert (await client.get()).status_code == 200
                    await asyncio.sleep(0.02)
                assert (len(leaving.requests), leaving.open) == (1, 1)
                gate.set()
                assert (await slow).status_code == 200

                async def nobody_is_left() -> None:
                    while leaving.open:
                        assert (await client.get()).status_code == 200  # blocking clients look when they are used

                await asyncio.wait_for(nobody_is_left(), 60)
                assert (leaving.connections, staying.connections) == (1, 1)

    run(scenario())

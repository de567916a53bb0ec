"""How many connections a cluster gets, who waits for one, and what a renewed certificate does to them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from http2_support import H2Peer, echo2, mesh2
from outbound_support import CLIENTS, URL, Client, FakeRuntime, Peer, Server, cluster, echo, eventually, run, snapshot

from proxyless.engine.steps import FailureKind
from proxyless.model.cluster import Cluster
from proxyless.transport.http1.errors import PoolOverflow
from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport
from proxyless.transport.pool.limits import Gate, Grant, Waiter, gates_of
from proxyless.transport.pool.store import Bucket

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)


def gate_of(runtime: FakeRuntime) -> Gate:
    return gates_of(runtime).of("reviews")


class Held:
    """A server that answers when it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            line, headers = await peer.head()
            await peer.body(headers)
            while not self.go.is_set():
                await asyncio.sleep(0.002)
            await peer.ok(line.encode())


class Asker:
    """Requests side by side, in tasks or threads."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.threads = ThreadPoolExecutor(64)

    def get(self, path: str = "", **options: object) -> "asyncio.Future[httpx.Response]":
        if self.client.is_async:
            return asyncio.ensure_future(self.client.client.get(URL + path, **options))
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self.threads, lambda: self.client.client.get(URL + path, **options))

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown()


@every_client
def test_requests_wait_at_the_limit(which: Which) -> None:
    async def scenario() -> None:
        held = Held()
        with Server(held) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=3)))
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    tasks = [ask.get(str(n)) for n in range(20)]
                    await eventually(lambda: len(server.requests) == 3 and gate_of(runtime).pending == 17)
                    held.go.set()
                    answers = await asyncio.gather(*tasks)
                assert [answer.status_code for answer in answers] == [200] * 20
                assert server.connections == 3
                assert gate_of(runtime).pending == 0
                assert gate_of(runtime).connections == 3
            await eventually(lambda: gate_of(runtime).connections == 0)

    run(scenario())


@every_client
def test_more_than_may_wait_are_turned_away(which: Which) -> None:
    async def scenario() -> None:
        held = Held()
        with Server(held) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=1, max_pending_requests=2)))
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    first = ask.get()
                    await eventually(lambda: len(server.requests) == 1)
                    waiting = [ask.get() for _ in range(2)]
                    await eventually(lambda: gate_of(runtime).pending == 2)
                    refused = await client.get()
                    assert refused.status_code == 503
                    assert refused.headers["x-envoy-overloaded"] == "true"
                    assert refused.headers["x-envoy-response-flags"] == "UO"
                    assert "max_pending_requests" in refused.headers["x-proxyless-reason"]
                    assert refused.extensions["proxyless"].attempts[0].failure.kind is FailureKind.OVERFLOW
                    assert len(refused.extensions["proxyless"].attempts) == 1
                    held.go.set()
                    for one in (first, *waiting):
                        assert (await one).status_code == 200

    run(scenario())


@every_client
def test_the_applications_pool_timeout(which: Which) -> None:
    async def scenario() -> None:
        held = Held()
        with Server(held) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=1)))
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    first = ask.get()
                    await eventually(lambda: len(server.requests) == 1)
                    with pytest.raises(client.module.PoolTimeout):
                        await client.get(timeout=client.module.Timeout(30, pool=0.05))
                    assert gate_of(runtime).pending == 0
                    held.go.set()
                    assert (await first).status_code == 200
                    assert (await client.get()).status_code == 200
            assert server.connections == 1

    run(scenario())


@every_client
def test_the_deadline_ends_the_waiting(which: Which) -> None:
    async def scenario() -> None:
        held = Held()
        with Server(held) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=1), retry=None))
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    first = ask.get()
                    await eventually(lambda: len(server.requests) == 1)
                    runtime.world = snapshot(cluster(server.port, max_connections=1), retry=None, timeout=0.05)
                    assert (await client.get()).status_code == 504
                    held.go.set()
                    assert (await first).status_code == 200

    run(scenario())


def test_who_gives_up_waiting_leaves_no_gap() -> None:
    """Cancelled while they wait, and in the moment in which they are given a connection."""

    async def scenario(runtime: FakeRuntime, server: Server, held: Held) -> None:
        async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime), timeout=30) as client:
            for pause in range(12):
                held.go.clear()
                tasks = [asyncio.ensure_future(client.get(URL)) for _ in range(10)]
                await eventually(lambda: gate_of(runtime).pending == 8)
                for task in tasks[2:6]:
                    task.cancel()
                held.go.set()
                for _ in range(pause * 3):
                    await asyncio.sleep(0)
                for task in tasks[6:8]:
                    task.cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(one, asyncio.CancelledError) for one in answers[2:6])
                assert [one.status_code for one in answers[8:]] == [200, 200]  # type: ignore[union-attr]
                assert gate_of(runtime).pending == 0
                assert gate_of(runtime).connections <= 2

    held = Held()
    with Server(held) as server:
        runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=2)))
        run(scenario(runtime, server, held))


@every_client
def test_connections_that_end_make_room(which: Which) -> None:
    async def closing(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async def scenario() -> None:
        with Server(closing) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=2)))
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    answers = await asyncio.gather(*(ask.get() for _ in range(30)))
                assert [answer.status_code for answer in answers] == [200] * 30
                await eventually(lambda: gate_of(runtime).connections == 0)

    run(scenario())


@every_client
def test_connections_that_fail_make_room(which: Which) -> None:
    async def scenario() -> None:
        with Server(echo) as server:
            port = server.port
        runtime = FakeRuntime(snapshot(cluster(port, max_connections=1, max_pending_requests=50)))
        async with Client(*which, runtime, timeout=30) as client:
            with Asker(client) as ask:
                answers = await asyncio.gather(*(ask.get() for _ in range(10)))
            assert {answer.status_code for answer in answers} == {503}
        assert (gate_of(runtime).connections, gate_of(runtime).pending) == (0, 0)

    run(scenario())


@every_client
def test_every_endpoint_may_have_one(which: Which) -> None:
    """As in Envoy: what waits for an endpoint without a connection could wait for ever."""

    async def scenario() -> None:
        with Server(echo) as first, Server(echo) as second:
            runtime = FakeRuntime(snapshot(cluster(first.port, second.port, max_connections=1)))
            async with Client(*which, runtime) as client:
                for _ in range(20):
                    assert (await client.get()).status_code == 200
            assert (first.connections, second.connections) == (1, 1)

    run(scenario())


@every_client
def test_a_limit_is_one_clusters_own(which: Which) -> None:
    """Connections that another cluster made to the same endpoint are not used past the limit."""

    async def scenario() -> None:
        with Server(echo) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port)))
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                runtime.world = snapshot(cluster(server.port, max_connections=1))
                for _ in range(3):
                    assert (await client.get()).status_code == 200
            assert server.connections == 2

    run(scenario())


def test_loops_and_threads_share_the_limit() -> None:
    held = Held()
    with Server(held) as server:
        runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=4)))

        async def some() -> None:
            async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime), timeout=30) as client:
                answers = await asyncio.gather(*(client.get(URL) for _ in range(10)))
                assert [answer.status_code for answer in answers] == [200] * 10

        threads = [threading.Thread(target=run, args=(some(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        with (
            httpx.Client(transport=MeshTransport(runtime), timeout=30) as client,
            ThreadPoolExecutor(10) as executor,
        ):
            asked = [executor.submit(client.get, URL) for _ in range(10)]
            # Two of the three pools may have come late: each has one connection at least.
            run(eventually(lambda: gate_of(runtime).pending + len(server.requests) == 30))
            assert 4 <= gate_of(runtime).connections <= 6
            held.go.set()
            assert [one.result(30).status_code for one in asked] == [200] * 10
        for thread in threads:
            thread.join(30)
        assert (gate_of(runtime).connections, gate_of(runtime).pending) == (0, 0)


@every_client
def test_http2_streams_wait_at_the_limit(which: Which) -> None:
    from h2.settings import SettingCodes

    go = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        while not go.is_set():
            await asyncio.sleep(0.002)
        await echo2(peer, number, headers)

    async def scenario() -> None:
        settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
        with mesh2(script, settings, {"max_connections": 2}, retry=None) as (server, runtime):
            async with Client(*which, runtime, timeout=30) as client:
                with Asker(client) as ask:
                    tasks = [ask.get(str(n)) for n in range(20)]
                    await eventually(lambda: len(server.requests) == 6 and gate_of(runtime).pending == 14)
                    go.set()
                    answers = await asyncio.gather(*tasks)
                assert [answer.text for answer in answers] == [f"GET /{n}|" for n in range(20)]
                assert server.connections == 2
                assert max(peer.most_open for peer in server.peers) == 3
            await eventually(lambda: gate_of(runtime).connections == 0)

    run(scenario())


def bucket() -> "Bucket":  # type: ignore[type-arg]
    members = cluster(80)
    return Bucket(members.endpoints[0], None, members)


def test_the_gate_is_fair() -> None:
    gate, one = Gate(threading.Lock()), bucket()
    limited = Cluster("reviews", max_connections=1, max_pending_requests=5)
    waiters = [Waiter(gate, one) for _ in range(5)]
    for number, waiter in enumerate(waiters):
        gate.enter(limited)
        assert gate.wait_or_connect(waiter) is (number == 0)
    with pytest.raises(PoolOverflow):
        gate.enter(limited)
    gate.withdraw(waiters[1])
    gate.closed(one)
    assert [waiter.granted for waiter in waiters] == [None, None, Grant.CONNECT, None, None]
    assert gate.hand(one, "connection")
    assert waiters[3].granted == "connection"
    gate.enter(Cluster("reviews", max_connections=2, max_pending_requests=9))
    assert waiters[4].granted is Grant.CONNECT
    assert not gate.hand(one, "connection")
    assert (gate.connections, one.connections) == (2, 2)

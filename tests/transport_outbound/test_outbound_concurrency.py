"""Many users of one transport: tasks, threads, event loops, forks; and users that give up."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import httpx2
import pytest
import uvloop
from outbound_support import URL, FakeRuntime, Peer, Server, cluster, echo, eventually, mesh, run, snapshot

from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.snapshot import EMPTY
from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport
from proxyless.transport.pool.limits import gates_of
from proxyless.transport.pool.store import Store


async def _two_hundred(runtime: FakeRuntime) -> None:
    async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime)) as client:
        for _ in range(2):
            answers = await asyncio.gather(*(client.post(f"{URL}{n}", content=b"%d" % n) for n in range(200)))
            assert [answer.text for answer in answers] == [f"POST /{n} HTTP/1.1|{n}" for n in range(200)]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_two_hundred_at_once(new_loop) -> None:  # type: ignore[no-untyped-def]
    with mesh(echo) as (server, runtime):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(_two_hundred(runtime), 90))
        assert server.connections <= 200
        assert len(runtime.ended) == 400
        assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0


def test_threads_share_a_transport() -> None:
    with mesh(echo) as (server, runtime), httpx.Client(transport=MeshTransport(runtime)) as client:

        def ask(n: int) -> bool:
            return client.post(f"{URL}{n}", content=b"%d" % n).text == f"POST /{n} HTTP/1.1|{n}"

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(ask, range(200)))
        assert server.connections <= 16
        assert len(runtime.ended) == 200


def test_one_transport_serves_clients_of_both_libraries_and_several_loops() -> None:
    with mesh(echo) as (server, runtime):
        transport = AsyncMeshTransport(runtime)

        async def ask(module) -> None:  # type: ignore[no-untyped-def]
            client = module.AsyncClient(transport=transport)
            response = await client.get(URL)
            assert isinstance(response, module.Response)
            assert isinstance(await client.get(URL), module.Response)

        for module in (httpx, httpx2):
            run(ask(module))
        both = [threading.Thread(target=run, args=(ask(module),)) for module in (httpx, httpx2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(30)
        assert len(runtime.ended) == 8
        assert server.connections == 4  # one a loop: none is ever used by another

        async def close() -> None:
            await transport.aclose()

        run(close())


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_cancelled_at_any_moment(module) -> None:  # type: ignore[no-untyped-def]
    """A cancelled request takes its connection with it, and the others never see its response."""

    async def slow(peer: Peer) -> None:
        while True:
            line, headers = await peer.head()
            await peer.body(headers)
            body = line.split()[1].encode()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
            await asyncio.sleep(0.001)
            await peer.send(body)

    async def scenario() -> None:
        with mesh(slow) as (server, runtime):
            async with module.AsyncClient(transport=AsyncMeshTransport(runtime)) as client:

                async def upload():  # type: ignore[no-untyped-def]
                    for _ in range(3):
                        await asyncio.sleep(0)
                        yield b"x"

                for turns in range(60):
                    content = upload() if turns % 2 else None
                    task = asyncio.create_task(client.request("POST", f"{URL}cancelled/{turns}", content=content))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    assert task.cancelled() or task.result().text == f"/cancelled/{turns}"
                    assert (await client.get(f"{URL}good/{turns}")).text == f"/good/{turns}"
            assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
            await eventually(lambda: server.open == 0)
            records = [id(record) for record, _ in runtime.ended]
            assert len(records) == len(set(records))  # each ended once
            assert all(record.ended for record, _ in runtime.ended)  # type: ignore[attr-defined]

    run(scenario())


async def half(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    await peer.reader.read()


def test_a_forgotten_response_frees_its_connection() -> None:
    async def scenario() -> None:
        with mesh(half) as (server, runtime):
            client = httpx.AsyncClient(transport=AsyncMeshTransport(runtime))
            response = await client.send(client.build_request("GET", URL), stream=True)
            assert response.status_code == 200
            assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 1
            del response
            gc.collect()
            await eventually(lambda: server.open == 0 and len(runtime.ended) == 1)
            sync = httpx.Client(transport=MeshTransport(runtime))
            response = sync.send(sync.build_request("GET", URL), stream=True)
            del response
            gc.collect()
            await eventually(lambda: server.open == 0 and len(runtime.ended) == 2)
            sync.close()
            assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0

    run(scenario())


def test_a_response_forgotten_within_a_lock_that_its_end_needs() -> None:
    """As the garbage collector may end it: anywhere."""

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(half))
        runtime = FakeRuntime(snapshot(cluster(server.port, max_connections=1)))
        client = stack.enter_context(httpx.Client(transport=MeshTransport(runtime)))
        responses = [client.send(client.build_request("GET", URL), stream=True)]

        def forget() -> None:
            with gates_of(runtime)._lock:
                responses.clear()
                gc.collect()

        thread = threading.Thread(target=forget, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        run(eventually(lambda: server.open == 0 and len(runtime.ended) == 1))


def test_a_request_given_up_while_its_target_is_asked_for_takes_its_question_back() -> None:
    """Or the answer, an error most likely, would come to a future that nobody reads."""

    async def scenario() -> None:
        runtime = FakeRuntime(EMPTY)
        async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime)) as client:
            asking = asyncio.create_task(client.get("http://pending/"))
            await eventually(lambda: bool(runtime.pending))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert runtime.pending[0].cancelled()

    run(scenario())


def test_loops_that_ended_leave_nothing() -> None:
    with mesh(echo) as (_, runtime):
        transport = AsyncMeshTransport(runtime)
        loops = []

        async def ask() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            assert (await transport.handle_async_request(httpx.Request("GET", URL))).status_code == 200

        for _ in range(3):
            run(ask())
        gc.collect()
        assert len(list(transport._pools._pools)) <= 1
        run(transport.aclose())
        assert not transport._pools._pools


FORK = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import httpx
from outbound_support import *

def ask(client, n):
    return client.get(f"{URL}{n}").text == f"GET /{n} HTTP/1.1|"

with mesh(echo) as (server, runtime):
    sync = httpx.Client(transport=MeshTransport(runtime))
    loop = asyncio.new_event_loop()
    aclient = httpx.AsyncClient(transport=AsyncMeshTransport(runtime))
    assert ask(sync, 1)
    assert loop.run_until_complete(aclient.get(URL)).status_code == 200
    assert server.connections == 2
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = all(ask(sync, n) for n in range(5))
            async def main():
                return [(await aclient.get(f"{URL}{n}")).text for n in range(5)]
            ok = ok and asyncio.run(main()) == [f"GET /{n} HTTP/1.1|" for n in range(5)]
            del loop
        finally:
            os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    # The child brought its own connections, and the parent's live on.
    assert server.connections == 4, server.connections
    assert ask(sync, 2)
    assert loop.run_until_complete(aclient.get(URL)).status_code == 200
    assert server.connections == 4, server.connections
    # A second child holds none of the parent's sockets open: when the parent closes, the server hears it.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    sync.close()
    loop.run_until_complete(aclient.aclose())
    asyncio.run(asyncio.wait_for(eventually(lambda: server.open == 0), 60))
    os.close(writing)
    os.waitpid(child, 0)
    loop.close()
print("done")
"""


def test_a_forked_child_makes_its_own_connections() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "done"), ended.stderr


class Fake:
    def __init__(self, generation: int = 0) -> None:
        self.generation, self.requests, self.idle_since = generation, 1, 0.0
        self.good, self.closed = True, False

    def usable(self) -> bool:
        return self.good and not self.closed

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1


def test_the_store() -> None:
    world = EMPTY
    store: Store[Fake] = Store(lambda: world)
    members: Cluster = cluster(1, 2, idle_timeout=10.0, max_requests_per_connection=3)
    world = snapshot(members)
    one, two = members.endpoints
    bucket = store.bucket(one, None, members)
    assert store.bucket(Endpoint("127.0.0.1", 1), None, members) is bucket
    assert store.bucket(two, None, members) is not bucket
    first, second = Fake(), Fake()
    store.give(bucket, first, 0, now=0.0)
    store.give(bucket, second, 0, now=1.0)
    assert store.take(bucket, 0, now=1.0) is second  # last in, first out
    store.give(bucket, second, 0, now=2.0)
    second.good = False
    assert store.take(bucket, 0, now=2.0) is first
    assert second.closed
    store.give(bucket, first, 0, now=2.0)
    assert store.take(bucket, 0, now=12.5) is None  # idle for too long
    assert first.closed
    old = Fake(generation=1)
    store.give(bucket, old, 1, now=20.0)
    assert store.take(bucket, 2, now=20.0) is None  # the certificate was replaced
    assert old.closed
    worn = Fake()
    worn.requests = 3
    store.give(bucket, worn, 0, now=20.0)
    assert worn.closed
    # An endpoint that left its cluster: what idles is closed by the next sweep.
    left, stays = Fake(), Fake()
    store.give(store.bucket(one, None, members), left, 0, now=21.0)
    store.give(store.bucket(two, None, members), stays, 0, now=21.0)
    world = snapshot(cluster(2, idle_timeout=10.0))
    store.sweep(22.0)
    assert (left.closed, stays.closed) == (True, False)
    assert store.idle == 1
    store.sweep(40.0)
    assert stays.closed
    back = Fake()
    bucket = store.bucket(two, None, members)
    store.close()
    store.give(bucket, back, 0, now=41.0)
    assert back.closed
    assert store.idle == 0

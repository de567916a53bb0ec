"""Thousands of requests at once, cancelled and reset at random: nothing is left over, and no answer is another's."""

import asyncio
import gc
import random
import threading
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from outbound_support import URL, FakeRuntime, Peer, Server, cluster, eventually, snapshot

from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport

REQUESTS = 10_000
# Descriptors are limited, and this many connections are as good as more.
AT_ONCE = 400


def unreliable(seed: int):  # type: ignore[no-untyped-def]
    """Answers with the path, and now and then resets at any moment, answers slowly, or cuts the body."""
    draw = random.Random(seed)

    async def answer(peer: Peer) -> None:
        while True:
            line, headers = await peer.head()
            mood = draw.random()
            if mood < 0.02:
                peer.reset()
                return
            await peer.body(headers)
            body = line.split()[1].encode()
            whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            if mood < 0.04:
                peer.reset()
                return
            if mood < 0.06:
                await peer.send(whole[: draw.randrange(1, len(whole))])
                peer.reset()
                return
            if mood < 0.10:
                part = draw.randrange(1, len(whole))
                await peer.send(whole[:part])
                await asyncio.sleep(draw.random() * 0.01)
                await peer.send(whole[part:])
                continue
            await peer.send(whole)
            if mood < 0.12:
                return

    return answer


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("seed", [1])
def test_ten_thousand_at_once(seed: int) -> None:
    draw = random.Random(seed)

    async def one(
        client: httpx2.AsyncClient, number: int, room: asyncio.Semaphore, running: "list[asyncio.Task[str]]"
    ) -> str:
        task = asyncio.current_task()
        assert task is not None
        async with room:
            running.append(task)
            try:
                return await exchange(client, number)
            finally:
                running.remove(task)

    async def exchange(client: httpx2.AsyncClient, number: int) -> str:
        path = f"/{number}"
        method = "POST" if number % 5 == 0 else "GET"
        try:
            response = await client.request(method, URL + path[1:], content=b"x" if method == "POST" else None)
        except httpx2.TransportError as error:
            return type(error).__name__
        assert response.status_code in (200, 503), response
        if response.status_code == 200:
            assert response.text == path  # its own answer, nobody else's
        return str(response.status_code)

    async def cancel_at_random(running: "list[asyncio.Task[str]]", ended: asyncio.Event) -> None:
        """By turns of the loop, not by seconds: every moment of some request is met, on machines of any speed."""
        while not ended.is_set():
            await asyncio.sleep(0)
            for _ in range(draw.randrange(60) if running else 0):
                draw.choice(running).cancel()

    async def scenario(server: Server, runtime: FakeRuntime) -> Counter[str]:
        before = len(asyncio.all_tasks())
        room = asyncio.Semaphore(AT_ONCE)
        transport = AsyncMeshTransport(runtime)
        running: list[asyncio.Task[str]] = []
        async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
            tasks = [asyncio.create_task(one(client, number, room, running)) for number in range(REQUESTS)]
            ended = asyncio.Event()
            canceller = asyncio.create_task(cancel_at_random(running, ended))
            ends = Counter[str]()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                    raise result
                ends["cancelled" if isinstance(result, BaseException) else result] += 1
            ended.set()
            await canceller
            for number in range(20):
                await one(client, number, room, [])
            assert len(asyncio.all_tasks()) == before
        assert len(asyncio.all_tasks()) == before
        await eventually(lambda: server.open == 0)
        return ends

    gc.collect()
    first = descriptors()
    with Server(unreliable(seed)) as server:
        runtime = FakeRuntime(snapshot(cluster(server.port)))
        ends = asyncio.run(asyncio.wait_for(scenario(server, runtime), 250))
        assert ends["cancelled"] > 300
        assert ends["200"] > REQUESTS / 2
        assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
        assert all(record.ended is not None for record, _ in runtime.ended)  # type: ignore[attr-defined]
        assert len(runtime.ended) == len({id(record) for record, _ in runtime.ended})
        port = server.port
    gc.collect()
    assert descriptors() == first, port


def test_threads_at_once() -> None:
    """The same for threads: 16 of them, one transport; some responses are closed before they are read."""
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    gc.collect()
    first = descriptors()

    def work(client: httpx2.Client, worker: int) -> None:
        draw = random.Random(worker)
        for number in range(100):
            path = f"/{worker}/{number}"
            try:
                with client.stream("GET", URL + path[1:]) as response:
                    if draw.random() < 0.1:
                        continue  # leaves it unread
                    response.read()
            except httpx2.TransportError as error:
                ends[type(error).__name__] += 1
                continue
            except BaseException as error:
                wrong.append(repr(error))
                raise
            ends[str(response.status_code)] += 1
            if response.status_code == 200 and response.text != path:
                wrong.append(f"{path} got {response.text}")

    with Server(unreliable(3)) as server:
        runtime = FakeRuntime(snapshot(cluster(server.port)))
        with httpx2.Client(transport=MeshTransport(runtime), timeout=60) as client:
            threads = [threading.Thread(target=work, args=(client, worker)) for worker in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        assert wrong == []
        assert ends["200"] > 800
        assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
        asyncio.run(eventually(lambda: server.open == 0))
    gc.collect()
    assert descriptors() == first

"""Two attempts under way, over real sockets. Who is late is made to be: it waits for the other to arrive."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from http2_support import H2Peer, mesh2
from outbound_support import CLIENTS, URL, Client, FakeRuntime, Peer, Server, cluster, eventually, run, snapshot

from proxyless.model.route import RetryPolicy
from proxyless.model.snapshot import Snapshot

Which = tuple[str, str]
Way = Callable[[Peer, Server], Awaitable[None]]
PATIENCE = 0.05
each = pytest.mark.parametrize("which", CLIENTS, ids="-".join)


async def hang(peer: Peer, _: Server) -> None:
    await peer.reader.read()


async def answer(peer: Peer, _: Server) -> None:
    await peer.ok(b"answered")


async def late(peer: Peer, server: Server) -> None:
    """Answers once there is another attempt."""
    await eventually(lambda: len(server.requests) > 1)
    await peer.ok(b"late")


async def failing(peer: Peer, _: Server) -> None:
    await peer.send(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n")


async def late_failing(peer: Peer, server: Server) -> None:
    await eventually(lambda: len(server.requests) > 1)
    await failing(peer, server)


async def breaking(peer: Peer, server: Server) -> None:
    await eventually(lambda: len(server.requests) > 1)
    peer.reset()


async def after_the_first(peer: Peer, server: Server) -> None:
    """Answers once the first attempt's connection is gone."""
    await eventually(lambda: server.open == 1)
    await peer.ok(b"second")


def hedged(world: Snapshot, retries: int = 1) -> Snapshot:
    listener = next(iter(world.listeners.values()))
    assert listener is not None and listener.virtual_host is not None
    (route,) = listener.virtual_host.routes
    policy = RetryPolicy(frozenset({"5xx"}), retries, PATIENCE, back_off_base=0.0)
    action = replace(route.action, hedge=True, retry=policy)  # type: ignore[call-arg]
    host = replace(listener.virtual_host, routes=(replace(route, action=action),))
    return replace(world, listeners={listener.name: replace(listener, virtual_host=host)})


@contextlib.asynccontextmanager
async def serving(which: Which, *ways: Way, retries: int = 1) -> AsyncIterator[tuple[Server, FakeRuntime, Client]]:
    """The n-th attempt is treated in the n-th way; what comes on the same connection later is answered."""

    async def handler(peer: Peer) -> None:
        _, headers = await peer.head()
        await peer.body(headers)
        await ways[int(headers["x-envoy-attempt-count"]) - 1](peer, server)
        while True:
            await peer.head()
            await peer.ok(b"again")

    with Server(handler) as server:
        runtime = FakeRuntime(hedged(snapshot(cluster(server.port)), retries))
        async with Client(*which, runtime) as client:
            yield server, runtime, client
            endpoint = ("127.0.0.1", server.port)
            await eventually(lambda: runtime.engine.active_requests("reviews", endpoint) == 0)
        await eventually(lambda: server.open == 0)
        assert len({id(record) for record, _ in runtime.ended}) == len(runtime.ended)


@each
@pytest.mark.parametrize(
    ("ways", "status", "body", "number"),
    [
        ((answer,), 200, "answered", 1),
        ((hang, answer), 200, "answered", 2),
        ((late, hang), 200, "late", 1),
        ((breaking, after_the_first), 200, "second", 2),
        ((late_failing, failing), 503, "", None),
        ((hang, hang, answer), 200, "answered", 3),
    ],
)
def test_who_answers(which: Which, ways: tuple[Way, ...], status: int, body: str, number: int | None) -> None:
    async def scenario() -> None:
        async with serving(which, *ways, retries=len(ways) - 1) as (server, _, client):
            response = await client.post(content=b"twice", extensions={"timeout": {}})
            assert (response.status_code, response.text) == (status, body)
            record = response.extensions["proxyless"]
            assert len(server.requests) == len(record.attempts) == len(ways)
            assert [headers["content-length"] for _, _, headers in server.requests] == ["5"] * len(ways)
            assert record.attempts[-1].status == status
            assert number in (None, record.attempts[-1].number)
            assert [one.lost for one in record.attempts[:-1]] == [
                one.status is one.failure is None for one in record.attempts[:-1]
            ]
            # Whoever lost is reset, and the answer's connection serves on.
            await eventually(lambda: server.open == (1 if status == 200 else server.open))
            if status == 200:
                assert (await client.get()).text == "again"
                assert server.connections == len(ways)

    run(scenario())


def test_the_access_log_tells_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(("httpx2", "async"), hang, answer) as (_, _, client):
            await client.get(extensions={"timeout": {}})

    with caplog.at_level(logging.INFO, "proxyless.access"):
        run(scenario())
    (line,) = [one.access for one in caplog.records if one.name == "proxyless.access"]  # type: ignore[attr-defined]
    assert (line["attempts"], line["hedges"], line["answered_by"]) == (2, 1, 2)


@each
def test_what_is_streamed_is_not_ended_and_not_hedged(which: Which) -> None:
    async def slow(peer: Peer, server: Server) -> None:
        await asyncio.sleep(3 * PATIENCE)
        await peer.ok(b"slow")

    async def scenario() -> None:
        async with serving(which, slow) as (server, _, client):
            assert (await client.post(content=[b"a", b"b"])).text == "slow"
            assert len(server.requests) == 1

    run(scenario())


@each
def test_the_applications_own_timeout_ends_them_all(which: Which) -> None:
    async def scenario() -> None:
        async with serving(which, hang, hang) as (server, runtime, client):
            with pytest.raises(client.module.ReadTimeout):
                await client.get(extensions={"timeout": {"read": 0.5}})
            await eventually(lambda: server.open == 0)
            assert len(runtime.ended) == 1

    run(scenario())


def test_a_cancelled_request_ends_them_all() -> None:
    async def scenario() -> None:
        async with serving(("httpx2", "async"), hang, hang) as (server, runtime, client):
            task = asyncio.create_task(client.get(extensions={"timeout": {}}))
            await eventually(lambda: len(server.requests) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: server.open == 0)
            ((record, _),) = runtime.ended
            assert [one.lost for one in record.attempts] == [True, True]  # type: ignore[attr-defined]

    run(scenario())


@each
def test_a_forgotten_answer_counts_no_more(which: Which) -> None:
    async def scenario() -> None:
        async with serving(which, hang, answer) as (server, _, client):
            async with client.stream("GET", URL, extensions={"timeout": {}}) as response:
                assert response.status_code == 200
            await eventually(lambda: server.open <= 1)

    run(scenario())


@pytest.mark.parametrize("which", [("httpx2", "async"), ("httpx2", "sync")], ids="-".join)
@pytest.mark.parametrize("winner", [1, 2])
def test_http2_streams_of_one_connection(which: Which, winner: int) -> None:
    arrived: list[str] = []

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        attempt = headers["x-envoy-attempt-count"]
        arrived.append(attempt)
        if attempt == f"{winner}":
            await eventually(lambda: len(arrived) > 1)
            await peer.ok(number, attempt.encode())

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            runtime.world = hedged(runtime.world)
            async with Client(*which, runtime) as client:
                response = await client.get(extensions={"timeout": {}})
                assert response.text == f"{winner}"
                # The other is reset, and the connection goes on.
                await eventually(lambda: server.peers[0].resets == {3 if winner == 1 else 1: 8})
                arrived.clear()
                arrived.append("before")
                if winner == 1:
                    assert (await client.get(extensions={"timeout": {}})).text == "1"
            assert server.connections == 1
            await eventually(lambda: runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0)

    run(scenario())

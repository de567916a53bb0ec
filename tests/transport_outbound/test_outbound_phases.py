"""How long each phase of a request took, and requests that are refused before any."""

import asyncio
from pathlib import Path

import pytest
from outbound_support import CLIENTS, Client, FakeRuntime, Peer, Server, cluster, echo, mesh, run, snapshot, stream_of
from test_outbound_tls import REVIEWS, Authority, exactly, runtime_for

from proxyless.engine.record import PHASES, AttemptRecord
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint, LocalityEndpoints

pytestmark = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
Which = tuple[str, str]


def passed(attempt: AttemptRecord) -> set[str]:
    """Which phases there were; each is a time."""
    found = {phase: seconds for phase in PHASES if (seconds := getattr(attempt, phase)) is not None}
    assert all(0 <= seconds < 60 for seconds in found.values()), found
    return set(found)


def test_a_new_connection_and_a_kept_one(which: Which, tmp_path: Path) -> None:
    async def scenario() -> None:
        authority = Authority(tmp_path)
        with authority.server() as server:
            runtime = runtime_for(server, exactly(REVIEWS), authority.source("productpage"))
            async with Client(*which, runtime) as client:
                first, second = [(await client.get()).extensions["proxyless"] for _ in range(2)]
        every = {"queue", "send", "wait", "receive"}
        assert passed(first.attempts[0]) == every | {"connect", "tls"}
        assert passed(second.attempts[0]) == every
        for record in (first, second):
            phases = record.phases()
            assert phases["policy"] > 0
            assert set(phases) == passed(record.attempts[0]) | {"policy"}
            # They do not overlap: together they are no more than the whole.
            assert sum(phases[phase] for phase in PHASES if phase in phases) <= record.ended - record.started

    run(scenario())


def test_names_are_resolved_apart(which: Which) -> None:
    async def scenario() -> None:
        with Server(echo) as server:
            endpoints = (LocalityEndpoints((Endpoint("localhost", server.port),)),)
            runtime = FakeRuntime(snapshot(Cluster("reviews", ClusterKind.DNS, localities=endpoints)))
            async with Client(*which, runtime) as client:
                record = (await client.get()).extensions["proxyless"]
        assert passed(record.attempts[0]) == {"queue", "resolve", "connect", "send", "wait", "receive"}

    run(scenario())


def test_the_right_phase_is_the_slow_one(which: Which) -> None:
    """Waits of the server show where they were; an upload is sending, also when it is streamed."""
    pause = 0.5

    async def slow(peer: Peer) -> None:
        _, headers = await peer.head()
        await peer.body(headers)
        await asyncio.sleep(pause)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        await asyncio.sleep(pause)
        await peer.send(b"late")

    def slow_parts():  # type: ignore[no-untyped-def]
        import time

        yield b"a"
        time.sleep(pause)
        yield b"b"

    async def slow_aparts():  # type: ignore[no-untyped-def]
        yield b"a"
        await asyncio.sleep(pause)
        yield b"b"

    async def scenario() -> None:
        with mesh(slow) as (_, runtime):
            async with Client(*which, runtime) as client:
                response = await client.post(content=slow_aparts() if client.is_async else slow_parts())
                attempt = response.extensions["proxyless"].attempts[0]
        assert attempt.send > pause * 0.9
        assert min(attempt.wait, attempt.receive) > 0.02  # else some microseconds

    run(scenario())


def test_each_attempt_has_its_own(which: Which) -> None:
    async def second_time(peer: Peer) -> None:
        await peer.head()
        if peer.number == 1:
            peer.reset()
        else:
            await peer.ok()

    async def scenario() -> None:
        with mesh(second_time) as (_, runtime):
            async with Client(*which, runtime) as client:
                record = (await client.get()).extensions["proxyless"]
        first, second = record.attempts
        assert "receive" not in passed(first)
        assert passed(second) == {"queue", "connect", "send", "wait", "receive"}
        assert record.phases()["connect"] == first.connect + second.connect

    run(scenario())


@pytest.mark.parametrize("url", ["ftp://reviews/", "file:///etc/passwd", "reviews/", "//reviews/", "gopher://reviews/"])
def test_what_is_not_http_is_unsupported(which: Which, url: str) -> None:
    async def scenario() -> None:
        runtime = FakeRuntime(snapshot(cluster(1)))
        async with Client(*which, runtime) as client:
            with pytest.raises(client.module.UnsupportedProtocol):
                await client.get(url)
        assert runtime.asked == []
        assert runtime.ended == []

    run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        [("transfer-encoding", "gzip")],
        [("transfer-encoding", "gzip, chunked")],
        [("content-length", "1"), ("content-length", "2")],
        [("content-length", "9")],
        [("content-length", "1_0")],
        [("x", "a\r\nb: c")],
        [("x", "a\n b")],
        [("x", "a\r\n b")],
        [("x", "a\0")],
        [("x y", "a")],
        [("x:", "a")],
        [("", "a")],
        [("host", "a b")],
        [("host", "a\r\nx: y")],
    ],
    ids=repr,
)
@pytest.mark.parametrize("streamed", [False, True], ids=["bytes", "stream"])
def test_headers_that_would_mean_another_request(which: Which, headers: list[tuple[str, str]], streamed: bool) -> None:
    """Nothing is sent, and the client goes on."""

    async def scenario() -> None:
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                content = (stream_of([b"a"]) if client.is_async else iter([b"a"])) if streamed else b"a"
                raw = [(name.encode(), value.encode()) for name, value in headers]
                with pytest.raises(client.module.LocalProtocolError):
                    await client.post(content=content, headers=raw)
                assert (await client.get()).status_code == 200
            assert all(line.startswith("GET / ") for _, line, _ in server.requests if not streamed)

    run(scenario())

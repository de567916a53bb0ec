"""Requests through the mesh, over real sockets, with both libraries, async and sync."""

import asyncio
import socket
from typing import Any

import pytest
from http2_support import echo2, mesh2
from outbound_support import (
    CLIENTS,
    TARGET,
    URL,
    Client,
    FakeRuntime,
    Peer,
    Server,
    cluster,
    echo,
    eventually,
    mesh,
    run,
    snapshot,
)

from proxyless.engine.steps import FailureKind
from proxyless.model.cluster import Cluster, ClusterKind, Endpoint, LocalityEndpoints
from proxyless.model.route import (
    Fault,
    FaultAbort,
    HeaderAction,
    HeaderMutations,
    HeaderSet,
    RetryPolicy,
)

pytestmark = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
Which = tuple[str, str]

MANY = [b"x" * 65_536] * 64  # 4 MiB: more than any buffer on the way


def test_requests_share_a_connection(which: Which) -> None:
    async def scenario() -> None:
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                for number in range(3):
                    response = await client.get(f"{URL}a?n={number}")
                    assert (response.status_code, response.text) == (200, f"GET /a?n={number} HTTP/1.1|")
                    assert type(response).__module__.startswith(which[0])
                    assert response.http_version == "HTTP/1.1"
                assert (await client.post(content=b"one")).text == "POST / HTTP/1.1|one"
                assert (await client.post(content=[b"a", b"", b"b"])).text == "POST / HTTP/1.1|ab"
                assert (await client.request("HEAD")).text == ""
            assert server.connections == 1
            assert server.requests[0][2]["host"] == "reviews"
            records = [record for record, _ in runtime.ended]
            assert len(records) == 6
            assert [record.attempts[0].reused for record in records] == [False] + [True] * 5
            assert all(record.ended is not None for record in records)
            assert runtime.ended[3][1] == {"request_bytes": 3, "response_bytes": 19, "error": "", "grpc_status": ""}
            assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
            await eventually(lambda: server.open == 0)

    run(scenario())


def test_large_bodies_stream_both_ways_with_back_pressure(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        _, headers = await peer.head()
        size = len(await peer.body(headers))
        await peer.send(b"HTTP/1.1 200 OK\r\nx-size: %d\r\ntransfer-encoding: chunked\r\n\r\n" % size)
        for chunk in MANY:
            await peer.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            peer.server.sent += len(chunk)  # type: ignore[attr-defined]
        await peer.send(b"0\r\n\r\n")
        await echo(peer)

    async def scenario() -> None:
        with mesh(answer) as (server, runtime):
            server.sent = 0  # type: ignore[attr-defined]
            async with Client(*which, runtime) as client:
                content: Any = list(MANY)
                if client.is_async:
                    from outbound_support import stream_of

                    content = stream_of(content)
                async with client.stream("POST", content=content) as response:
                    assert response.headers["x-size"] == str(4 * 2**20)
                    received = 0
                    async for chunk in client.chunks(response):
                        received += len(chunk)
                assert received == 4 * 2**20
                response = await client.post(content=b"y" * 2**20)
                assert len(response.content) == 2**20 + len("POST / HTTP/1.1|")
            assert server.connections == 1
            assert runtime.ended[0][1] == {
                "request_bytes": 2**22,
                "response_bytes": 2**22,
                "error": "",
                "grpc_status": "",
            }

    run(scenario())


def test_a_server_waits_for_an_application_that_does_not_read(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 2**26)
        for _ in range(1024):
            await peer.send(b"x" * 65_536)
            peer.server.sent += 65_536  # type: ignore[attr-defined]

    async def scenario() -> None:
        with mesh(answer) as (server, runtime):
            server.sent = 0  # type: ignore[attr-defined]
            async with Client(*which, runtime) as client:
                async with client.stream("GET") as response:
                    assert response.status_code == 200
                    last = -1
                    while server.sent != last:  # type: ignore[attr-defined]
                        last = server.sent  # type: ignore[attr-defined]
                        await asyncio.sleep(0.1)
                    assert last < 2**25
                # Closed in the middle: the connection cannot be used again.
                await eventually(lambda: server.open == 0)
            assert len(runtime.ended) == 1

    run(scenario())


def test_an_early_answer_ends_an_upload(which: Which) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await asyncio.sleep(30)

    def endless() -> Any:
        while True:
            yield b"x" * 65_536

    async def aendless() -> Any:
        for chunk in endless():
            yield chunk

    async def scenario() -> None:
        with mesh(refuse) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.post(content=aendless() if client.is_async else endless())
                assert (response.status_code, response.text) == (413, "big")
                assert len(runtime.ended) == 1
                # Half a request is on it: never again.
                await eventually(lambda: runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0)
                response = await client.post(content=b"more")
                assert response.status_code == 413
            assert server.connections == 2

    run(scenario())


@pytest.mark.parametrize(("method", "attempts"), [("GET", 2), ("PUT", 2), ("POST", 1)])
def test_a_connection_that_dies_when_reused(which: Which, method: str, attempts: int) -> None:
    """The server ends the connection upon the second request on it: a race that every keep-alive client meets."""

    async def one_each(peer: Peer) -> None:
        _, headers = await peer.head()
        await peer.body(headers)
        await peer.ok()
        await peer.head()
        peer.reset()

    async def scenario() -> None:
        with mesh(one_each) as (server, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                response = await client.request(method)
                record = response.extensions["proxyless"]
                assert len(record.attempts) == attempts
                first = record.attempts[0]
                assert first.reused
                assert first.failure.kind is FailureKind.RESET
                assert first.failure.request_sent
                if attempts == 2:
                    assert response.status_code == 200
                    assert server.connections == 2
                else:
                    assert response.status_code == 503
                    assert response.headers["x-envoy-response-flags"] == "UC"
                    assert "reset" in response.headers["x-proxyless-reason"]

    run(scenario())


def test_an_idle_connection_that_the_server_closed_is_not_used(which: Which) -> None:
    async def one(peer: Peer) -> None:
        await peer.head()
        await peer.ok()

    async def scenario() -> None:
        with mesh(one) as (server, runtime):
            async with Client(*which, runtime) as client:
                for number in range(1, 4):
                    response = await client.post()
                    assert response.status_code == 200
                    assert len(response.extensions["proxyless"].attempts) == 1
                    await eventually(lambda: server.open == 0)
                    await asyncio.sleep(0.01)  # the FIN is on its way on loopback; the loop must read it
                    assert server.connections == number

    run(scenario())


def test_bytes_while_idle_end_a_connection(which: Which) -> None:
    """A response that nobody asked for must not become the answer to the next request."""

    async def poison(peer: Peer) -> None:
        line, _ = await peer.head()
        await peer.ok(line.encode())
        if peer.number == 1:
            await peer.server.poison.wait()  # type: ignore[attr-defined]
            await peer.ok(b"not yours")
            peer.server.poisoned = True  # type: ignore[attr-defined]
        await echo(peer)

    async def scenario() -> None:
        with mesh(poison) as (server, runtime):
            server.poison, server.poisoned = asyncio.Event(), False  # type: ignore[attr-defined]
            async with Client(*which, runtime) as client:
                assert (await client.get()).text == "GET / HTTP/1.1"
                server.loop.call_soon_threadsafe(server.poison.set)  # type: ignore[attr-defined]
                await eventually(lambda: server.poisoned)  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
                assert (await client.get(URL + "mine")).text == "GET /mine HTTP/1.1"
            assert server.connections == 2

    run(scenario())


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", "RemoteProtocolError"),
    ],
)
def test_a_body_that_breaks_off_is_an_error(which: Which, response: bytes, error: str) -> None:
    async def answer(peer: Peer) -> None:
        await peer.head()
        await peer.send(response)

    async def scenario() -> None:
        with mesh(answer) as (_, runtime):
            async with Client(*which, runtime) as client:
                with pytest.raises(getattr(client.module, error)) as caught:
                    await client.get()
                assert caught.value.request.url == URL
            assert len(runtime.ended) == 1
            assert runtime.ended[0][1]["error"].startswith(error)

    run(scenario())


def test_a_reset_in_the_body_is_a_read_error(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await peer.server.read.wait()  # type: ignore[attr-defined]
        peer.reset()

    async def scenario() -> None:
        with mesh(answer) as (server, runtime):
            server.read = asyncio.Event()  # type: ignore[attr-defined]
            async with Client(*which, runtime) as client:
                with pytest.raises(client.module.ReadError):
                    async with client.stream("GET") as response:
                        async for _ in client.chunks(response):
                            server.loop.call_soon_threadsafe(server.read.set)  # type: ignore[attr-defined]
            assert len(runtime.ended) == 1

    run(scenario())


def test_a_refused_connection_is_tried_elsewhere_then_reported(which: Which) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]

        async def scenario() -> None:
            with Server(echo) as server:
                runtime = FakeRuntime(snapshot(cluster(nobody, server.port)))
                async with Client(*which, runtime) as client:
                    for _ in range(4):
                        response = await client.post(content=b"x")
                        assert response.text.endswith("|x")
                    streamed = await client.post(content=[b"s"])  # nothing of it was read before there was a connection
                    assert streamed.text.endswith("|s")
                runtime = FakeRuntime(snapshot(cluster(nobody)))
                async with Client(*which, runtime) as client:
                    response = await client.post(content=b"x")
                    assert response.status_code == 503
                    assert set(response.headers["x-envoy-response-flags"].split(",")) == {"UF", "URX"}
                    assert "Connection refused" in response.headers["x-proxyless-reason"]
                    record = response.extensions["proxyless"]
                    assert len(record.attempts) == 3
                    assert not any(attempt.failure.request_sent for attempt in record.attempts)

        run(scenario())


def test_a_timeout_of_the_route(which: Which) -> None:
    async def slow(peer: Peer) -> None:
        await peer.head()
        await peer.reader.read()

    async def scenario() -> None:
        with mesh(slow, timeout=0.1) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 504
                assert response.headers["x-envoy-response-flags"] == "UT"
                await eventually(lambda: server.open == 0)

    run(scenario())


def test_a_timeout_of_the_route_bounds_the_body(which: Which) -> None:
    async def slow(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await peer.reader.read()

    async def scenario() -> None:
        with mesh(slow, timeout=0.2) as (server, runtime):
            async with Client(*which, runtime) as client:
                with pytest.raises(client.module.ReadTimeout):
                    await client.get()
                await eventually(lambda: server.open == 0)
            assert len(runtime.ended) == 1

    run(scenario())


def test_the_applications_own_read_timeout(which: Which) -> None:
    async def slow(peer: Peer) -> None:
        await peer.head()
        await peer.reader.read()

    async def scenario() -> None:
        with mesh(slow) as (server, runtime):
            async with Client(*which, runtime) as client:
                with pytest.raises(client.module.ReadTimeout):
                    await client.get(timeout=0.1)
                await eventually(lambda: server.open == 0)
            assert server.connections == 1  # it is the user's limit: no retry
            assert len(runtime.ended) == 1

    run(scenario())


def test_the_applications_own_write_timeout(which: Which) -> None:
    async def deaf(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async def scenario() -> None:
        with mesh(deaf) as (_, runtime):
            async with Client(*which, runtime) as client:
                timeout = client.module.Timeout(5, write=0.1)
                with pytest.raises(client.module.WriteTimeout):
                    await client.post(content=b"x" * 2**25, timeout=timeout)
            assert len(runtime.ended) == 1

    run(scenario())


def test_the_applications_own_connect_timeout_is_one_endpoints(which: Which) -> None:
    async def scenario() -> None:
        full = socket.socket()
        others = []
        try:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            for _ in range(4):  # its queue of connections is full: the next SYN gets no answer
                other = socket.socket()
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
                others.append(other)
            await asyncio.sleep(0.05)
            with Server(echo) as server:
                runtime = FakeRuntime(snapshot(cluster(port, server.port)))
                async with Client(*which, runtime) as client:
                    tried = set()
                    for _ in range(2):
                        response = await client.get(timeout=client.module.Timeout(5, connect=0.1))
                        assert response.status_code == 200
                        tried |= {
                            (attempt.endpoint.port, attempt.failure.kind if attempt.failure else None)
                            for attempt in response.extensions["proxyless"].attempts
                        }
                    assert tried == {(port, FailureKind.CONNECT), (server.port, None)}
        finally:
            for each in [*others, full]:
                each.close()

    run(scenario())


MALFORMED = {
    "garbage": b"GARBAGE\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x50",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/2 frames": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "status": b"HTTP/1.1 20 OK\r\n\r\n",
    "status zero": b"HTTP/1.1 000 OK\r\n\r\n",
    "101": b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    "length list": b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nhi",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nhi",
    "huge length": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nhi",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
    "chunked twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "space in a name": b"HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nx: 1\0\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 201 + b"\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
}


def test_malformed_responses_are_503(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        line, _ = await peer.head()
        while line.split()[1] == "/good":
            await peer.ok(b"good")
            line, _ = await peer.head()
        case = list(MALFORMED)[int(line.split()[1][1:])]
        await peer.send(MALFORMED[case])
        if case in ("nothing", "half a head"):
            return
        await peer.reader.read()  # it keeps the connection open: the client must not wait for more

    async def scenario() -> None:
        with mesh(answer, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                for number, case in enumerate(MALFORMED):
                    before = server.connections
                    response = await client.get(f"{URL}{number}", timeout=5)
                    assert (case, response.status_code) == (case, 503)
                    assert response.headers["x-envoy-response-flags"] == "UC"
                    assert (case, (await client.get(f"{URL}good")).text) == (case, "good")
                    # The connection of the malformed response was the good one of before, never one after.
                    assert server.connections == before + (1 if number else 2)
            assert len(runtime.ended) == 2 * len(MALFORMED)

    run(scenario())


def test_a_response_that_is_retried_is_discarded(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            line, headers = await peer.head()
            await peer.body(headers)
            if len(peer.server.requests) == 1:
                await peer.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nbusy!")
            elif len(peer.server.requests) == 2:
                await peer.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 50000\r\n\r\nbusy!")
            else:
                await peer.ok(line.encode())

    async def scenario() -> None:
        retry = RetryPolicy(frozenset({"5xx"}), num_retries=2, back_off_base=0.02, back_off_max=0.021)
        with mesh(answer, retry=retry) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.post(content=b"again")
                assert (response.status_code, response.text) == (200, "POST / HTTP/1.1")
                assert [a.status for a in response.extensions["proxyless"].attempts] == [503, 503, 200]
                assert (await client.get()).text == "GET / HTTP/1.1"
            assert server.connections <= 3

    run(scenario())


def test_a_streamed_body_is_not_sent_twice(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        _, headers = await peer.head()
        await peer.body(headers)
        await peer.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")

    async def scenario() -> None:
        with mesh(answer, retry=RetryPolicy(frozenset({"5xx"}), num_retries=2)) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.post(content=[b"once"])
                assert response.status_code == 503
                assert "x-proxyless-reason" not in response.headers  # it is the service's answer
            assert len(server.requests) == 1
            assert "cannot be sent a second time" in runtime.ended[0][0].reason  # type: ignore[attr-defined]

    run(scenario())


def test_the_applications_body_fails(which: Which) -> None:
    class OwnError(Exception):
        pass

    def broken() -> Any:
        yield b"x"
        raise OwnError("mine")

    async def abroken() -> Any:
        for chunk in broken():
            yield chunk

    async def scenario() -> None:
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                with pytest.raises(OwnError):
                    await client.post(content=abroken() if client.is_async else broken())
                await eventually(lambda: server.open == 0)
                with pytest.raises(client.module.LocalProtocolError):
                    await client.post(content=[b"abc"], headers={"content-length": "2"})
                with pytest.raises(client.module.LocalProtocolError):
                    await client.post(content=[b"abc"], headers={"content-length": "4"})
                assert (await client.get()).status_code == 200
            assert len(runtime.ended) == 4

    run(scenario())


def test_headers_cannot_carry_a_request(which: Which) -> None:
    async def scenario() -> None:
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                for headers in (
                    [(b"x", b"1\r\ny: 2")],
                    [(b"x", b"1\r\n\r\nGET /admin HTTP/1.1\r\nhost: a")],
                    [(b"x\r\ny", b"1")],
                    [(b"x", b"1\0")],
                    [(b"host", b"a\r\nb: c")],
                    [(b"host", b"a"), (b"host", b"b")],
                ):
                    with pytest.raises(client.module.LocalProtocolError):
                        await client.get(headers=headers)
            assert server.requests == []
            assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0

    run(scenario())


def test_what_the_route_says_is_done(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nX-Old: 1\r\nx-name: caf\xe9\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
                            b"content-length: 0\r\n\r\n")  # fmt: skip

    async def scenario() -> None:
        requests = HeaderMutations((HeaderSet("x-added", "yes", HeaderAction.OVERWRITE),), ("x-secret",))
        responses = HeaderMutations((HeaderSet("x-new", "2", HeaderAction.OVERWRITE),), ("x-old",))
        with mesh(answer, request_headers=requests, response_headers=responses) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get(headers={"x-secret": "1", "Host": "ReViews.example"})
                assert response.headers["x-new"] == "2"
                assert "x-old" not in response.headers
                assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
                assert dict(response.cookies) == {"a": "1", "b": "2"}
                assert (b"x-name", b"caf\xe9") in response.headers.raw
            _, _, sent = server.requests[0]
            assert sent["host"] == "ReViews.example"
            assert sent["x-added"] == "yes"
            assert "x-secret" not in sent
            assert sent["x-envoy-attempt-count"] == "1"
            assert "traceparent" in sent

    run(scenario())


def test_the_meshs_own_answer_says_so(which: Which) -> None:
    async def scenario() -> None:
        fault = Fault(abort=FaultAbort(1_000_000, http_status=418))
        with mesh(echo, fault=fault) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 418
                assert response.text == "fault filter abort"
                assert response.headers["x-envoy-response-flags"] == "FI"
                assert response.headers["x-proxyless-reason"]
                assert response.extensions["proxyless"].status == 418
                assert (await client.request("HEAD")).content == b""
            assert server.connections == 0
            assert len(runtime.ended) == 2

    run(scenario())


def test_hosts_that_the_mesh_does_not_know(which: Which) -> None:
    async def scenario() -> None:
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                url = f"http://127.0.0.1:{server.port}/plain"
                for _ in range(2):
                    response = await client.post(url, content=b"x")
                    assert response.text == "POST /plain HTTP/1.1|x"
                    assert response.extensions["proxyless"].cluster.kind is ClusterKind.PASSTHROUGH
                assert runtime.asked == [f"127.0.0.1:{server.port}"]
                assert server.connections == 1
                assert "x-envoy-attempt-count" not in server.requests[0][2]
                with pytest.raises(client.module.ConnectError):
                    await client.get("http://127.0.0.1:1/")
                with pytest.raises(client.module.ConnectError, match="did not answer within"):
                    await client.get("http://unready/")
                assert runtime.asked[1:] == ["127.0.0.1:1", "unready:80"]
            assert [how["error"][:12] for _, how in runtime.ended] == ["", "", "ConnectError"]  # type: ignore[index]
            await eventually(lambda: server.open == 0)

    run(scenario())


@pytest.mark.parametrize(
    ("url", "target"), [(URL, TARGET), ("http://[::1]:81/", "[::1]:81"), ("http://A.b/", "a.b:80")]
)
def test_targets(which: Which, url: str, target: str) -> None:
    async def scenario() -> None:
        with mesh(echo, target=target) as (_, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.get(url)).status_code == 200
            assert runtime.asked == []

    run(scenario())


def test_limits_of_a_connection(which: Which) -> None:
    async def scenario() -> None:
        with Server(echo) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port, max_requests_per_connection=2)))
            async with Client(*which, runtime) as client:
                for _ in range(4):
                    assert (await client.get()).status_code == 200
                assert server.connections == 2
                runtime.world = snapshot(cluster(server.port, idle_timeout=0.0))
                for _ in range(2):
                    assert (await client.get()).status_code == 200
                assert server.connections == 4
                # The application asks for it.
                runtime.world = snapshot(cluster(server.port))
                for _ in range(2):
                    assert (await client.get(headers={"connection": "close"})).status_code == 200
                await eventually(lambda: server.open == 0)

    run(scenario())


def test_a_name_is_resolved(which: Which) -> None:
    async def scenario() -> None:
        with Server(echo) as server:
            endpoints = (LocalityEndpoints((Endpoint("localhost", server.port),)),)
            world = snapshot(Cluster("reviews", ClusterKind.DNS, localities=endpoints))
            async with Client(*which, FakeRuntime(world)) as client:
                assert (await client.get()).status_code == 200

    run(scenario())


def test_redirects_are_the_librarys(which: Which) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            line, _ = await peer.head()
            if "/old" in line:
                await peer.send(b"HTTP/1.1 302 Found\r\nlocation: /new\r\ncontent-length: 0\r\n\r\n")
            else:
                await peer.ok(line.encode())

    async def scenario() -> None:
        with mesh(answer) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get(URL + "old", follow_redirects=True)
                assert response.text == "GET /new HTTP/1.1"
            assert server.connections == 1
            assert len(runtime.ended) == 2

    run(scenario())


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_trace_events_are_httpcores(which: Which, http2: bool) -> None:
    """The same names and facts in the same order as the plain client's, over the whole life of a connection."""

    async def events_of(client: Any, is_async: bool, url: str) -> list[tuple[str, frozenset[str], object]]:
        events: list[tuple[str, frozenset[str], object]] = []

        def trace(name: str, info: dict[str, Any]) -> None:
            events.append((name, frozenset(info), info.get("stream_id")))
            if name == "connection.connect_tcp.complete":
                assert info["return_value"].get_extra_info("server_addr")[0] == "127.0.0.1"
            if name == "http11.receive_response_headers.complete":
                version, status, reason, headers = info["return_value"]
                assert (version, status, reason) == (b"HTTP/1.1", 200, b"OK")
                assert headers == [(b"content-length", headers[0][1])]
            if name == "http2.receive_response_headers.complete":
                assert info["return_value"] == (200, [])

        async def atrace(name: str, info: dict[str, Any]) -> None:
            trace(name, info)

        for content in (None, b"body"):
            request = client.build_request("POST", url, content=content)
            request.extensions["trace"] = atrace if is_async else trace
            response = await client.send(request) if is_async else client.send(request)
            assert response.status_code == 200
        return events

    async def scenario() -> None:
        with mesh2(echo2) if http2 else mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                ours = await events_of(client.client, client.is_async, URL)
            url = f"http://127.0.0.1:{server.port}/"
            spoken = {"http1": not http2, "http2": http2}
            if client.is_async:
                async with client.module.AsyncClient(**spoken) as plain:
                    theirs = await events_of(plain, True, url)
            else:
                # The plain client blocks, and the server has a thread of its own.
                with client.module.Client(**spoken) as plain:
                    theirs = await events_of(plain, False, url)
        # Ours has the server's settings before the connection serves a request.
        assert ours == [one for one in theirs if not one[0].startswith("http2.receive_remote_settings.")]

    run(scenario())


def test_a_trace_is_told_of_failures(which: Which) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.head()

    async def scenario() -> None:
        events: list[str] = []

        def trace(name: str, info: dict[str, Any]) -> None:
            events.append(name)

        async def atrace(name: str, info: dict[str, Any]) -> None:
            events.append(name)

        with mesh(hang_up, retry=None) as (_, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get(extensions={"trace": atrace if client.is_async else trace})
                assert response.status_code == 503
        assert events[-1] == "http11.receive_response_headers.failed"

    run(scenario())

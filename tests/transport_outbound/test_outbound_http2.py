"""HTTP/2 to an endpoint: streams on one connection, what the server may do with them, and who is told."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvloop
from h2.settings import SettingCodes
from http2_support import H2Peer, echo2, mesh2
from outbound_support import CLIENTS, URL, Client, FakeRuntime, eventually, run

from proxyless.engine.steps import FailureKind
from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
kinds = pytest.mark.parametrize("which", [("httpx", "async"), ("httpx", "sync")], ids="-".join)


def failure(runtime: FakeRuntime, call: int = -1, attempt: int = 0):  # type: ignore[no-untyped-def]
    return runtime.ended[call][0].attempts[attempt].failure  # type: ignore[attr-defined]


def settled(runtime: FakeRuntime, port: int) -> bool:
    return runtime.engine.active_requests("reviews", ("127.0.0.1", port)) == 0


@every_client
def test_requests_share_one_connection(which: Which) -> None:
    async def scenario() -> None:
        with mesh2(echo2) as (server, runtime):
            async with Client(*which, runtime) as client:
                for method in ("GET", "POST", "PUT"):
                    response = await client.request(method, f"{URL}x?y=1", content=b"body" * 1000)
                    assert response.text == f"{method} /x?y=1|" + "body" * 1000
                    assert response.extensions["http_version"] == b"HTTP/2"
                streamed = await client.post(content=[b"a" * 70_000, b"", b"b" * 300_000])
                assert streamed.text == "POST /|" + "a" * 70_000 + "b" * 300_000
                assert [record.attempts[0].reused for record, _ in runtime.ended] == [False, True, True, True]
            assert server.connections == 1
            assert len(runtime.ended) == 4
            assert settled(runtime, server.port)
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
def test_the_head(which: Which) -> None:
    async def scenario() -> None:
        with mesh2(echo2) as (server, runtime):
            async with Client(*which, runtime) as client:
                given = {
                    "Host": "elsewhere", "Cookie": "a=1; b=2", "Connection": "close, x-mine", "X-Mine": "1",
                    "TE": "trailers", "Keep-Alive": "1", "X-Kept": " padded ", "Authorization": "secret",
                }  # fmt: skip
                await client.post(headers=given, content=b"abc")
            headers = server.peers[0].requests[1]
            assert headers[:4] == [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "elsewhere"),
                (":path", "/"),
            ]
            assert [value for name, value in headers if name == "cookie"] in (["a=1; b=2"], ["a=1", "b=2"])
            found = dict(headers)
            assert found["content-length"] == "3"
            assert found["te"] == "trailers"
            assert found["x-kept"] == "padded"
            assert found["authorization"] == "secret"
            assert not {"host", "connection", "x-mine", "keep-alive", "transfer-encoding"} & set(found)

    run(scenario())


@every_client
def test_a_request_without_a_body_ends_with_its_head(which: Which) -> None:
    """Behind a proxy, an end that comes later makes it a chunked request, which simple HTTP/1.1 servers misread."""

    async def scenario() -> None:
        with mesh2(echo2) as (server, runtime):
            async with Client(*which, runtime) as client:
                for method, content in (("GET", None), ("POST", b""), ("POST", b"x")):
                    assert (await client.request(method, content=content)).status_code == 200
            assert server.peers[0].bare == {1, 3}

    run(scenario())


@every_client
@pytest.mark.parametrize("case", ["HEAD", "204", "304", "1xx", "trailers", "empty", "length"])
def test_responses(which: Which, case: str) -> None:
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        match case:
            case "HEAD":
                await peer.head(number, 200, ("content-length", "5"), end=True)
            case "204" | "304":
                await peer.head(number, int(case), end=True)
            case "1xx":
                for _ in range(3):
                    await peer.head(number, 103, ("link", "x"))
                await peer.ok(number)
            case "trailers":
                await peer.head(number)
                await peer.data(number, b"hello", end=False)
                peer.h2.send_headers(number, [("grpc-status", "0")], end_stream=True)
                await peer.flush()
            case "empty":
                await peer.head(number, end=True)
            case "length":
                await peer.head(number, 200, ("content-length", "5"))
                await peer.data(number, b"hello")

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client:
                for _ in range(2):
                    response = await client.request("HEAD" if case == "HEAD" else "GET")
                    assert response.status_code == (int(case) if case.isdigit() else 200)
                    assert response.content == (b"hello" if case in ("1xx", "trailers", "length") else b"")
                    assert "link" not in response.headers
                    assert "grpc-status" not in response.headers
            assert server.connections == 1

    run(scenario())


@every_client
@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        (7, FailureKind.REFUSED_STREAM, 3),
        (8, FailureKind.RESET, 1),
        (2, FailureKind.RESET, 1),
        (99, FailureKind.RESET, 1),
    ],
)
def test_a_reset_stream(which: Which, code: int, kind: FailureKind, attempts: int) -> None:
    """REFUSED_STREAM may be tried again, whatever the method; others only as the policy has it."""

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"] == "/fine":
            await peer.ok(number)
        else:
            await peer.reset(number, code)

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.post(content=b"x")
                assert response.status_code == 503
                assert failure(runtime).kind is kind
                assert len(runtime.ended[0][0].attempts) == attempts
                assert (await client.get(f"{URL}fine")).text == "hello"
            assert server.connections == 1

    run(scenario())


@every_client
def test_go_away(which: Which) -> None:
    """What the server has taken goes on; what it has not is sent again elsewhere."""
    begun = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"] == "/slow":
            await peer.head(number)
            await peer.data(number, b"first,", end=False)
            while not begun.is_set():
                await asyncio.sleep(0.005)
            await peer.data(number, b"last")
        elif peer.peer.number == 1:
            await peer.go_away(1)
            begun.set()
        else:
            await peer.ok(number)

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client, client.stream("GET", f"{URL}slow") as slow:
                other = await client.post(f"{URL}other", content=b"x")
                assert other.text == "hello"
                assert failure(runtime).kind is FailureKind.REFUSED_STREAM
                assert b"".join([chunk async for chunk in client.chunks(slow)]) == b"first,last"
                assert (await client.get(f"{URL}more")).text == "hello"
            assert server.connections == 2
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
def test_the_end_of_the_connection_ends_its_streams(which: Which) -> None:
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        peer.peer.writer.close()

    async def scenario() -> None:
        with mesh2(script, retry=None) as (_, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 503
                assert response.headers["x-envoy-response-flags"] == "UC"
                assert failure(runtime).kind is FailureKind.RESET
                assert failure(runtime).request_sent

    run(scenario())


@every_client
def test_idle_and_closed_by_the_server(which: Which) -> None:
    async def scenario() -> None:
        with mesh2(echo2, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 200
                for end in ("goaway", "eof"):
                    peer = server.peers[-1]
                    if end == "goaway":
                        server.loop.call_soon_threadsafe(lambda peer=peer: asyncio.ensure_future(peer.go_away(1)))
                    else:
                        server.loop.call_soon_threadsafe(peer.peer.writer.close)
                    before = server.connections
                    await eventually(lambda peer=peer: _hung_up(peer) or not client.is_async)
                    while server.connections == before:  # sync: what has come is heard at the next use
                        assert (await client.get()).status_code in (200, 503)
                assert (await client.get()).status_code == 200

    run(scenario())


def _hung_up(peer: H2Peer) -> bool:
    return peer.peer.reader.at_eof() or peer.peer.writer.is_closing()


@every_client
def test_a_request_body_waits_for_the_window(which: Which) -> None:
    """Not more is read from the application than the server takes, and the others go on meanwhile."""
    release = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"] == "/stuck":
            peer.acknowledge = False
            while not release.is_set():
                await asyncio.sleep(0.005)
            peer.acknowledge = True
            peer.h2.increment_flow_control_window(2**24, number)
            peer.h2.increment_flow_control_window(2**24)
            await peer.flush()
        await echo2(peer, number, headers)

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client:
                read: list[int] = []
                chunk = b"x" * 16_384

                def sync_body():  # type: ignore[no-untyped-def]
                    for number in range(64):
                        read.append(number)
                        yield chunk

                async def async_body():  # type: ignore[no-untyped-def]
                    for one in sync_body():
                        yield one

                async def upload():  # type: ignore[no-untyped-def]
                    if client.is_async:
                        return await client.client.post(f"{URL}stuck", content=async_body())
                    return await asyncio.to_thread(client.client.post, f"{URL}stuck", content=sync_body())

                task = asyncio.ensure_future(upload())
                await eventually(
                    lambda: bool(server.peers) and sum(map(len, server.peers[0].bodies.values())) >= 65_535
                )
                other = client.client.get if client.is_async else None
                get = other(f"{URL}other") if other else asyncio.to_thread(client.client.get, f"{URL}other")
                assert (await get).text == "GET /other|"
                assert len(read) < 10
                release.set()
                response = await task
                assert len(response.content) == len("POST /stuck|") + 64 * 16_384
            assert server.connections == 1

    run(scenario())


@every_client
def test_a_response_that_nobody_reads_waits(which: Which) -> None:
    """The server may send no more than one stream's window; other streams are not in its way."""

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"] == "/big":
            await peer.head(number)
            await peer.data(number, b"x" * 3_000_000)
        else:
            await echo2(peer, number, headers)

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client, client.stream("GET", f"{URL}big") as big:
                for number in range(20):
                    assert (await client.get(f"{URL}{number}")).text == f"GET /{number}|"
                if client.is_async:
                    stream = next(iter(client.transport._pools._pools.values()))
                    held = next(one for one in stream.all if hasattr(one, "session")).session.streams[1].buffered
                    assert held <= 256 * 1024
                total = 0
                async for chunk in client.chunks(big):
                    total += len(chunk)
                assert total == 3_000_000
            assert server.connections == 1

    run(scenario())


@kinds
def test_the_servers_limit_of_streams(which: Which) -> None:
    """A further connection is opened; no stream is ever refused."""
    gate = threading.Event()

    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.005)
        await echo2(peer, number, headers)

    async def scenario() -> None:
        with mesh2(script, {SettingCodes.MAX_CONCURRENT_STREAMS: 4}, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                with ThreadPoolExecutor(16) as threads:
                    loop = asyncio.get_running_loop()

                    def ask(n: int):  # type: ignore[no-untyped-def]
                        if client.is_async:
                            return client.client.get(f"{URL}{n}")
                        return loop.run_in_executor(threads, client.client.get, f"{URL}{n}")

                    tasks = [asyncio.ensure_future(ask(n)) for n in range(16)]
                    await eventually(lambda: len(server.requests) == 16)
                    gate.set()
                    answers = await asyncio.gather(*tasks)
                assert [answer.text for answer in answers] == [f"GET /{n}|" for n in range(16)]
                assert server.connections == 4
                assert max(peer.most_open for peer in server.peers) <= 4
            assert settled(runtime, server.port)

    run(scenario())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_hundreds_of_streams_and_some_given_up(new_loop) -> None:  # type: ignore[no-untyped-def]
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"].startswith("/never"):
            await peer.head(number)
            await peer.data(number, b"x" * 1000, end=False)
            return
        await echo2(peer, number, headers)

    async def scenario(runtime: FakeRuntime) -> None:
        async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime), timeout=30) as client:
            for _ in range(2):
                forever = [asyncio.ensure_future(client.get(f"{URL}never{n}")) for n in range(100)]
                tasks = [asyncio.ensure_future(client.post(f"{URL}{n}", content=b"%d" % n * 100)) for n in range(300)]
                await asyncio.sleep(0)
                for task in forever[1::2]:  # not the one that connects for all
                    task.cancel()
                answers = await asyncio.gather(*tasks)
                assert [answer.text for answer in answers] == [f"POST /{n}|" + f"{n}" * 100 for n in range(300)]
                for task in forever:
                    task.cancel()
                await asyncio.gather(*forever, return_exceptions=True)

    with mesh2(script, {SettingCodes.MAX_CONCURRENT_STREAMS: 1000}) as (server, runtime):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(scenario(runtime), 250))
        assert server.connections == 1
        assert len(runtime.ended) == 800
        assert settled(runtime, server.port)


def test_threads_share_a_connection() -> None:
    with (
        mesh2(echo2, {SettingCodes.MAX_CONCURRENT_STREAMS: 1000}) as (server, runtime),
        httpx.Client(transport=MeshTransport(runtime), timeout=30) as client,
    ):

        def ask(n: int) -> bool:
            if n % 7 == 0:
                with client.stream("POST", f"{URL}{n}", content=b"x" * 100_000) as response:
                    next(response.iter_raw())
                return True
            return client.post(f"{URL}{n}", content=b"%d" % n * 20_000).text == f"POST /{n}|" + f"{n}" * 20_000

        with ThreadPoolExecutor(24) as threads:
            assert all(threads.map(ask, range(240)))
        assert server.connections == 1
        assert len(runtime.ended) == 240
        assert settled(runtime, server.port)


@every_client
def test_giving_up_resets_one_stream_only(which: Which) -> None:
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        if headers[":path"] == "/fine":
            await peer.ok(number)
            return
        await peer.head(number)
        await peer.data(number, b"x", end=False)

    async def scenario() -> None:
        with mesh2(script) as (server, runtime):
            async with Client(*which, runtime) as client:
                async with client.stream("GET", f"{URL}endless") as response:
                    async for _ in client.chunks(response):
                        break
                with pytest.raises(client.module.ReadTimeout):
                    await client.get(f"{URL}endless", timeout=0.2)
                assert (await client.get(f"{URL}fine")).text == "hello"
                await eventually(lambda: server.peers[0].resets == {1: 8, 3: 8})
            assert server.connections == 1

    run(scenario())


@every_client
def test_an_early_answer_ends_the_upload(which: Which) -> None:
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        peer.acknowledge = False
        await peer.head(number, 413)
        await peer.data(number, b"too much")
        await peer.reset(number, 0)

    async def scenario() -> None:
        with mesh2(script, retry=None) as (_, runtime):
            async with Client(*which, runtime) as client:
                for _ in range(2):
                    response = await client.post(content=b"x" * 1_000_000)
                    assert (response.status_code, response.text) == (413, "too much")

    run(scenario())


@every_client
def test_the_deadline(which: Which) -> None:
    async def script(peer: H2Peer, number: int, headers: dict[str, str]) -> None:
        pass

    async def scenario() -> None:
        with mesh2(script, retry=None, timeout=0.2) as (server, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.get()).status_code == 504
                await eventually(lambda: server.peers[0].resets == {1: 8})

    run(scenario())


@every_client
@pytest.mark.parametrize("limit", [1, 2])
def test_requests_per_connection(which: Which, limit: int) -> None:
    async def scenario() -> None:
        with mesh2(echo2, members={"max_requests_per_connection": limit}, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                for _ in range(6):
                    assert (await client.get()).status_code == 200
            assert server.connections == 6 // limit

    run(scenario())

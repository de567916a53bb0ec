"""Connections that switch protocols: the network stream of a response, as httpcore's users know it."""

import asyncio
import contextlib
import inspect
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop
from outbound_support import (
    CLIENTS,
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
from test_outbound_tls import Authority

from proxyless.model.inbound import MutualTls

pytestmark = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
Which = tuple[str, str]
ASK = {"connection": "Upgrade", "upgrade": "echo"}
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def close(stream: Any) -> None:
    await done(stream.aclose() if hasattr(stream, "aclose") else stream.close())


async def exactly(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await done(stream.read(65536, timeout=60))
        assert piece
        data += piece
    return data


async def switch(peer: Peer) -> None:
    """Grants an upgrade, with the first bytes in the same packet, then repeats what it hears."""
    while True:
        _, headers = await peer.head()
        if "upgrade" not in headers:
            await peer.ok()
            continue
        assert headers["connection"] == "upgrade"
        await peer.send(SWITCH + b"welcome")
        while data := await peer.reader.read(65536):
            await peer.send(data)
        await peer.send(b"bye")
        return


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_bytes_both_ways(which: Which, new_loop: Any) -> None:
    async def scenario() -> None:
        with mesh(switch) as (server, runtime):
            async with Client(*which, runtime) as client:
                assert (await client.get()).text == "hello"
                async with client.stream("GET", headers=ASK) as response:
                    assert (response.status_code, response.reason_phrase) == (101, "Switching Protocols")
                    stream = response.extensions["network_stream"]
                    assert await done(stream.read(3)) == b"wel"
                    assert await exactly(stream, 4) == b"come"
                    await done(stream.write(b"ping"))
                    assert await exactly(stream, 4) == b"ping"
                    assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
                    assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
                    assert stream.get_extra_info("ssl_object") is None
                    assert stream.get_extra_info("socket").fileno() > 0
                    assert stream.get_extra_info("is_readable") is False
                    assert stream.get_extra_info("nonsense") is None
                    await close(stream)
                assert (await client.get()).text == "hello"
                # The switched one was the kept one; it is not kept again.
                assert [connection for connection, _, _ in server.requests] == [1, 1, 2]
                assert runtime.engine.active_requests("reviews", ("127.0.0.1", server.port)) == 0
            await eventually(lambda: server.open == 0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 60))


def test_more_than_buffers_hold(which: Which) -> None:
    """Back-pressure both ways: the echo waits for us, and we for it."""

    async def scenario() -> None:
        with mesh(switch) as (_, runtime):
            async with Client(*which, runtime) as client, client.stream("GET", headers=ASK) as response:
                stream = response.extensions["network_stream"]
                assert await exactly(stream, 7) == b"welcome"
                data = bytes(range(256)) * 16384  # 4 MiB
                if client.is_async:
                    sending = asyncio.create_task(stream.write(data, timeout=60))
                    assert await exactly(stream, len(data)) == data
                    await sending
                else:
                    sending = asyncio.create_task(asyncio.to_thread(stream.write, data, 20))
                    assert await asyncio.to_thread(lambda: asyncio.run(exactly(stream, len(data)))) == data
                    await sending

    run(scenario())


def test_what_was_written_before_the_close_arrives(which: Which) -> None:
    heard: list[int] = []

    async def listen(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH)
        await asyncio.sleep(0.1)  # so that it fills the buffers
        heard.append(len(await peer.reader.read(-1)))

    async def scenario() -> None:
        with mesh(listen) as (server, runtime):
            async with Client(*which, runtime) as client:
                async with client.stream("GET", headers=ASK) as response:
                    stream = response.extensions["network_stream"]
                    if client.is_async:
                        writing = asyncio.create_task(stream.write(b"x" * 2**23))
                        await asyncio.sleep(0)  # written, but not gone
                        await close(stream)
                        with contextlib.suppress(Exception):
                            await writing
                    else:
                        stream.write(b"x" * 2**23)
                        await close(stream)
                await eventually(lambda: server.open == 0)
        assert heard == [2**23]

    run(scenario())


def test_ends_and_timeouts(which: Which) -> None:
    async def quiet(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH)
        await peer.reader.readexactly(1)
        peer.writer.write_eof()
        await peer.reader.readexactly(1)
        peer.reset()

    async def scenario() -> None:
        core = __import__({"httpx": "httpcore", "httpx2": "httpcore2"}[which[0]])
        with mesh(quiet) as (_, runtime):
            async with Client(*which, runtime) as client, client.stream("GET", headers=ASK) as response:
                stream = response.extensions["network_stream"]
                with pytest.raises(core.ReadTimeout):
                    await done(stream.read(10, timeout=0.05))
                await done(stream.write(b"1"))
                assert await done(stream.read(10, timeout=60)) == b""
                await done(stream.write(b"2"))  # half-closed is not closed
                with pytest.raises((core.WriteError, core.WriteTimeout)):
                    for _ in range(2000):
                        await done(stream.write(b"x" * 65536, timeout=60))
                        await asyncio.sleep(0)
                await close(stream)
                with pytest.raises(core.WriteError):
                    await done(stream.write(b"x"))

    run(scenario())


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ({}, SWITCH),
        ({"upgrade": "echo"}, SWITCH),  # without Connection: Upgrade it is no offer
        (ASK, SWITCH.replace(b"upgrade: echo", b"upgrade: other")),
        (ASK, SWITCH.replace(b"upgrade: echo\r\n", b"")),
        (ASK, SWITCH.replace(b"connection: upgrade\r\n", b"")),
        ({"connection": "upgrade", "upgrade": "h2c"}, SWITCH.replace(b"echo", b"h2c")),
    ],
    ids=["unasked", "half asked", "another", "unnamed", "unconnected", "HTTP/2"],
)
def test_only_what_was_offered_is_taken(which: Which, asked: dict[str, str], granted: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await peer.head()
        await peer.send(granted)
        await peer.reader.read()

    async def scenario() -> None:
        with mesh(answer, retry=None) as (_, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get(headers=asked)
                assert (response.status_code, response.headers["x-envoy-response-flags"]) == (503, "UC")

    run(scenario())


def test_a_server_may_ignore_the_offer(which: Which) -> None:
    async def scenario() -> None:
        core = __import__({"httpx": "httpcore", "httpx2": "httpcore2"}[which[0]])
        with mesh(echo) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get(headers=ASK)
                assert response.status_code == 200
                stream = response.extensions["network_stream"]
                # The connection has gone back to the pool: nobody reads, writes or closes what may be another's.
                with pytest.raises(core.ReadError):
                    await done(stream.read(10))
                with pytest.raises(core.WriteError):
                    await done(stream.write(b"x"))
                await close(stream)
                assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
                assert (await client.get()).status_code == 200
            assert server.connections == 1

    run(scenario())


@pytest.mark.parametrize("status", [200, 407])
def test_connect(which: Which, status: int) -> None:
    """To a service that is a proxy; its refusal is a response like any other."""

    async def proxy(peer: Peer) -> None:
        while True:
            line, _ = await peer.head()
            if line.startswith("GET"):
                await peer.ok()
                continue
            if status == 407:
                await peer.send(b"HTTP/1.1 407 No\r\ncontent-length: 4\r\n\r\nsorr")
                continue
            await peer.send(b"HTTP/1.1 200 Fine\r\ncontent-length: 99\r\n\r\nin")
            while data := await peer.reader.read(65536):
                await peer.send(data)
            return

    async def scenario() -> None:
        with mesh(proxy) as (server, runtime):
            async with Client(*which, runtime) as client:
                async with client.stream("CONNECT") as response:
                    assert response.status_code == status
                    stream = response.extensions["network_stream"]
                    if status == 200:
                        assert await exactly(stream, 2) == b"in"
                        await done(stream.write(b"ping"))
                        assert await exactly(stream, 4) == b"ping"
                    else:
                        assert b"".join([chunk async for chunk in client.chunks(response)]) == b"sorr"
                assert (await client.get()).text == "hello"
            assert server.connections == (2 if status == 200 else 1)

    run(scenario())


def test_tls_inside(which: Which, tmp_path: Path) -> None:
    """What a proxy's client does after CONNECT."""
    source = Authority(tmp_path).source("reviews")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def scenario() -> None:
        async def proxy(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH)
            await peer.writer.start_tls(source.server_context(MutualTls.PERMISSIVE))
            while data := await peer.reader.read(65536):
                await peer.send(data)

        with mesh(proxy) as (_, runtime):
            async with Client(*which, runtime) as client, client.stream("GET", headers=ASK) as response:
                outer = response.extensions["network_stream"]
                inner = await done(outer.start_tls(context, "reviews", timeout=60))
                assert inner.get_extra_info("ssl_object").version() == "TLSv1.3"
                await done(inner.write(b"secret"))
                assert await exactly(inner, 6) == b"secret"
                await close(inner)

    run(scenario())


def test_cancelled_while_the_server_decides(which: Which) -> None:
    async def hesitate(peer: Peer) -> None:
        line, _ = await peer.head()
        while "/good" in line:
            await peer.ok()
            line, _ = await peer.head()
        await peer.reader.read()

    async def scenario() -> None:
        with Server(hesitate) as server:
            runtime = FakeRuntime(snapshot(cluster(server.port)))
            async with Client(*which, runtime) as client:
                with pytest.raises(client.module.ReadTimeout):
                    await client.get(headers=ASK, timeout=0.1)
                await eventually(lambda: server.open == 0)
                assert (await client.get(f"{URL}good")).text == "hello"

    run(scenario())

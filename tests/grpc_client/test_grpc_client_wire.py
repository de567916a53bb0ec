"""What servers do to our own HTTP/2 connections, over real sockets: the right status, and never a wait."""

import asyncio
import contextlib
import gzip
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import uvloop
from free_ports import free_port
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, forward, retrying, world
from wire_server import GOAWAY, HEAD, HEADERS, OK, RST_STREAM, Peer, Script, WireServer

from proxyless.model.cluster import ConnectionOptions, TcpKeepalive
from proxyless.transport import stall
from proxyless.transport.grpc_client import AioMeshChannel

Start = Callable[..., Backend]
Code = grpc.StatusCode
HTML = (":status", "502"), ("content-type", "text/html")


def gone(peer: Peer, _: int) -> None:
    peer.writer.transport.abort()


def headed(*steps: Callable[[Peer, int], None], lines: tuple[tuple[str, str], ...] = ()) -> Script:
    def script(peer: Peer, stream: int) -> None:
        peer.head(stream, *lines)
        for step in steps:
            step(peer, stream)

    return script


def encoded(name: str) -> tuple[tuple[str, str], ...]:
    return (":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", name)


def message(payload: bytes = b"answer", flag: int = 0, *, end: bool = False) -> Callable[[Peer, int], None]:
    return lambda peer, stream: peer.message(stream, payload, flag=flag, end=end)


def trailers(*lines: tuple[str, str]) -> Callable[[Peer, int], None]:
    return lambda peer, stream: peer.head(stream, *(lines or OK), end=True)


def reset(code: int) -> Callable[[Peer, int], None]:
    return lambda peer, stream: peer.reset(stream, code)


def html(peer: Peer, stream: int) -> None:
    peer.head(stream, *HTML)
    peer.data(stream, b"<html>bad gateway</html>", end=True)


def raw(kind: int, flags: int, payload: bytes) -> Callable[[Peer, int], None]:
    return lambda peer, stream: peer.frame(kind, flags, stream, payload)


def goaway(peer: Peer, stream: int) -> None:
    peer.goaway(stream)


def leaving(peer: Peer, stream: int) -> None:
    goaway(peer, stream)
    peer.answer(stream)


def interim(peer: Peer, stream: int) -> None:
    peer.head(stream, (":status", "103"), ("link", "x"))
    peer.answer(stream)


OKAY = Code.OK, ""
BOMB, HALF = gzip.compress(bytes(10**6)), gzip.compress(b"x" * 50)[:-9]
LARGE = "CLIENT: Received message larger than max (101 vs. 100)"
ENDLESS = (":status", "200"), *((f"x-{number}", "y" * 4000) for number in range(15)), ("z", "y" * 9000)
# By name: what the server does, what a unary call ends with.
ANSWERS: dict[str, tuple[Script, grpc.StatusCode, str]] = {
    "an answer": (lambda peer, stream: peer.answer(stream), *OKAY),
    "GOAWAY and an answer": (leaving, *OKAY),
    "an interim head": (interim, *OKAY),
    "compressed": (headed(message(gzip.compress(b"answer"), 1), trailers(), lines=encoded("gzip")), *OKAY),
    "trailers only": (trailers(*HEAD, ("grpc-status", "5"), ("grpc-message", "n%C3%B6")), Code.NOT_FOUND, "nö"),
    "a head, then a status": (headed(trailers(("grpc-status", "9"))), Code.FAILED_PRECONDITION, ""),
    "a number that is none": (headed(trailers(("grpc-status", "abc"))), Code.UNKNOWN, ""),
    "a status of the future": (headed(trailers(("grpc-status", "77"))), Code.UNKNOWN, ""),
    "no status": (headed(message(end=True)), Code.UNKNOWN, "No status received"),
    "trailers without a status": (headed(message(), trailers(("x-y", "z"))), Code.UNKNOWN, "No status received"),
    "a head that is the end": (trailers((":status", "200")), Code.UNKNOWN, "No status received"),
    "HTTP's 502": (html, Code.UNAVAILABLE, "502"),
    "HTTP's 502, no body": (trailers(*HTML), Code.UNAVAILABLE, "502"),
    "HTTP's 404": (trailers((":status", "404")), Code.UNIMPLEMENTED, "404"),
    "HTTP's 401": (trailers((":status", "401")), Code.UNAUTHENTICATED, "401"),
    "HTTP's 418": (trailers((":status", "418")), Code.UNKNOWN, "418"),
    "a status beside HTTP's": (trailers((":status", "503"), ("grpc-status", "8")), Code.RESOURCE_EXHAUSTED, ""),
    "a web page": (headed(lines=((":status", "200"), ("content-type", "text/html"))), Code.UNKNOWN, "text/html"),
    "gone after the head": (headed(gone), Code.UNAVAILABLE, ""),
    "gone after the message": (headed(message(), gone), Code.UNAVAILABLE, ""),
    "GOAWAY for all": (lambda peer, stream: peer.goaway(0), Code.UNAVAILABLE, "has not processed"),
    "GOAWAY and a reset": (headed(message(), goaway, reset(8)), Code.CANCELLED, "code 8"),
    "refused": (reset(7), Code.UNAVAILABLE, "REFUSED_STREAM"),
    "reset": (reset(2), Code.UNAVAILABLE, ""),
    "reset: calm": (reset(11), Code.RESOURCE_EXHAUSTED, "11"),
    "reset: insecure": (reset(12), Code.PERMISSION_DENIED, "12"),
    "reset after the head": (headed(reset(2)), Code.UNAVAILABLE, ""),
    "reset after the message": (headed(message(), reset(2)), Code.INTERNAL, "error code 2"),
    "cancelled after the message": (headed(message(), reset(8)), Code.CANCELLED, "error code 8"),
    "refused after the message": (headed(message(), reset(7)), Code.UNAVAILABLE, ""),
    "too large": (headed(message(b"x" * 101)), Code.RESOURCE_EXHAUSTED, LARGE),
    "announced too large": (headed(raw(0, 0, b"\0\xff\xff\xff\xff")), Code.RESOURCE_EXHAUSTED, "larger than max"),
    "a bomb": (headed(message(BOMB, 1), lines=encoded("gzip")), Code.RESOURCE_EXHAUSTED, "larger"),
    "compressed garbage": (headed(message(b"garbage", 1), lines=encoded("gzip")), Code.INTERNAL, "decompressed"),
    "half compressed": (headed(message(HALF, 1), lines=encoded("gzip")), Code.INTERNAL, "cut off"),
    "compressed somehow": (headed(message(b"x", 1), lines=encoded("snappy")), Code.UNIMPLEMENTED, ""),
    "compressed without a word": (headed(message(b"x", 1)), Code.INTERNAL, "names no compression"),
    "flags that do not exist": (headed(message(b"x", 2)), Code.INTERNAL, "flags"),
    "half a message": (headed(raw(0, 0, b"\0\0\0\0\5ab"), trailers()), Code.INTERNAL, "cut off"),
    "no message": (headed(trailers()), Code.INTERNAL, "no response"),
    "two messages": (headed(message(), message(), trailers()), Code.INTERNAL, "more than one response"),
    "data before the head": (message(), Code.UNAVAILABLE, ""),
    "a head amid messages": (headed(message(), headed()), Code.INTERNAL, "malformed"),
    "no header block": (raw(HEADERS, 4, b"\xff\xff\xff\xff\xff"), Code.UNAVAILABLE, ""),
    "an endless head": (headed(lines=ENDLESS), Code.RESOURCE_EXHAUSTED, "header list"),
    "a push": (raw(5, 4, b"\0\0\0\2"), Code.UNAVAILABLE, ""),
    "a stream that never was": (lambda peer, stream: peer.data(stream + 2, b"x"), Code.UNAVAILABLE, ""),
    "a window too large": (raw(8, 0, b"\x7f\xff\xff\xff"), Code.UNAVAILABLE, ""),
    "no frame": (lambda peer, _: peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Code.UNAVAILABLE, ""),
}  # fmt: skip


def runtime_of(port: int, **settings: Any) -> FakeRuntime:
    return FakeRuntime(world([cluster(port, **settings)]))


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    code = await asyncio.wait_for(call.code(), PATIENCE)
    return code, await call.details()


def left(channel: AioMeshChannel) -> list[int]:
    """Streams, calls that wait, calls that are counted."""
    channels = channel.pool.channels()
    return [
        sum(len(connection.streams) for one in channels for connection in one._all),
        sum(len(one._waiting) for one in channels),
        sum(one.calls for one in channel.pool._open.values()),
    ]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    script, code, details = ANSWERS[name]

    async def scenario() -> None:
        async with WireServer(script) as server, AioMeshChannel(runtime_of(server.port), TARGET, options) as channel:
            call: Any = channel.unary_unary("/test.Echo/Unary")(b"x")
            found, text = await ended(call)
            assert found is code and details in text, (found, text)
            assert left(channel) == [0, 0, 0]
            if code is Code.OK:
                assert await call == b"answer"
            # As a stream: the same, or the messages that came, then an error.
            stream: Any = channel.unary_stream("/test.Echo/Unary")(b"x")
            with_code = []
            try:
                with_code = [one async for one in stream]
            except grpc.RpcError:
                assert code is not Code.OK
            assert (code is Code.OK) <= (with_code == [b"answer"])
            await ended(stream)
            assert left(channel) == [0, 0, 0]

    options = (("grpc.max_receive_message_length", 100),)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize("first", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\6\0\0\0\0\0"])
def test_what_is_no_server(first: bytes | None) -> None:
    """Nobody listens; somebody who says nothing; something that is no HTTP/2."""

    async def scenario() -> None:
        async with WireServer(gone, first=first) as server:
            port = server.port if first is not None else free_port()
            runtime = runtime_of(port, connect_timeout=0.2 if first == b"" else 30.0)
            async with AioMeshChannel(runtime, TARGET) as channel:
                for _ in range(2):
                    code, details = await ended(channel.unary_unary("/test.Echo/Unary")(b"x"))
                    assert code is Code.UNAVAILABLE and "connect" in details
                assert left(channel) == [0, 0, 0]
                assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize("how", ["reset", "goaway"])
def test_what_a_server_did_not_process_is_sent_again(how: str) -> None:
    """Once, also without a retry policy (gRFC A6)."""

    def script(peer: Peer, stream: int) -> None:
        if server.requests > 1:
            peer.answer(stream)
        elif how == "reset":
            peer.reset(stream, 7)
        else:
            peer.goaway(0)

    async def scenario() -> None:
        async with server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE) == b"answer"
            assert (server.requests, len(server.peers)) == (2, 1 if how == "reset" else 2)

    server = WireServer(script)
    asyncio.run(scenario())


def test_a_deadline_and_a_cancellation_reset_the_stream() -> None:
    async def scenario() -> None:
        async with server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            await channel.channel_ready()
            code, _ = await ended(channel.unary_unary("/test.Echo/Unary")(b"x", timeout=0.2))
            assert code is Code.DEADLINE_EXCEEDED
            call: Any = channel.unary_unary("/test.Echo/Unary")(b"x")
            while server.requests < 2:
                await asyncio.sleep(0.001)
            assert call.cancel()
            (peer,) = server.peers
            while [frame[0] for frame in peer.got].count(RST_STREAM) < 2:
                await asyncio.sleep(0.001)
            resets = [frame for frame in peer.got if frame[0] == RST_STREAM]
            assert [(stream, payload) for _, _, stream, payload in resets] == [(1, b"\0\0\0\x08"), (3, b"\0\0\0\x08")]

    server = WireServer(lambda peer, stream: None)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_calls_wait_for_the_peers_limit_of_streams() -> None:
    async def script(peer: Peer, stream: int) -> None:
        open_now.add(stream)
        most.append(len(open_now))
        await asyncio.sleep(0.001)
        open_now.discard(stream)
        peer.answer(stream)

    async def scenario() -> None:
        async with server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            method: Any = channel.unary_unary("/test.Echo/Unary")
            calls = [method(b"x", timeout=PATIENCE) for _ in range(20)]
            calls[10].cancel()
            found = await asyncio.gather(*(asyncio.ensure_future(_of(call)) for call in calls), return_exceptions=True)
            assert found.count(b"answer") == 19 and len(server.peers) == 1 and max(most) == 2
            assert left(channel) == [0, 0, 0]

    open_now: set[int] = set()
    most: list[int] = []
    server = WireServer(script, settings=b"\0\3\0\0\0\2")
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


async def _of(call: Any) -> Any:
    return await call


def test_a_further_connection_where_the_cluster_limits_streams() -> None:
    async def script(peer: Peer, stream: int) -> None:
        open_now[peer] = open_now.get(peer, 0) + 1
        most.append(open_now[peer])
        await go.wait()
        open_now[peer] -= 1
        peer.answer(stream)

    async def scenario() -> None:
        async with server, AioMeshChannel(runtime, TARGET) as channel:
            runtime.world = runtime_of(server.port, connection_options=ConnectionOptions(max_streams=2)).world
            method: Any = channel.unary_unary("/test.Echo/Unary")
            calls = [asyncio.ensure_future(_of(method(b"x", timeout=PATIENCE))) for _ in range(5)]
            while server.requests < 5:
                await asyncio.sleep(0.001)
            go.set()
            assert await asyncio.gather(*calls) == [b"answer"] * 5
            assert (len(server.peers), max(most)) == (3, 2)
            # The rule is gone: so are the connections that it made.
            runtime.world = runtime_of(server.port).world
            assert await method(b"x", timeout=PATIENCE) == b"answer"
            assert len(channel.pool.channels()) == 1 and len(server.peers) == 4

    go = asyncio.Event()
    open_now: dict[Peer, int] = {}
    most: list[int] = []
    runtime, server = runtime_of(1), WireServer(script)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_an_old_connection_takes_no_more_calls() -> None:
    """Those it has go on."""

    async def script(peer: Peer, stream: int) -> None:
        if len(server.peers) == 1:
            await go.wait()
        peer.answer(stream)

    async def scenario() -> None:
        options = ConnectionOptions(TcpKeepalive(3, 60, 5), max_duration=0.1)
        async with server, AioMeshChannel(runtime_of(server.port, connection_options=options), TARGET) as channel:
            method: Any = channel.unary_unary("/test.Echo/Unary")
            first = asyncio.ensure_future(_of(method(b"x", timeout=PATIENCE)))
            while not server.requests:
                await asyncio.sleep(0.001)
            (connection,) = channel.pool.channels()[0]._all
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            while not connection.draining:
                await asyncio.sleep(0.001)
            assert await method(b"x", timeout=PATIENCE) == b"answer"
            assert len(server.peers) > 1 and not first.done()
            go.set()
            assert await first == b"answer"
            while not connection.over:
                await asyncio.sleep(0.001)

    go, server = asyncio.Event(), WireServer(script)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_nobody_reads_more_than_a_window() -> None:
    """A server may send what the window allows; it gets room as messages are taken."""

    def script(peer: Peer, stream: int) -> None:
        peer.head(stream)
        for number in range(60):
            peer.message(stream, bytes([number]) * 16_000)

    async def scenario() -> None:
        async with WireServer(script) as server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            call: Any = channel.unary_stream("/test.Echo/Many")(b"x")
            assert await call.read() == bytes(16_000)
            (connection,) = channel.pool.channels()[0]._all
            (stream,) = connection.streams.values()
            held = stream.receivable
            for number in range(1, 60):
                assert await call.read() == bytes([number]) * 16_000
            assert held < 2**20 and stream.receivable > held
            call.cancel()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


PACKED = struct.pack(">BL", 1, len(BOMB)) + BOMB


@pytest.mark.parametrize(
    "last", [PACKED, struct.pack(">BL", 1, len(HALF)) + HALF, PACKED[:-1]], ids=["whole", "half of its gzip", "cut off"]
)
def test_what_nobody_reads_stays_compressed(last: bytes) -> None:
    def script(peer: Peer, stream: int) -> None:
        peer.head(stream, *encoded("gzip"))
        peer.data(stream, PACKED * 3 + last)  # one frame
        peer.head(stream, *OK, end=True)

    async def scenario() -> None:
        async with WireServer(script) as server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            call: Any = channel.unary_stream("/test.Echo/Many")(b"x")
            assert await call.read() == bytes(10**6)
            attempt = call._rpc._attempt
            assert [len(one) for one in attempt._found] == [len(BOMB)] * 2 + [len(last) - 5] * (last != PACKED[:-1])
            assert not call.done()
            for _ in range(2):
                assert await call.read() == bytes(10**6)
            if last == PACKED:
                assert await call.read() == bytes(10**6)
                assert await call.code() is Code.OK
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="cut off"):
                    await call.read()
                assert await call.code() is Code.INTERNAL

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_who_writes_waits_for_the_socket() -> None:
    """The server's windows are as large as there are; it reads nothing."""

    async def scenario() -> None:
        async with server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            server.reads.clear()
            call: Any = channel.stream_unary("/test.Echo/Join")()
            written = 0

            async def write() -> None:
                nonlocal written
                for _ in range(64):
                    await call.write(bytes(1 << 20))
                    written += 1
                await call.done_writing()

            writing = asyncio.ensure_future(write())
            while not (all_of := channel.pool.channels()) or not any(one.paused for one in all_of[0]._all):
                await asyncio.sleep(0.001)
            assert written < 64
            server.reads.set()
            await writing
            assert await call == b"answer"

    settings = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\x7f\xff\xff\xff"
    window = b"\0\0\4\x08\0\0\0\0\0" + (2**31 - 1 - 65_535).to_bytes(4, "big")
    server = WireServer(lambda peer, stream: peer.answer(stream), first=settings + window)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["finish", "fault", "eof"])
def test_who_does_not_read_the_end_is_let_go(
    new_loop: Callable[[], asyncio.AbstractEventLoop], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with server, AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            server.reads.clear()
            call: Any = channel.stream_unary("/test.Echo/Join")()
            writing = asyncio.ensure_future(call.write(bytes(64 << 20)))  # more than the kernel takes
            while not (all_of := channel.pool.channels()) or not any(one.paused for one in all_of[0]._all):
                await asyncio.sleep(0.001)
            (connection,) = all_of[0]._all
            transport = connection._transport
            assert transport is not None
            lost = asyncio.Event()
            monkeypatch.setattr(connection, "resume_writing", lost.set)  # the last that it is told
            monkeypatch.setattr(stall, "STALL_TIMEOUT", 0.2)
            if how == "finish":
                connection.finish()
            elif how == "fault":
                server.peers[0].frame(RST_STREAM, 0, 0, bytes(4))
            else:
                server.peers[0].writer.write_eof()
            await lost.wait()
            assert connection._stall._timer is None
            with contextlib.suppress(asyncio.InvalidStateError, grpc.RpcError):
                await writing

    settings = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\x7f\xff\xff\xff"
    window = b"\0\0\4\x08\0\0\0\0\0" + (2**31 - 1 - 65_535).to_bytes(4, "big")
    server = WireServer(lambda peer, stream: peer.answer(stream), first=settings + window)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), PATIENCE))


def test_pings_that_a_server_does_not_like_come_less_often() -> None:
    """gRFC A8."""

    def script(peer: Peer, stream: int) -> None:
        peer.answer(stream)
        peer.goaway(stream, 11)

    async def scenario() -> None:
        options = (("grpc.keepalive_time_ms", 10_000),)
        async with WireServer(script) as server, AioMeshChannel(runtime_of(server.port), TARGET, options) as channel:
            for number in range(1, 4):
                assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE) == b"answer"
                (one,) = channel.pool.channels()
                while one._usable:
                    await asyncio.sleep(0.001)
                assert one._options.keepalive == 10.0 * 2**number

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_random_cancellation_leaves_nothing(backend: Start) -> None:
    rng = random.Random(7)

    async def one(channel: AioMeshChannel) -> None:
        kind = rng.choice(("unary", "sleep", "stream", "ping", "upload"))
        if kind == "ping":
            call: Any = channel.stream_stream("/test.Echo/Ping")()
        elif kind == "upload":
            call = channel.stream_unary("/test.Echo/Join")()
        elif kind == "stream":
            call = channel.unary_stream("/test.Echo/Many")(b"20")
        else:
            call = channel.unary_unary("/test.Echo/Unary" if kind == "unary" else "/test.Echo/Sleep")(b"x" * 1000)
        task = asyncio.ensure_future(_work(kind, call))
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.005, 0.02)))
        rng.choice((task.cancel, call.cancel))()
        await asyncio.gather(task, return_exceptions=True)
        call.cancel()

    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(backend().port), TARGET) as channel:
            await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE)
            before = len(asyncio.all_tasks())
            for _ in range(8):
                await asyncio.gather(*(one(channel) for _ in range(25)))
            async with asyncio.timeout(PATIENCE):
                while left(channel) != [0, 0, 0] or len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.01)
            assert await channel.unary_unary("/test.Echo/Unary")(b"y", timeout=PATIENCE) == b"y"

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


async def _work(kind: str, call: Any) -> None:
    if kind in {"unary", "sleep"}:
        await call
    elif kind == "stream":
        async for _ in call:
            pass
    else:
        for _ in range(5):
            await call.write(b"x" * 1000)
            if kind == "ping":
                await call.read()


@pytest.mark.parametrize(
    ("sent", "code", "details"),
    [
        ((("x y", "a"),), Code.INTERNAL, "Invalid metadata"),
        ((("x-y", "a\n"),), Code.INTERNAL, "Invalid metadata"),
        ((("x-y", "ü"),), Code.INTERNAL, "Invalid metadata"),
        (((":x", "a"),), Code.INTERNAL, "Invalid metadata"),
        ((("x-y", 5),), Code.INTERNAL, "Expected str"),
    ],
)
def test_metadata_that_is_none(backend: Start, sent: Any, code: grpc.StatusCode, details: str) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime_of(server.port), TARGET) as channel:
            for call in (
                channel.unary_unary("/test.Echo/Unary")(b"x", metadata=sent),
                channel.unary_stream("/test.Echo/Many")(b"1", metadata=sent),
            ):
                found, text = await ended(call)
                assert found is code and details in text
            assert left(channel) == [0, 0, 0] and not server.calls

    server = backend()
    asyncio.run(scenario())


def test_a_message_that_is_too_large_to_send(backend: Start) -> None:
    async def scenario() -> None:
        options = (("grpc.max_send_message_length", 10),)
        async with AioMeshChannel(runtime_of(server.port), TARGET, options) as channel:
            found = await ended(channel.unary_unary("/test.Echo/Unary")(b"x" * 11))
            assert found == (Code.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (11 vs. 10)")
            call: Any = channel.stream_stream("/test.Echo/Ping")()
            await call.write(b"x" * 10)
            assert await call.read() == b"x" * 10
            with pytest.raises((grpc.RpcError, asyncio.InvalidStateError)):
                await call.write(b"x" * 11)
                await call.read()
            assert (await ended(call))[0] is Code.RESOURCE_EXHAUSTED

    server = backend()
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_an_endpoint_that_comes_back(backend: Start) -> None:
    """Connected to again by itself, and by who waits for it."""

    async def scenario() -> None:
        port = free_port()
        runtime = FakeRuntime(world([cluster(port)], forward("ratings", retry=retrying("connect-failure"))))
        async with AioMeshChannel(runtime, TARGET) as channel:
            method: Any = channel.unary_unary("/test.Echo/Unary")
            assert (await ended(method(b"x")))[0] is Code.UNAVAILABLE
            waiting = method(b"x", wait_for_ready=True, timeout=PATIENCE)
            async with WireServer(lambda peer, stream: peer.answer(stream), port=port):
                assert await waiting == b"answer"
            async with asyncio.timeout(PATIENCE):
                while channel.get_state() is grpc.ChannelConnectivity.READY:
                    await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_a_closed_channel_says_goodbye() -> None:
    async def scenario() -> None:
        async with WireServer(lambda peer, stream: peer.answer(stream)) as server:
            async with AioMeshChannel(runtime_of(server.port), TARGET) as channel:
                await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=PATIENCE)
            (peer,) = server.peers
            while not any(frame[0] == GOAWAY for frame in peer.got):
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))

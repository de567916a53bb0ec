"""Bytes through our TLS transport: all, in order, no faster than they are taken, whatever the application does."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from inbound_support import Authority
from tls_transport_support import ENDS, Contexts, Echo, Recorder, World, bytes_of, connected, play

from proxyless.transport import tls_transport
from proxyless.transport.tls_handshake import secure
from proxyless.transport.tls_transport import TlsTransport

every_end = pytest.mark.parametrize("end", ENDS, ids="-".join)
RECORD = 16384


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return Contexts.of(Authority())


# Reading and writing


@every_end
@pytest.mark.parametrize("size", [1, 100, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD, 100_000, 2_000_000])
def test_echo(end: tuple[str, str], contexts: Contexts, size: int) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(Echo) as (_, protocol, peer):
            for _ in range(2):
                _, answer = await asyncio.gather(peer.send(bytes_of(size)), peer.read_exactly(size))
                assert answer == bytes_of(size)
            assert bytes(protocol.data) == bytes_of(size) * 2

    play(end, contexts, scenario)


@every_end
def test_who_is_not_read_does_not_read(end: tuple[str, str], contexts: Contexts) -> None:
    size = 3_000_000

    async def scenario(world: World) -> None:
        async with world.pair(Echo, buffer=16384) as (transport, protocol, peer):
            sending = asyncio.ensure_future(peer.send(bytes_of(size)))
            await protocol.until(lambda: "paused" in protocol.events)
            assert not transport.is_reading()
            assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
            held = len(protocol.data)
            assert held < size
            assert await peer.read_exactly(size) == bytes_of(size)
            await sending
            assert protocol.events.count("paused") == protocol.events.count("resumed")
            assert transport.is_reading()
            assert transport.get_write_buffer_size() == 0

    play(end, contexts, scenario)


@every_end
def test_small_writes_keep_their_order(end: tuple[str, str], contexts: Contexts) -> None:
    """Nobody reads at first: most of them wait, and are sent later."""
    writes = [bytes_of(1 + number * 7 % 900) for number in range(2000)]

    async def scenario(world: World) -> None:
        async with world.pair(buffer=8192) as (transport, protocol, peer):
            for number, data in enumerate(writes):
                mutable = bytearray(data)
                kind: Callable[[bytearray], Any] = (bytes, bytearray, memoryview)[number % 3]
                written = kind(mutable)
                transport.write(written)
                if isinstance(written, memoryview):
                    written.release()
                mutable[:] = b"!" * len(mutable)  # its owner does with it what he likes
                transport.write(b"")
            assert transport.get_write_buffer_size() > 0
            assert protocol.events == ["made", "paused"]
            transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            transport.writelines(iter([b"d"]))
            assert await peer.read_exactly(sum(map(len, writes)) + 4) == b"".join(writes) + b"abcd"
            await protocol.until(lambda: protocol.events[-1] == "resumed")

    play(end, contexts, scenario)


@every_end
def test_what_is_not_bytes_is_refused(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(buffer=8192) as (transport, _, peer):
            for waits in (b"", bytes_of(500_000)):
                transport.write(waits)
                for wrong in ("text", 7, [b"x"]):
                    with pytest.raises(TypeError):
                        transport.write(wrong)  # type: ignore[arg-type]
            assert await peer.read_exactly(500_000) == bytes_of(500_000)

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (16384, 65536)),
        ({"high": 100}, (25, 100)),
        ({"low": 100}, (100, 400)),
        ({"high": 0}, (0, 0)),
        ({"high": 5, "low": 5}, (5, 5)),
    ],
)
def test_marks(end: tuple[str, str], contexts: Contexts, limits: dict[str, int], expected: tuple[int, int]) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(buffer=8192) as (transport, protocol, peer):
            transport.set_write_buffer_limits(**limits)
            assert transport.get_write_buffer_limits() == expected
            with pytest.raises(ValueError, match="low"):
                transport.set_write_buffer_limits(high=1, low=2)
            written = 0
            while "paused" not in protocol.events:
                assert transport.get_write_buffer_size() <= expected[1]
                transport.write(b"x" * 1000)
                written += 1000
            assert transport.get_write_buffer_size() > expected[1]
            await peer.read_exactly(written)
            await protocol.until(lambda: "resumed" in protocol.events)

    play(end, contexts, scenario)


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    return (data[place : place + 1] for place in range(len(data)))


def odd_pieces(data: bytes) -> Iterator[bytes]:
    place, size = 0, 1
    while place < len(data):
        yield data[place : place + size]
        place, size = place + size, size * 3 % 4099 + 1


@every_end
@pytest.mark.parametrize(("cut", "size"), [(byte_by_byte, 700), (odd_pieces, 200_000)])
def test_fragments(
    end: tuple[str, str], contexts: Contexts, cut: Callable[[bytes], Iterable[bytes]], size: int
) -> None:
    """Also of the handshake."""

    async def scenario(world: World) -> None:
        async with world.pair(Echo, cut=cut) as (_, _, peer):
            _, answer = await asyncio.gather(peer.send(bytes_of(size)), peer.read_exactly(size))
            assert answer == bytes_of(size)

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize("limit", [RECORD, 3 * RECORD + 1])
def test_paused_after_every_piece(
    end: tuple[str, str], contexts: Contexts, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left in the kernel, or beyond what is read in one turn, comes when reading goes on."""
    monkeypatch.setattr(tls_transport, "_TURN", limit)

    def pause(protocol: Recorder) -> None:
        protocol.transport.pause_reading()
        protocol.transport.pause_reading()
        asyncio.get_running_loop().call_soon(protocol.transport.resume_reading)

    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(data=pause)) as (_, protocol, peer):
            sending = asyncio.ensure_future(peer.send(bytes_of(600_000)))
            await protocol.until(lambda: len(protocol.data) == 600_000)
            await sending
            assert bytes(protocol.data) == bytes_of(600_000)
            assert protocol.events.count("data") >= 600_000 // (limit + RECORD)

    play(end, contexts, scenario)


@every_end
def test_paused_from_the_beginning(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(made=lambda it: it.transport.pause_reading())) as (it, protocol, peer):
            assert not it.is_reading()
            await peer.send(b"hello")
            for _ in range(20):
                await asyncio.sleep(0)
            assert not protocol.data
            it.resume_reading()
            await protocol.until(lambda: protocol.data == b"hello")

    play(end, contexts, scenario)


# An application that acts within data_received


def _again(protocol: Recorder) -> None:
    second = Recorder()
    protocol.second = second  # type: ignore[attr-defined]
    second.transport = protocol.transport
    protocol.transport.set_protocol(second)


@every_end
@pytest.mark.parametrize(
    ("act", "answer"),
    [
        (lambda it: it.transport.close(), b""),
        (lambda it: (it.transport.close(), it.transport.close(), it.transport.write(b"late")), b""),
        (lambda it: (it.transport.write(b"bye"), it.transport.close()), b"bye"),
        (lambda it: (it.transport.write(bytes_of(900_000)), it.transport.close()), bytes_of(900_000)),
        (lambda it: (it.transport.pause_reading(), it.transport.close(), it.transport.resume_reading()), b""),
    ],
)
def test_closed_by_the_application(
    end: tuple[str, str], contexts: Contexts, act: Callable[[Recorder], object], answer: bytes
) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(data=act), buffer=16384) as (transport, protocol, peer):
            await peer.send(b"hello")
            assert await peer.read_to_the_end() == answer
            assert transport.is_closing() and not transport.is_reading()
            await peer.leave()
            assert await protocol.until_lost() is None
            assert bytes(protocol.data) == b"hello"

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize(
    "act",
    [
        lambda it: it.transport.abort(),
        lambda it: (it.transport.abort(), it.transport.abort(), it.transport.close()),
        lambda it: (it.transport.close(), it.transport.abort()),
        lambda it: (it.transport.write(bytes_of(900_000)), it.transport.abort(), it.transport.write(b"late")),
        lambda it: (it.transport.write(bytes_of(900_000)), it.transport.close(), it.transport.abort()),
    ],
)
def test_aborted_by_the_application(
    end: tuple[str, str], contexts: Contexts, act: Callable[[Recorder], object]
) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(data=act), buffer=16384) as (transport, protocol, peer):
            await peer.send(b"hello")
            assert await protocol.until_lost() is None
            assert protocol.events[-1] == "lost" and "resumed" not in protocol.events
            assert transport.get_write_buffer_size() == 0
            for use in (transport.close, transport.abort, transport.pause_reading, transport.resume_reading):
                use()
            transport.write(b"nobody")

    play(end, contexts, scenario)


@every_end
def test_another_protocol(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(data=_again)) as (transport, first, peer):
            await peer.send(b"one")
            await first.until(lambda: first.data)
            second = first.second
            assert transport.get_protocol() is second
            await peer.send(b"two")
            await second.until(lambda: second.data)
            assert (bytes(first.data), bytes(second.data)) == (b"one", b"two")
            await peer.send_raw(peer.say_goodbye())
            assert await second.until_lost() is None
            assert first.events == ["made", "data"]
            assert second.events == ["data", "eof", "lost"]

    play(end, contexts, scenario)


def _fail(_: Recorder) -> None:
    raise LookupError("a bug")


@every_end
@pytest.mark.parametrize("at", ["data", "eof"])
def test_a_protocol_that_fails_at_what_it_reads(end: tuple[str, str], contexts: Contexts, at: str) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(**{at: _fail})) as (_, protocol, peer):
            await peer.send_raw(peer.sealed(b"hello") + (peer.say_goodbye() if at == "eof" else b""))
            assert isinstance(await protocol.until_lost(), LookupError)

    play(end, contexts, scenario, complaints=["LookupError"])


@every_end
@pytest.mark.parametrize("at", ["paused", "resumed"])
def test_a_protocol_that_fails_at_being_paused(end: tuple[str, str], contexts: Contexts, at: str) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(**{at: _fail}), buffer=16384) as (transport, protocol, peer):
            transport.write(bytes_of(900_000))
            transport.close()
            assert await peer.read_to_the_end() == bytes_of(900_000)
            await peer.leave()
            assert await protocol.until_lost() is None

    play(end, contexts, scenario, complaints=["LookupError"])


@every_end
def test_writes_more_when_it_is_resumed(end: tuple[str, str], contexts: Contexts) -> None:
    def more(protocol: Recorder) -> None:
        if protocol.events.count("resumed") < 4:
            protocol.transport.write(bytes_of(600_000))
        else:
            protocol.transport.close()

    async def scenario(world: World) -> None:
        async with world.pair(lambda: Recorder(resumed=more), buffer=16384) as (transport, _, peer):
            transport.write(bytes_of(600_000))
            assert await peer.read_to_the_end() == bytes_of(600_000) * 4

    play(end, contexts, scenario)


# Other kinds of protocol


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.recorder = Recorder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.recorder.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        assert sizehint > 0
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.recorder.data_received(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> None:
        self.recorder.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.recorder.connection_lost(exc)


@every_end
@pytest.mark.parametrize("size", [7, RECORD, 1_000_000])
def test_buffered_protocols(end: tuple[str, str], contexts: Contexts, size: int) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Buffered(size)) as (_, protocol, peer):
            recorder = protocol.recorder
            sending = asyncio.ensure_future(peer.send(bytes_of(40_000)))
            await recorder.until(lambda: len(recorder.data) == 40_000)
            await sending
            assert bytes(recorder.data) == bytes_of(40_000)
            await peer.send_raw(peer.say_goodbye())
            assert await recorder.until_lost() is None

    play(end, contexts, scenario)


@every_end
def test_a_buffer_without_room(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(lambda: Buffered(0)) as (_, protocol, peer):
            await peer.send(b"hello")
            assert isinstance(await protocol.recorder.until_lost(), RuntimeError)

    play(end, contexts, scenario, complaints=["RuntimeError"])


@every_end
def test_streams(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1000)
        async with world.pair(lambda: asyncio.StreamReaderProtocol(reader)) as (transport, protocol, peer):
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            sending = asyncio.ensure_future(peer.send(bytes_of(300_000)))
            assert await reader.readexactly(300_000) == bytes_of(300_000)
            await sending

            async def write() -> None:
                for _ in range(30):
                    writer.write(bytes_of(30_000))
                    await writer.drain()
                assert not writer.can_write_eof()
                writer.close()

            _, answer = await asyncio.gather(write(), peer.read_to_the_end())
            assert answer == bytes_of(30_000) * 30
            await peer.leave()
            await writer.wait_closed()

    play(end, contexts, scenario)


def test_tls_within_tls(contexts: Contexts) -> None:
    """Both ends are ours outside, and asyncio's inside."""

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        left, right = await connected(16384)
        (outer, _), (other, _) = await asyncio.gather(
            secure(loop, left, contexts.client, Recorder),
            secure(loop, right, contexts.server, Recorder, server_side=True),
        )
        echo, inside = Echo(), Recorder()
        served, transport = await asyncio.gather(
            loop.start_tls(other, echo, contexts.server, server_side=True),
            loop.start_tls(outer, inside, contexts.client),
        )
        assert served is not None and transport is not None
        echo.transport, inside.transport = served, transport
        transport.write(bytes_of(900_000))
        await inside.until(lambda: len(inside.data) == 900_000)
        assert bytes(inside.data) == bytes_of(900_000)
        transport.close()
        assert await inside.until_lost() is None
        assert await echo.until_lost() is None
        assert outer.is_closing() and other.is_closing()

    play(("asyncio", "client"), contexts, scenario)


def test_a_loop_that_watches_no_descriptors(contexts: Contexts) -> None:
    """A client there has the TLS of its loop."""

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        left, right = await connected()
        (client, inside), (server, _) = await asyncio.gather(
            secure(loop, left, contexts.client, Recorder),
            secure(loop, right, contexts.server, Echo, server_side=True),
        )
        assert not isinstance(client, TlsTransport) and isinstance(server, TlsTransport)
        assert client.get_extra_info("ssl_object").getpeercert()
        client.write(bytes_of(500_000))
        await inside.until(lambda: len(inside.data) == 500_000)
        assert bytes(inside.data) == bytes_of(500_000)
        client.close()
        assert await inside.until_lost() is None

    play(("uvloop", "client"), contexts, scenario)


@every_end
def test_what_is_known_of_a_connection(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair() as (transport, _, peer):
            fact = transport.get_extra_info
            assert fact("peername") == peer.sock.getsockname()
            assert fact("sockname") == peer.sock.getpeername()
            assert fact("socket").getpeername() == fact("peername")
            assert fact("ssl_object").version() == peer.tls.version() == "TLSv1.3"
            assert fact("cipher") == peer.tls.cipher()
            assert fact("peercert") == fact("ssl_object").getpeercert()
            assert fact("sslcontext") is getattr(contexts, world.side)
            assert fact("compression") is None
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()

    play(end, contexts, scenario)


@every_end
def test_tls_1_2(end: tuple[str, str]) -> None:
    """What servers outside of the mesh may speak."""
    older = Contexts.of(Authority())
    for context in (older.server, older.client):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def scenario(world: World) -> None:
        async with world.pair(Echo) as (transport, protocol, peer):
            assert transport.get_extra_info("ssl_object").version() == "TLSv1.2"
            _, answer = await asyncio.gather(peer.send(bytes_of(300_000)), peer.read_exactly(300_000))
            assert answer == bytes_of(300_000)
            await peer.send_raw(peer.sealed(b"bye") + peer.say_goodbye())
            assert await protocol.until_lost() is None
            assert protocol.data.endswith(b"bye")

    play(end, older, scenario)

"""How a connection of our TLS transport ends: with everything that was written, and never for ever."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest
from inbound_support import LOOPS, SERVER, Authority, TestRuntime
from tls_transport_support import ENDS, Contexts, Echo, Recorder, World, bytes_of, connected, play, sockets

from proxyless.model.inbound import MutualTls
from proxyless.transport import tls_transport
from proxyless.transport.inbound.accept import AcceptLoop

every_end = pytest.mark.parametrize("end", ENDS, ids="-".join)
RECORD = 16384


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> Contexts:
    return Contexts.of(authority)


# We close


@every_end
def test_close_sends_what_waits(end: tuple[str, str], contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer begins to read when a goodbye would long have been given up."""
    monkeypatch.setattr(tls_transport, "_LINGER", 0.001)

    async def scenario(world: World) -> None:
        async with world.pair(buffer=65536) as (transport, protocol, peer):
            transport.write(bytes_of(4_000_000))
            transport.close()
            await asyncio.sleep(0.05)
            assert not protocol.lost
            assert await peer.read_to_the_end() == bytes_of(4_000_000)
            assert await protocol.until_lost() is None

    play(end, contexts, scenario)


@every_end
def test_close_with_unread_bytes_of_the_peer(end: tuple[str, str], contexts: Contexts) -> None:
    """Closing the socket at once would reset the connection, and take what was sent along."""

    async def scenario(world: World) -> None:
        async with world.pair(buffer=65536) as (transport, protocol, peer):
            transport.pause_reading()
            await peer.send(bytes_of(20_000))
            transport.write(bytes_of(1_000_000))
            transport.close()
            assert await peer.read_to_the_end() == bytes_of(1_000_000)
            await peer.leave()
            assert await protocol.until_lost() is None
            assert not protocol.data

    play(end, contexts, scenario)


@every_end
def test_a_peer_that_goes_on_sending(end: tuple[str, str], contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after our goodbye is thrown away, for a moment."""
    monkeypatch.setattr(tls_transport, "_LINGER", 0.05)

    async def scenario(world: World) -> None:
        async with world.pair() as (transport, protocol, peer):
            transport.close()
            with contextlib.suppress(OSError):
                while not protocol.lost:
                    await peer.send(b"x" * 100_000)
            assert await protocol.until_lost() is None
            assert not protocol.data

    play(end, contexts, scenario)


@every_end
def test_a_peer_that_never_says_goodbye(
    end: tuple[str, str], contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "_LINGER", 0.01)

    async def scenario(world: World) -> None:
        async with world.pair() as (transport, protocol, peer):
            transport.close()
            assert await protocol.until_lost() is None
            assert await peer.read_to_the_end() == b""

    play(end, contexts, scenario)


@every_end
def test_a_peer_that_never_reads(end: tuple[str, str], contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_transport, "_PATIENCE", 0.01)

    async def scenario(world: World) -> None:
        async with world.pair(buffer=16384) as (transport, protocol, _):
            transport.write(bytes_of(4_000_000))
            transport.close()
            assert isinstance(await protocol.until_lost(), TimeoutError)

    play(end, contexts, scenario)


@every_end
def test_a_peer_that_reads_a_little_is_waited_for(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(buffer=16384) as (transport, protocol, peer):
            transport.write(bytes_of(4_000_000))
            transport.close()
            before = transport.get_write_buffer_size()
            got = bytearray()
            while transport.get_write_buffer_size() == before:
                got += await peer.read()
            assert transport._patience is not None
            transport._patience.cancel()
            transport._lose_patience(before)  # as its timer would
            assert not protocol.lost and transport._patience is not None
            got += await peer.read_to_the_end()
            assert bytes(got) == bytes_of(4_000_000)
            await peer.leave()
            assert await protocol.until_lost() is None

    play(end, contexts, scenario)


@every_end
def test_abort(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(buffer=16384) as (transport, protocol, peer):
            transport.write(bytes_of(4_000_000))
            transport.abort()
            assert transport.is_closing() and not protocol.lost  # never within the call
            assert await protocol.until_lost() is None
            for use in (lambda: transport._recv(1), lambda: transport._send(b"x")):
                with pytest.raises(OSError, match="Bad file descriptor"):
                    use()  # not of whoever has its number now
            got = bytearray()
            with contextlib.suppress(OSError):
                while piece := await peer.read():
                    got += piece
            assert bytes_of(4_000_000).startswith(got) and len(got) < 4_000_000

    play(end, contexts, scenario)


@every_end
def test_a_loop_that_has_ended(end: tuple[str, str], contexts: Contexts) -> None:
    kept: list[asyncio.Transport] = []
    theirs: list[socket.socket] = []
    before = sockets()

    async def scenario(world: World) -> None:
        left, right = await connected()
        peer = world.peer(right)
        (transport, _), _ = await asyncio.gather(world.ours(left), peer.handshake())
        kept.append(transport)
        theirs.append(right)

    play(end, contexts, scenario)
    assert sockets() == before + 2
    kept[0].write(b"x")
    kept[0].abort()
    kept[0].close()
    assert sockets() == before + 1
    theirs[0].close()


# The peer closes


@every_end
@pytest.mark.parametrize("how", ["goodbye", "goodbye and FIN", "FIN"])
@pytest.mark.parametrize("waiting", [0, 900_000], ids=["idle", "busy"])
def test_the_peer_closes(end: tuple[str, str], contexts: Contexts, how: str, waiting: int) -> None:
    """TLS has no half-close here, but what was written before reaches a peer that still reads."""

    async def scenario(world: World) -> None:
        async with world.pair(buffer=16384) as (transport, protocol, peer):
            transport.write(bytes_of(waiting))
            await peer.send(b"hello")
            if "goodbye" in how:
                await peer.send_raw(peer.say_goodbye())
            if "FIN" in how:
                peer.sock.shutdown(socket.SHUT_WR)
            await protocol.until(lambda: "eof" in protocol.events)
            assert bytes(protocol.data) == b"hello"
            if how == "FIN":  # a peer that has said goodbye reads no more, in Python
                assert await peer.read_to_the_end() == bytes_of(waiting)
            else:
                while await asyncio.get_running_loop().sock_recv(peer.sock, 65536):
                    pass
            assert await protocol.until_lost() is None
            assert [event for event in protocol.events if "s" not in event] == ["made", "data", "eof"]

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize("size", [RECORD, 3 * RECORD, RECORD + 1, 20 * RECORD])
@pytest.mark.parametrize("paused", [False, True])
def test_the_peer_closes_right_behind_its_data(
    end: tuple[str, str], contexts: Contexts, size: int, paused: bool
) -> None:
    """Goodbye is read with the data, and the socket has nothing more to say: the peer waits for our goodbye."""

    async def scenario(world: World) -> None:
        def pause(protocol: Recorder) -> None:
            protocol.transport.pause_reading()

        async with world.pair(lambda: Recorder(data=pause) if paused else Recorder()) as (transport, protocol, peer):
            transport.pause_reading()
            await peer.send_raw(peer.sealed(bytes_of(size)) + peer.say_goodbye())
            while len(protocol.data) < size:
                transport.resume_reading()
                events = len(protocol.events)
                await protocol.until(lambda seen=events: len(protocol.events) > seen)  # type: ignore[misc]
            if paused:
                for _ in range(10):
                    await asyncio.sleep(0)
                assert protocol.events[-1] == "data"
                transport.resume_reading()
                transport.pause_reading()
                transport.resume_reading()
            assert await protocol.until_lost() is None
            assert protocol.events[-2:] == ["eof", "lost"]
            assert protocol.events.count("eof") == 1
            assert bytes(protocol.data) == bytes_of(size)

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize("waiting", [0, 900_000], ids=["idle", "busy"])
def test_the_peer_resets(end: tuple[str, str], contexts: Contexts, waiting: int) -> None:
    async def scenario(world: World) -> None:
        async with world.pair(buffer=16384) as (transport, protocol, peer):
            transport.write(bytes_of(waiting))
            peer.reset()
            assert isinstance(await protocol.until_lost(), ConnectionError)
            assert "eof" not in protocol.events

    play(end, contexts, scenario)


@every_end
def test_why_the_peer_left_is_read_before_it_is_written_to(end: tuple[str, str], contexts: Contexts) -> None:
    """Its alert has come, and then its reset; a write would only say that the latter has."""

    async def scenario(world: World) -> None:
        async with world.pair() as (transport, protocol, peer):
            transport.pause_reading()
            transport.write(b"unread")
            with contextlib.suppress(ssl.SSLError):
                # What is no record has OpenSSL send an alert.
                peer._in.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
                peer.tls.read()
            await peer.send_raw(peer._out.read())
            peer.reset()
            while not transport.is_closing():
                transport.write(b"x")
                await asyncio.sleep(0)
            error = await protocol.until_lost()
            assert isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")

    play(end, contexts, scenario)


@every_end
def test_a_broken_record_behind_good_ones(end: tuple[str, str], contexts: Contexts) -> None:
    async def scenario(world: World) -> None:
        async with world.pair() as (transport, protocol, peer):
            transport.pause_reading()
            await peer.send_raw(peer.sealed(bytes_of(2 * RECORD)) + b"\x17\x03\x03\x00\x20" + b"x" * 32)
            while not protocol.lost:
                transport.resume_reading()
                await asyncio.sleep(0)
            assert isinstance(await protocol.until_lost(), ssl.SSLError)
            assert bytes(protocol.data) == bytes_of(2 * RECORD)
            assert "eof" not in protocol.events

    play(end, contexts, scenario)


# With real ends


class Big(asyncio.Protocol):
    """An HTTP/1.1 answer that ends the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4000000\r\n\r\n")  # type: ignore[attr-defined]
        self.transport.write(bytes_of(4_000_000))  # type: ignore[attr-defined]
        self.transport.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_slow_reader_of_a_server_gets_everything(kind: str, authority: Authority) -> None:
    """A blocking client, which reads when the server has long been finished."""
    got: list[bytes] = []
    runtime = TestRuntime(authority.source(SERVER))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    runtime.require(port, MutualTls.STRICT)
    context = authority.client_context("spiffe://cluster.local/ns/shop/sa/frontend")

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")
            time.sleep(1)  # longer than goodbyes are waited for
            while piece := tls.recv(65536):
                got.append(piece)
            tls.unwrap()  # raises unless there was a goodbye

    async def scenario() -> None:
        accepting = AcceptLoop(listening, Big, runtime)
        await asyncio.wait_for(asyncio.to_thread(client), 60)
        accepting.close()
        await accepting.wait_closed()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(scenario())
    assert b"".join(got).partition(b"\r\n\r\n")[2] == bytes_of(4_000_000)


def test_connections_of_threads_do_not_meet(contexts: Contexts) -> None:
    """One context, several loops at once."""
    failures: list[BaseException] = []

    def run() -> None:
        world = World(contexts, "server")

        async def echo() -> None:
            left, right = await connected()
            peer = world.peer(right)
            (transport, _), _ = await asyncio.gather(world.ours(left, Echo), peer.handshake())
            _, answer = await asyncio.gather(peer.send(bytes_of(300_000)), peer.read_exactly(300_000))
            assert answer == bytes_of(300_000)
            transport.abort()
            right.close()

        try:
            asyncio.run(asyncio.wait_for(echo(), 60))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []

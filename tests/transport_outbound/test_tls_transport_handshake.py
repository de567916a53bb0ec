"""Handshakes of our TLS transport that fail, and somebody in the middle of those that succeeded."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbound_support import CLIENT, Authority
from tls_transport_support import ENDS, Contexts, Peer, Recorder, World, closed, connected, play, sockets

from proxyless.transport.tls_handshake import secure

every_end = pytest.mark.parametrize("end", ENDS, ids="-".join)
every_server = pytest.mark.parametrize("end", [end for end in ENDS if end[1] == "server"], ids="-".join)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> Contexts:
    return Contexts.of(authority)


@pytest.fixture(scope="module")
def strangers() -> Contexts:
    return Contexts.of(Authority())


async def refused(world: World, meet: Callable[[Peer], Awaitable[object]], expected: type[BaseException]) -> Any:
    """What our end raised; nothing of it is left, and the protocol never heard of the connection."""
    before = sockets()
    left, right = await connected()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async def met() -> None:
        await meet(world.peer(right))

    meeting = asyncio.ensure_future(met())
    try:
        with pytest.raises(expected) as raised:
            await world.ours(left, factory)
        assert left.fileno() == -1
        assert made == []
        await meeting
    finally:
        meeting.cancel()
        right.close()
    await closed(before)
    return raised.value


@every_end
def test_somebody_whom_we_do_not_trust(end: tuple[str, str], contexts: Contexts, strangers: Contexts) -> None:
    """He is told why."""
    side = end[1]
    mixed = replace(strangers, **{side: getattr(contexts, side)})
    strangers.client.verify_mode = ssl.CERT_NONE  # he trusts everybody

    async def scenario(world: World) -> None:
        async def meet(peer: Peer) -> None:
            with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|decrypt.error"):
                await peer.handshake()
                while True:
                    assert await peer.read()

        await refused(world, meet, ssl.SSLCertVerificationError)

    play(end, mixed, scenario)


@every_server
def test_somebody_who_does_not_trust_us(end: tuple[str, str], contexts: Contexts, authority: Authority) -> None:
    """A server learns it in the handshake, a client only after its own (RFC 8446 section 2)."""

    async def scenario(world: World) -> None:
        async def meet(peer: Peer) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                await peer.handshake()

        error = await refused(world, meet, ssl.SSLError)
        assert "ALERT" in error.reason

    play(end, Contexts(contexts.server, Authority().client_context(str(CLIENT))), scenario)


@pytest.mark.parametrize("writes", [0, 100, 1_000_000])
def test_a_client_is_refused_after_its_handshake(contexts: Contexts, authority: Authority, writes: int) -> None:
    async def scenario(world: World) -> None:
        before = sockets()
        left, right = await connected()
        peer = world.peer(right)

        async def refuse() -> None:
            with pytest.raises(ssl.SSLError):
                await peer.handshake()
            right.close()

        (transport, protocol), _ = await asyncio.gather(world.ours(left), refuse())
        transport.write(b"x" * writes)
        error = await protocol.until_lost()
        assert isinstance(error, OSError)
        if not writes:
            assert isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or "")
        await closed(before)

    play(("asyncio", "client"), Contexts(contexts.server, authority.client_context()), scenario)


@every_server
def test_a_client_without_a_certificate(end: tuple[str, str], contexts: Contexts, authority: Authority) -> None:
    async def scenario(world: World) -> None:
        async def meet(peer: Peer) -> None:
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                await peer.handshake()
                await peer.send(b"GET / HTTP/1.1\r\n\r\n")
                while True:
                    assert await peer.read()

        error = await refused(world, meet, ssl.SSLError)
        assert "CERTIFICATE" in error.reason

    play(end, Contexts(contexts.server, authority.client_context()), scenario)


async def _plaintext(peer: Peer) -> None:
    await peer.send_raw(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")


async def _closes(peer: Peer) -> None:
    peer.sock.close()


async def _half_closes(peer: Peer) -> None:
    peer.sock.shutdown(socket.SHUT_WR)


async def _resets(peer: Peer) -> None:
    peer.reset()


async def _closes_in_the_middle(peer: Peer) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    hello = peer.sealed()
    await peer.send_raw(hello[: len(hello) // 2] or b"\x16\x03\x03")
    peer.sock.close()


async def _announces_too_much(peer: Peer) -> None:
    await peer.send_raw(b"\x16\x03\x03\xff\xff" + b"x" * 100)


@every_end
@pytest.mark.parametrize(
    ("meet", "expected"),
    [
        (_plaintext, ssl.SSLError),
        (_announces_too_much, ssl.SSLError),
        (_closes, OSError),
        (_half_closes, OSError),
        (_resets, OSError),
        (_closes_in_the_middle, OSError),
    ],
)
def test_a_peer_that_does_not_finish(
    end: tuple[str, str],
    contexts: Contexts,
    meet: Callable[[Peer], Awaitable[None]],
    expected: type[BaseException],
) -> None:
    async def scenario(world: World) -> None:
        await refused(world, meet, expected)

    play(end, contexts, scenario)


@every_end
@pytest.mark.parametrize("how", ["cancelled", "timeout"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_handshake_that_is_given_up(end: tuple[str, str], contexts: Contexts, how: str, begun: bool) -> None:
    async def scenario(world: World) -> None:
        before = sockets()
        left, right = await connected()
        peer = world.peer(right)
        if begun:
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            await peer.send_raw(peer.sealed()[:40])
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await world.ours(left)
        else:
            task = asyncio.ensure_future(world.ours(left))
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert left.fileno() == -1
        right.close()
        await closed(before)

    play(end, contexts, scenario)


def _raises(*_: object) -> Any:
    raise LookupError("a bug")


def _writes_and_raises(protocol: Recorder) -> None:
    protocol.transport.write(b"x" * 4_000_000)
    raise LookupError("a bug")


@every_end
@pytest.mark.parametrize(
    "factory", [_raises, lambda: Recorder(made=_raises), lambda: Recorder(made=_writes_and_raises)]
)
def test_an_application_that_fails_at_a_connection(
    end: tuple[str, str], contexts: Contexts, factory: Callable[[], Recorder]
) -> None:
    """The loop watches nothing of it any more, so the next connection may have its number."""

    async def scenario(world: World) -> None:
        before = sockets()
        for _ in range(3):
            left, right = await connected(16384)
            meeting = asyncio.ensure_future(world.peer(right).handshake())
            with pytest.raises(LookupError):
                await world.ours(left, factory)
            meeting.cancel()
            right.close()
            await closed(before)
        async with world.pair() as (transport, protocol, peer):
            transport.write(b"hello")
            assert await peer.read_exactly(5) == b"hello"
            assert protocol.events == ["made"]

    play(end, contexts, scenario)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"server_side": True, "server_hostname": "a.example"}, ValueError),
        ({"server_hostname": ".example"}, ValueError),
        ({"server_hostname": "a\0b"}, (ValueError, TypeError)),
    ],
)
def test_names_that_cannot_be_asked_for(contexts: Contexts, how: dict[str, Any], expected: type[Exception]) -> None:
    async def scenario(world: World) -> None:
        before = sockets()
        left, right = await connected()
        context = contexts.server if how.get("server_side") else contexts.client
        with pytest.raises(expected):
            await secure(asyncio.get_running_loop(), left, context, Recorder, **how)
        right.close()
        await closed(before)

    play(("asyncio", "client"), contexts, scenario)


# Somebody in the middle


def _tampered(records: list[bytes], act: str, which: int, place: int, bit: int) -> bytes:
    which %= len(records)
    record = bytearray(records[which])
    place %= len(record)
    match act:
        case "flips":
            record[place] ^= 1 << bit
        case "cuts":
            del record[place:]
            return b"".join(records[:which]) + record
        case "drops":
            del record[place]
        case "inserts":
            record.insert(place, bit)
        case "forgets":
            record = bytearray()
        case "repeats":
            record *= 2
        case "swaps":
            other = (which + 1) % len(records)
            records[other], record = bytes(record), bytearray(records[other])
    return b"".join([*records[:which], bytes(record), *records[which + 1 :]])


@every_end
@settings(max_examples=25, deadline=None)
@given(
    act=st.sampled_from(["flips", "cuts", "drops", "inserts", "forgets", "repeats", "swaps"]),
    which=st.integers(0, 5),
    place=st.integers(0, 17_000),
    bit=st.integers(0, 7),
)
def test_nothing_altered_is_delivered(
    end: tuple[str, str], contexts: Contexts, act: str, which: int, place: int, bit: int
) -> None:
    messages = [bytes([65 + number]) * size for number, size in enumerate((1, 300, 16384, 5, 2000, 16384))]

    async def scenario(world: World) -> None:
        async with world.pair() as (_, protocol, peer):
            # One record for each message. A server's tickets are not among them: they are sent with its handshake.
            records = [peer.sealed(message) for message in messages]
            with contextlib.suppress(OSError):
                await peer.send_raw(_tampered(records, act, which, place, bit))
                peer.sock.shutdown(socket.SHUT_WR)
            error = await protocol.until_lost()
            # Whole messages, from the first, and none of what comes after the place.
            delivered = bytes(protocol.data)
            assert delivered in [b"".join(messages[:count]) for count in range(len(messages) + 1)]
            assert error is None or isinstance(error, ssl.SSLError)

    play(end, contexts, scenario)

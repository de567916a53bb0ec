"""HTTP/2 servers that break the rules: what they reach is bounded, and it ends in an error, never in a hang."""

import pytest
from http2_support import H2Peer, mesh2
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from outbound_support import CLIENTS, Client, FakeRuntime, Peer, Server, cluster, echo, eventually, run, snapshot

from proxyless.engine.steps import FailureKind
from proxyless.model.cluster import Protocol
from proxyless.transport.http1.errors import WireError
from proxyless.transport.http1.framing import Framing
from proxyless.transport.http2.frames import MAX_HEADER_BLOCK
from proxyless.transport.http2.head import request_head
from proxyless.transport.http2.session import STREAM_WINDOW, Session
from proxyless.transport.http2.stream import Stream

Which = tuple[str, str]
every_client = pytest.mark.parametrize("which", CLIENTS, ids="-".join)
SETTINGS = SettingsFrame(0).serialize()
# HPACK, without Huffman and tables: ``:status: 200`` is static entry 8.
OK = b"\x88"


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def headers(block: bytes, *flags: str, stream: int = 1) -> bytes:
    return HeadersFrame(stream, block, flags=list(flags)).serialize()


def data(body: bytes, *flags: str, stream: int = 1) -> bytes:
    return DataFrame(stream, body, flags=list(flags)).serialize()


def head_of(*extra: tuple[str, str]):  # type: ignore[no-untyped-def]
    return request_head(
        method="GET", scheme="http", authority="x", path="/", headers=list(extra), framing=Framing("", 0)
    )


def opened(count: int = 1) -> tuple[Session, list[Stream]]:
    """A session with requests under way, whose clock stands still."""
    session = Session(lambda: 0.0)
    session.feed(SETTINGS)
    streams = [Stream() for _ in range(count)]
    for stream in streams:
        session.open(stream, "GET", head_of())
        session.end(stream)
    session.outgoing()
    return session, streams


CONTINUATION = ContinuationFrame(1, b"x" * 10).serialize()
BROKEN = {
    "settings acknowledged first": SettingsFrame(0, flags=["ACK"]).serialize(),
    "no settings first": PingFrame(0).serialize(),
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
    "a frame too long": SETTINGS + b"\x00\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 65_535,
    "only the head of a frame too long": SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "push": SETTINGS + PushPromiseFrame(1, 2, OK, flags=["END_HEADERS"]).serialize(),
    "data before the head": SETTINGS + data(b"x", "END_STREAM"),
    "data on a stream that is none": SETTINGS + data(b"x", stream=5),
    "a head on an even stream": SETTINGS + headers(OK, "END_HEADERS", stream=2),
    "continuation of nothing": SETTINGS + CONTINUATION,
    "a head cut by another frame": SETTINGS + headers(OK) + PingFrame(0).serialize(),
    "no HPACK": SETTINGS + headers(b"\xff\xff\xff\xff\xff", "END_HEADERS"),
    "no status": SETTINGS + headers(literal(b"x", b"y"), "END_HEADERS"),
    "two statuses": SETTINGS + headers(OK + OK, "END_HEADERS"),
    "status out of place": SETTINGS + headers(literal(b"x", b"y") + OK, "END_HEADERS"),
    "a status that is none": SETTINGS + headers(literal(b":status", b"2000"), "END_HEADERS"),
    "a request's pseudo-header": SETTINGS + headers(OK + literal(b":path", b"/"), "END_HEADERS"),
    "upper case": SETTINGS + headers(OK + literal(b"X-A", b"y"), "END_HEADERS"),
    "connection header": SETTINGS + headers(OK + literal(b"connection", b"close"), "END_HEADERS"),
    "transfer-encoding": SETTINGS + headers(OK + literal(b"transfer-encoding", b"chunked"), "END_HEADERS"),
    "two lengths": SETTINGS
    + headers(OK + literal(b"content-length", b"1") + literal(b"content-length", b"2"), "END_HEADERS"),
    "less than the length": SETTINGS
    + headers(OK + literal(b"content-length", b"5"), "END_HEADERS")
    + data(b"x", "END_STREAM"),
    "a length and no body": SETTINGS + headers(OK + literal(b"content-length", b"5"), "END_HEADERS", "END_STREAM"),
    "more than the length": SETTINGS + headers(OK + literal(b"content-length", b"1"), "END_HEADERS") + data(b"xxx"),
    "an end without a head": SETTINGS + headers(literal(b":status", b"100"), "END_HEADERS", "END_STREAM"),
    "101": SETTINGS + headers(literal(b":status", b"101"), "END_HEADERS", "END_STREAM"),
    "too many headers": SETTINGS + headers(OK + literal(b"x", b"y") * 201, "END_HEADERS"),
    "a long head": SETTINGS
    + headers(OK + literal(b"x", b"y" * 100) * 150)
    + b"".join(ContinuationFrame(1, literal(b"x", b"y" * 100) * 150).serialize() for _ in range(4)),
    "continuations without end": SETTINGS + headers(OK) + CONTINUATION * 100,
    "empty continuations": SETTINGS + headers(OK) + ContinuationFrame(1, b"").serialize() * 100,
    "an HPACK bomb": SETTINGS
    + headers(OK + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 8000, "END_HEADERS"),
    "a window of nothing": SETTINGS + WindowUpdateFrame(0, 0).serialize()[:9] + b"\x00\x00\x00\x00",
    "a window too far": SETTINGS + WindowUpdateFrame(0, 2**31 - 1).serialize(),
    "more than the window": SETTINGS
    + headers(OK, "END_HEADERS")
    + data(b"x" * 16_384) * (STREAM_WINDOW // 16_384 + 1),
    "a go-away that is none": SETTINGS + GoAwayFrame(0).serialize()[:5] + b"\x00\x00\x00\x03" + b"\x00" * 8,
    "settings that are none": SETTINGS + b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + b"x" * 5,
    "a ping that is none": SETTINGS + b"\x00\x00\x05\x06\x00\x00\x00\x00\x00" + b"x" * 5,
    "pings": SETTINGS + PingFrame(0).serialize() * 5000,
    "settings": SETTINGS * 5000,
    "empty data": SETTINGS + headers(OK, "END_HEADERS") + data(b"") * 5000,
    "resets": SETTINGS + RstStreamFrame(1).serialize() * 5000,
    "windows": SETTINGS + WindowUpdateFrame(1, 1).serialize() * 5000,
    "interim answers": SETTINGS + headers(literal(b":status", b"103"), "END_HEADERS") * 5000,
}  # fmt: skip


# Byte by byte only what is short.
CUT = [(name, pieces) for name in BROKEN for pieces in (0, 1, 1000) if pieces != 1 or len(BROKEN[name]) < 50_000]


@pytest.mark.parametrize(("name", "pieces"), CUT)
def test_what_no_server_may_say(name: str, pieces: int) -> None:
    """However it is cut, the request ends with an error, and so does the connection."""
    session = Session(lambda: 0.0)
    stream = Stream()
    if BROKEN[name].startswith(SETTINGS):
        session.feed(SETTINGS)
        session.open(stream, "GET", head_of())
        session.end(stream)
    rest = BROKEN[name].removeprefix(SETTINGS)
    for start in range(0, len(rest), pieces or len(rest)):
        session.feed(rest[start : start + (pieces or len(rest))])
        session.outgoing()
    assert isinstance(session.error, WireError)
    assert session.draining
    assert stream.error is not None or not stream.id
    assert not session.streams
    with pytest.raises(WireError):
        session.open(Stream(), "GET", head_of())


def test_what_is_kept_is_bounded() -> None:
    session, _ = opened()
    for _ in range(3):
        session.feed(headers(OK + b"\x00"))
        session.feed(CONTINUATION * 100)
    assert len(session._frames._buffer) < MAX_HEADER_BLOCK


def test_one_broken_stream_of_many_ends_them_all_with_the_reason() -> None:
    """Envoy's default, too: a peer that is wrong about one stream is not trusted with the others."""
    session, streams = opened(10)
    session.feed(headers(OK, "END_HEADERS", "END_STREAM", stream=3))
    session.feed(headers(OK + OK, "END_HEADERS", stream=1))
    assert streams[1].complete
    assert streams[1].error is None
    assert all(stream.error is session.error for stream in streams if stream is not streams[1])


def test_go_away_twice() -> None:
    """A graceful server says first that it will go, then where it stopped (RFC 9113 section 6.8)."""
    session, streams = opened(3)
    session.feed(GoAwayFrame(0, last_stream_id=2**31 - 1).serialize())
    assert session.draining
    assert not any(stream.error for stream in streams)
    session.feed(GoAwayFrame(0, last_stream_id=3).serialize() + headers(OK, "END_HEADERS", "END_STREAM"))
    assert [type(stream.error).__name__ for stream in streams] == ["NoneType", "NoneType", "StreamRefused"]
    assert streams[0].complete
    session.eof()
    assert type(streams[1].error).__name__ == "ConnectionEnded"
    assert streams[0].error is None


def test_long_lived_streams_may_be_pinged() -> None:
    """The bound is on what comes at once: who pings each second for hours is no flood."""
    now = 0.0
    session = Session(lambda: now)
    session.feed(SETTINGS)
    for _ in range(20_000):
        now += 1.0
        session.feed(PingFrame(0).serialize())
        session.outgoing()
    assert session.error is None


def raw(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


some_streams = st.sampled_from([1, 3, 5, 7, 2])
numbers = st.integers(0, 2**32 - 1)
blocks = st.sampled_from([OK, OK + literal(b"x", b"y"), b"", b"\xff", OK + literal(b"content-length", b"3")])
head_flags = st.sampled_from(["END_HEADERS", "END_STREAM"])
frames = st.one_of(
    st.builds(headers, blocks, head_flags, head_flags, stream=some_streams),
    st.builds(data, st.binary(max_size=30), st.sampled_from(["END_STREAM", "PADDED"]), stream=some_streams),
    st.builds(lambda stream, code: RstStreamFrame(stream, code).serialize(), some_streams, st.integers(0, 20)),
    st.builds(lambda last, code: GoAwayFrame(0, last, code).serialize(), st.integers(0, 9), st.integers(0, 20)),
    st.builds(
        lambda stream, size: WindowUpdateFrame(stream, size).serialize(), some_streams, st.integers(1, 2**31 - 1)
    ),
    st.builds(lambda size: WindowUpdateFrame(0, size).serialize(), st.integers(1, 2**31 - 1)),
    st.builds(lambda name, value: SettingsFrame(0, {name: value}).serialize(), st.integers(0, 9), numbers),
    st.just(PingFrame(0).serialize()),
    st.builds(lambda block: ContinuationFrame(1, block).serialize(), st.binary(max_size=10)),
    st.builds(raw, st.integers(0, 255), st.integers(0, 255), numbers, st.binary(max_size=20)),
    st.binary(max_size=20),
)


@given(st.lists(frames, max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes(sent: list[bytes], choose: st.DataObject) -> None:
    """No exception, whatever comes; the outcome does not depend on how it is cut."""
    whole = b"".join(sent)
    outcomes = []
    for cut in (False, True):
        session, streams = opened(3)
        body = Stream()
        session.open(body, "POST", head_of())
        position = 0
        while position < len(whole):
            size = choose.draw(st.integers(1, len(whole) - position)) if cut else len(whole)
            session.feed(whole[position : position + size])
            position += size
        session.send(body, memoryview(b"x" * 100_000))
        session.end(body)
        for stream in streams:
            session.take(stream)
        session.leave(streams[0])
        session.outgoing()
        outcomes.append([(type(one.error), one.complete, one.head and one.head.status) for one in [*streams, body]])
        session.eof()
        assert all(stream.complete or stream.error is not None for stream in [*streams, body] if not stream.gone)
        assert not session.streams
    assert outcomes[0] == outcomes[1]


@every_client
@pytest.mark.parametrize("name", ["HTTP/1.1", "no settings first", "nothing", "HTTP/1.1 server"])
def test_who_does_not_speak_http2(which: Which, name: str) -> None:
    """The request was not sent to it."""

    async def hostile(peer: Peer) -> None:
        if name != "nothing":
            await peer.send(BROKEN[name])
        await peer.reader.read()

    async def scenario() -> None:
        with Server(echo if name == "HTTP/1.1 server" else hostile) as server:
            world = cluster(server.port, protocol=Protocol.HTTP2, connect_timeout=0.5)
            runtime = FakeRuntime(snapshot(world, retry=None))
            async with Client(*which, runtime) as client:
                response = await client.post(content=b"secret")
                assert response.status_code == 503
                failure = runtime.ended[0][0].attempts[0].failure  # type: ignore[attr-defined]
                assert failure.kind is FailureKind.CONNECT
                assert not failure.request_sent
            await eventually(lambda: server.open == 0)

    run(scenario())


@every_client
@pytest.mark.parametrize("name", ["pings", "two statuses", "push", "an HPACK bomb", "continuations without end"])
def test_hostile_answers(which: Which, name: str) -> None:
    async def script(peer: H2Peer, number: int, _: dict[str, str]) -> None:
        await peer.peer.send(BROKEN[name].removeprefix(SETTINGS))

    async def scenario() -> None:
        with mesh2(script, retry=None) as (server, runtime):
            async with Client(*which, runtime) as client:
                response = await client.get()
                assert response.status_code == 503
                assert runtime.ended[0][0].attempts[0].failure.kind is FailureKind.RESET  # type: ignore[attr-defined]
            await eventually(lambda: server.open == 0)

    run(scenario())

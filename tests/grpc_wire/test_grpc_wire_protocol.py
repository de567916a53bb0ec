"""What a peer may not do, and what may surprise: frame by frame, with what RFC 9113 says of it."""

from dataclasses import dataclass

import pytest
from grpc_wire_ends import CLIENT_HELLO, HEAD, HELLO, REQUEST, TRAILERS, Client, Listening, Server, frame, frames_of

from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from proxyless.transport.grpc_wire.header_blocks import Line, encode
from proxyless.transport.grpc_wire.settings import STREAM_WINDOW

MOST = 2**31 - 1
TABLE, PUSH, STREAMS, WINDOW, FRAME, LIST = range(1, 7)


@dataclass(frozen=True)
class Over:
    """The connection is, with this code."""

    code: Code


@dataclass(frozen=True)
class Reset:
    """The stream is, by us."""

    code: Code
    stream: int = 1


class Fine:
    """Nothing happens to stream or connection."""


FINE = Fine()
PROTOCOL, SIZE = Over(Code.PROTOCOL_ERROR), Over(Code.FRAME_SIZE_ERROR)
CLOSED, CALM, FLOW = Over(Code.STREAM_CLOSED), Over(Code.ENHANCE_YOUR_CALM), Over(Code.FLOW_CONTROL_ERROR)
COMPRESSION = Over(Code.COMPRESSION_ERROR)
MALFORMED = Reset(Code.PROTOCOL_ERROR)


def number(value: int) -> bytes:
    return value.to_bytes(4)


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, key.to_bytes(2) + number(value))


def head(lines: list[Line], end: bool = False, stream: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, encode(lines))


def without(name: bytes) -> list[Line]:
    return [line for line in REQUEST if line[0] != name]


def window(more: int, stream: int = 1) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(more))


OPEN, OPEN_END = head(REQUEST), head(REQUEST, end=True)
BLOCK = encode(REQUEST)
GOING = frame(GOAWAY, 0, 0, number(0) + number(0))
# A large line is put into the table, and then named again and again.
ENTRY = b"\x40\x01a" + b"\x7f\x81\x1e" + b"v" * 3968
BOMB = ENTRY + b"\xbe" * 60_000
FULL_LIST = ENTRY + b"\xbe" * 20

# What follows a peer's SETTINGS: whatever it is, and with a stream that a client opened.
EITHER: dict[str, tuple[bytes, object]] = {
    "DATA on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL),
    "HEADERS on stream 0": (frame(HEADERS, END_HEADERS, 0, BLOCK), PROTOCOL),
    "HEADERS on stream 0, to go on": (frame(HEADERS, 0, 0, BLOCK), PROTOCOL),
    "RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, number(8)), PROTOCOL),
    "RST_STREAM of 3 bytes": (frame(RST_STREAM, 0, 1, b"123"), SIZE),
    "RST_STREAM of an idle stream": (frame(RST_STREAM, 0, 99, number(8)), PROTOCOL),
    "DATA on an idle stream": (frame(DATA, 0, 99, b"x"), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (window(1, 99), PROTOCOL),
    "WINDOW_UPDATE of 3 bytes": (frame(WINDOW_UPDATE, 0, 0, b"123"), SIZE),
    "WINDOW_UPDATE by nothing": (window(0, 0), PROTOCOL),
    "WINDOW_UPDATE beyond the largest": (window(MOST, 0), FLOW),
    "WINDOW_UPDATE with the reserved bit": (frame(WINDOW_UPDATE, 0, 0, number(2**31 + 5)), FINE),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "PRIORITY of 4 bytes": (frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    "PRIORITY on an idle stream": (frame(PRIORITY, 0, 99, bytes(5)), FINE),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of 7 bytes": (frame(SETTINGS, 0, 0, bytes(7)), SIZE),
    "SETTINGS with an answer that says something": (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "SETTINGS answered twice": (frame(SETTINGS, ACK, 0) * 2, FINE),
    "SETTINGS with a window too large": (setting(WINDOW, MOST + 1), FLOW),
    "SETTINGS with the largest window": (setting(WINDOW, MOST), FINE),
    "SETTINGS with frames too small": (setting(FRAME, 16_383), PROTOCOL),
    "SETTINGS with frames too large": (setting(FRAME, 1 << 24), PROTOCOL),
    "SETTINGS with the largest frames": (setting(FRAME, (1 << 24) - 1), FINE),
    "SETTINGS with a push of 2": (setting(PUSH, 2), PROTOCOL),
    "SETTINGS with what nobody knows": (setting(0xFE03, 1), FINE),
    "SETTINGS without a table": (setting(TABLE, 0), FINE),
    "SETTINGS without end": (frame(SETTINGS, 0, 0, bytes(6) * 65), CALM),
    "PING on a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL),
    "PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), SIZE),
    "PING answered unasked": (frame(PING, ACK, 0, bytes(8)), FINE),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + BLOCK), PROTOCOL),
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL),
    "a frame that nobody knows": (frame(0x42, 0xFF, 1, b"anything"), FINE),
    "a frame too large": (frame(DATA, 0, 1, b"")[:0] + b"\x01\x00\x01" + bytes(6), SIZE),
    "a flood of pings": (frame(PING, 0, 0, bytes(8)) * 2500, CALM),
    "a flood of settings": (HELLO * 2500, CALM),
    "a flood of windows": (window(1, 0) * 2500, CALM),
    "a flood of extensions": (frame(0x42, 0, 0) * 2500, CALM),
    "a flood of priorities": (frame(PRIORITY, 0, 3, bytes(5)) * 2500, CALM),
}

SERVER: dict[str, tuple[bytes, object]] = EITHER | {
    "a head": (OPEN, FINE),
    "a head in pieces": (
        frame(HEADERS, 0, 1, BLOCK[:3]) + frame(CONTINUATION, 0, 1, BLOCK[3:9]) + frame(CONTINUATION, 4, 1, BLOCK[9:]),
        FINE,
    ),
    "a head of an even stream": (head(REQUEST, stream=2), PROTOCOL),
    "a head of a stream before the last": (head(REQUEST, stream=5) + head(REQUEST, stream=3), FINE),
    "a head padded": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + BLOCK + bytes(3)), FINE),
    "a head padded too much": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05" + b"1234"), PROTOCOL),
    "a head padded without a length": (frame(HEADERS, END_HEADERS | PADDED, 1), SIZE),
    "a head with a priority": (frame(HEADERS, END_HEADERS | PRIORITISED, 1, bytes(5) + BLOCK), FINE),
    "a head without its priority": (frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"1234"), SIZE),
    "a head interrupted": (frame(HEADERS, 0, 1, BLOCK[:3]) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    "a head interrupted by an extension": (frame(HEADERS, 0, 1, BLOCK[:3]) + frame(0x42, 0, 0), PROTOCOL),
    "a head interrupted by another": (frame(HEADERS, 0, 1, BLOCK[:3]) + head(REQUEST, stream=3), PROTOCOL),
    "a head that another stream goes on with": (
        frame(HEADERS, 0, 1, BLOCK[:3]) + frame(CONTINUATION, END_HEADERS, 3, BLOCK[3:]),
        PROTOCOL,
    ),
    "a head without end": (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1) * 20, CALM),
    "a head without end, of large pieces": (
        frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5,
        CALM,
    ),
    "a head that cannot be decoded": (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
    "a head that names what is not in the table": (frame(HEADERS, END_HEADERS, 1, b"\xbe"), COMPRESSION),
    "a head that breaks off": (frame(HEADERS, END_HEADERS, 1, b"\x00\x05ab"), COMPRESSION),
    "a head with a huge number": (frame(HEADERS, END_HEADERS, 1, b"\xff" * 12), COMPRESSION),
    "a head with a table too large": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f" + BLOCK), COMPRESSION),
    "a head with a table size in it": (frame(HEADERS, END_HEADERS, 1, BLOCK + b"\x20"), COMPRESSION),
    "a head with a large list": (frame(HEADERS, END_HEADERS, 1, FULL_LIST), Reset(Code.ENHANCE_YOUR_CALM)),
    "a head that is a bomb": (frame(HEADERS, END_HEADERS, 1, BOMB), CALM),
    "a head of a closed stream that cannot be decoded": (
        OPEN + frame(RST_STREAM, 0, 1, number(8)) + frame(HEADERS, END_HEADERS, 1, b"\x80"),
        COMPRESSION,
    ),
    "a head without a method": (head(without(b":method")), MALFORMED),
    "a head without a scheme": (head(without(b":scheme")), MALFORMED),
    "a head without a path": (head(without(b":path")), MALFORMED),
    "a head with an empty path": (head([*without(b":path")[:2], (b":path", b"")]), MALFORMED),
    "a head without an authority": (head(without(b":authority")), FINE),
    "a head with two paths": (head([(b":path", b"/x"), *REQUEST]), MALFORMED),
    "a head with a status": (head([(b":status", b"200"), *REQUEST]), MALFORMED),
    "a head with a pseudo-header that is not": (head([(b":protocol", b"websocket"), *REQUEST]), MALFORMED),
    "a head with a pseudo-header after others": (head([*without(b":path"), (b":path", b"/x")]), MALFORMED),
    "a head with capitals": (head([*REQUEST, (b"X-A", b"1")]), MALFORMED),
    "a head with a name that is empty": (head([*REQUEST, (b"", b"1")]), MALFORMED),
    "a head with a space in a name": (head([*REQUEST, (b"a b", b"1")]), MALFORMED),
    "a head with a line feed in a value": (head([*REQUEST, (b"a", b"1\n2")]), MALFORMED),
    "a head with a NUL in a value": (head([*REQUEST, (b"a", b"1\x002")]), MALFORMED),
    "a head with connection": (head([*REQUEST, (b"connection", b"close")]), MALFORMED),
    "a head with transfer-encoding": (head([*REQUEST, (b"transfer-encoding", b"chunked")]), MALFORMED),
    "a head without anything": (frame(HEADERS, END_HEADERS, 1), MALFORMED),
    "trailers": (OPEN + head([(b"a", b"b")], end=True), FINE),
    "trailers without anything": (OPEN + frame(HEADERS, END_HEADERS | END_STREAM, 1), FINE),
    "trailers that are not the end": (OPEN + head([(b"a", b"b")]), MALFORMED),
    "trailers with a pseudo-header": (OPEN + head([(b":path", b"/b")], end=True), MALFORMED),
    "DATA after the end": (OPEN_END + frame(DATA, 0, 1, b"x"), CLOSED),
    "HEADERS after the end": (OPEN_END + head([(b"a", b"b")], end=True), CLOSED),
    "WINDOW_UPDATE after the end": (OPEN_END + window(5), FINE),
    "RST_STREAM after the end": (OPEN_END + frame(RST_STREAM, 0, 1, number(8)), FINE),
    "RST_STREAM twice": (OPEN + frame(RST_STREAM, 0, 1, number(8)) * 2, FINE),
    "DATA padded": (OPEN + frame(DATA, PADDED, 1, b"\x02abc\0\0"), FINE),
    "DATA that is only padding": (OPEN + frame(DATA, PADDED, 1, b"\x02\0\0"), FINE),
    "DATA padded too much": (OPEN + frame(DATA, PADDED, 1, b"\x04abc"), PROTOCOL),
    "DATA padded too much, of a stream that is gone": (
        OPEN + frame(RST_STREAM, 0, 1, number(8)) + frame(DATA, PADDED, 1, b"\x04abc"),
        PROTOCOL,
    ),
    "DATA padded without a length": (OPEN + frame(DATA, PADDED, 1), SIZE),
    "WINDOW_UPDATE of a stream by nothing": (OPEN + window(0), MALFORMED),
    "WINDOW_UPDATE of a stream beyond the largest": (OPEN + window(MOST), Reset(Code.FLOW_CONTROL_ERROR)),
    "SETTINGS with a window that overflows a stream's": (OPEN + window(1000) + setting(WINDOW, MOST), FLOW),
    "SETTINGS with a window that is taken back": (OPEN + setting(WINDOW, 0) + setting(WINDOW, 10), FINE),
    "SETTINGS with a push": (setting(PUSH, 1), FINE),
    "GOAWAY": (OPEN + GOING, FINE),
    "a flood of empty DATA": (OPEN + frame(DATA, 0, 1) * 2500, CALM),
    "a flood of padding": (OPEN + frame(DATA, PADDED, 1, b"\x01\0") * 2500, CALM),
    "small DATA": (OPEN + frame(DATA, 0, 1, b"x") * 5000, FINE),
    "small DATA on its way to a stream that is gone": (
        OPEN + frame(RST_STREAM, 0, 1, number(8)) + frame(DATA, 0, 1, b"x") * 5000,
        FINE,
    ),
    "a flood of requests that are reset": (
        b"".join(head(REQUEST, stream=at) + frame(RST_STREAM, 0, at, number(8)) for at in range(1, 1203, 2)),
        CALM,
    ),
    "a flood of requests that are made void": (
        b"".join(head(REQUEST, stream=at) + window(0, at) for at in range(1, 1203, 2)),
        CALM,
    ),
    "a flood of requests that are malformed": (
        b"".join(head(HEAD, stream=at) for at in range(1, 5003, 2)),
        CALM,
    ),
    "a flood of large lists": (
        b"".join(frame(HEADERS, END_HEADERS, at, FULL_LIST) for at in range(1, 303, 2)),
        CALM,
    ),
}

# The client's request is open, and a second one, stream 3, is.
ANSWER = head(HEAD)
CLIENT: dict[str, tuple[bytes, object]] = EITHER | {
    "an answer": (ANSWER + frame(DATA, 0, 1, b"x") + head(TRAILERS, end=True), FINE),
    "an answer that is trailers only": (head([*HEAD, *TRAILERS], end=True), FINE),
    "an answer of an even stream": (head(HEAD, stream=2), PROTOCOL),
    "an answer to nothing": (head(HEAD, stream=5), PROTOCOL),
    "an interim answer": (head([(b":status", b"103")]) + head([(b":status", b"100")]) + ANSWER, FINE),
    "an interim answer that ends": (head([(b":status", b"103")], end=True), MALFORMED),
    "switching protocols": (head([(b":status", b"101")]), MALFORMED),
    "DATA after an interim answer": (head([(b":status", b"103")]) + frame(DATA, 0, 1, b"x"), MALFORMED),
    "a flood of interim answers": (head([(b":status", b"103")]) * 2500, CALM),
    "DATA before an answer": (frame(DATA, 0, 1, b"x"), MALFORMED),
    "the end before an answer": (frame(DATA, END_STREAM, 1), MALFORMED),
    "an answer without a status": (head([(b"a", b"b")]), MALFORMED),
    "an answer with two": (head([(b":status", b"200"), *HEAD]), MALFORMED),
    "an answer with a status of letters": (head([(b":status", b"2x0")]), MALFORMED),
    "an answer with a status of 099": (head([(b":status", b"099")]), MALFORMED),
    "an answer with a path": (head([*HEAD[:1], (b":path", b"/")]), MALFORMED),
    "an answer with a carriage return": (head([*HEAD, (b"a", b"b\r")]), MALFORMED),
    "two answers": (ANSWER + ANSWER, MALFORMED),
    "trailers that are not the end": (ANSWER + frame(DATA, 0, 1, b"x") + head(TRAILERS), MALFORMED),
    "trailers with a status": (ANSWER + head(HEAD, end=True), MALFORMED),
    "DATA after trailers": (ANSWER + head(TRAILERS, end=True) + frame(DATA, 0, 1, b"x"), CLOSED),
    "trailers after trailers": (ANSWER + head(TRAILERS, end=True) * 2, CLOSED),
    "more DATA than the window": (ANSWER + frame(DATA, 0, 1, bytes(STREAM_WINDOW // 16)) * 17, FLOW),
    "DATA as large as the window": (ANSWER + frame(DATA, 0, 1, bytes(STREAM_WINDOW // 16)) * 16, FINE),
    "a large list": (frame(HEADERS, END_HEADERS, 1, b"\x88" + FULL_LIST), Reset(Code.ENHANCE_YOUR_CALM)),
    "SETTINGS with a push": (setting(PUSH, 1), PROTOCOL),
    "SETTINGS without a push": (setting(PUSH, 0), FINE),
}


def outcome(data: bytes, stream: int = 1) -> object:
    """Of what was sent. RFC 9113 lets every stream error be one of the connection, which comes last."""
    found: object = FINE
    for one in frames_of(data):
        if one.kind == GOAWAY:
            found = Over(Code(int.from_bytes(one.payload[4:8])))
        elif one.kind == RST_STREAM:
            assert found is FINE or one.stream != stream, "reset twice"
            if one.stream == stream:
                found = Reset(Code(int.from_bytes(one.payload)), stream)
    return found


class Unread(Listening):
    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        self.heard.data += data


@pytest.mark.parametrize("row", SERVER)
def test_what_a_server_makes_of_it(row: str) -> None:
    sent, expected = SERVER[row]
    server = Server()
    server.feed(CLIENT_HELLO + sent)
    assert outcome(server.take()) == expected
    assert bool(server.over) is isinstance(expected, Over)
    for stream in server.taken:
        heard = stream.heard
        assert heard.ends == (stream.gone and not (stream.sent and stream.received))
    if isinstance(expected, Reset):
        assert not server.streams


@pytest.mark.parametrize("row", CLIENT)
def test_what_a_client_makes_of_it(row: str) -> None:
    sent, expected = CLIENT[row]
    client = Client()
    stream, other = Unread(client), Listening(client)
    client.open(stream, encode(REQUEST))
    client.open(other, encode(REQUEST))
    client.feed(HELLO + sent)
    assert outcome(client.take()) == expected
    assert bool(client.over) is isinstance(expected, Over)
    assert other.heard.ends == isinstance(expected, Over)
    if expected is not FINE:
        assert stream.gone and stream.heard.ends == 1 and stream.heard.code == expected.code  # type: ignore[attr-defined]
    else:
        assert not stream.heard.ends and not stream.heard.failed


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX",
        bytes(24),
        b"\x16\x03\x01\x02\x00\x01\x00",
        PREFACE + OPEN,
    ],
)
def test_a_server_is_greeted_first(sent: bytes) -> None:
    server = Server()
    server.feed(sent)
    assert outcome(server.take()) == PROTOCOL and server.over


@pytest.mark.parametrize(
    "sent", [frame(SETTINGS, ACK, 0), frame(PING, 0, 0, bytes(8)), GOING, b"HTTP/1.1 400 Bad Request\r\n"]
)
def test_a_client_is_greeted_first(sent: bytes) -> None:
    client = Client()
    client.feed(sent)
    assert client.over and not client.settled


def test_a_preface_byte_by_byte() -> None:
    server = Server()
    for byte in CLIENT_HELLO + OPEN:
        server.feed(bytes([byte]))
    assert len(server.taken) == 1 and not server.over


def test_streams_beyond_the_limit_are_refused_unprocessed() -> None:
    server = Server(most_streams=2)
    server.feed(CLIENT_HELLO + b"".join(head(REQUEST, stream=at) for at in (1, 3, 5)))
    assert outcome(server.take(), 5) == Reset(Code.REFUSED_STREAM, 5)
    assert len(server.taken) == 2
    server.reset(server.taken[0])
    server.feed(head(REQUEST, stream=7))
    assert len(server.taken) == 3


def test_a_refused_stream_may_be_sent_again() -> None:
    client = Client()
    stream = Listening(client)
    client.open(stream, encode(REQUEST))
    client.feed(HELLO + frame(RST_STREAM, 0, 1, number(Code.REFUSED_STREAM)))
    assert stream.heard.unprocessed and stream.heard.ends == 1 and not client.over


def test_what_a_goaway_has_not_seen_may_be_sent_again() -> None:
    client = Client()
    streams = [Listening(client) for _ in range(3)]
    for stream in streams:
        client.open(stream, encode(REQUEST))
    client.feed(HELLO + frame(GOAWAY, 0, 0, number(3) + number(0) + b"why"))
    assert [stream.heard.unprocessed for stream in streams] == [False, False, True]
    assert [stream.gone for stream in streams] == [False, False, True]
    assert client.draining and not client.over
    client.feed(ANSWER + GOING)
    assert [stream.heard.ends for stream in streams] == [1, 1, 1]
    assert [stream.heard.unprocessed for stream in streams] == [False, True, True], "it has answered the first"


def test_a_server_drains_in_two_steps_and_never_takes_a_promise_back() -> None:
    server = Server()
    server.feed(CLIENT_HELLO + OPEN)
    server.take()
    server.drain()
    server.drain()
    first, ping = frames_of(server.take())
    assert (first.kind, first.payload[:4]) == (GOAWAY, number(MOST))
    server.feed(head(REQUEST, stream=3) + frame(PING, ACK, 0, ping.payload))
    assert server.draining and len(server.taken) == 2
    server.feed(head(REQUEST, stream=5))
    goaway, reset = frames_of(server.take())
    assert (goaway.payload[:4], reset.stream) == (number(3), 5)
    server.close()
    (last,) = frames_of(server.take())
    assert last.payload[:4] == number(3)


def test_a_client_need_not_answer_for_a_server_to_have_drained() -> None:
    server = Server()
    server.feed(CLIENT_HELLO + OPEN)
    server.drain()
    server.take()
    server.drained()
    server.drained()
    (goaway,) = frames_of(server.take())
    assert (goaway.kind, goaway.payload[:4]) == (GOAWAY, number(1)) and server.draining and server.streams


def test_a_client_opens_as_many_as_the_server_allows() -> None:
    client = Client()
    assert client.limit == 100
    client.feed(HELLO)
    assert client.limit == 1000
    client.feed(setting(STREAMS, 7))
    assert client.limit == 7
    client.feed(HELLO + setting(STREAMS, MOST))
    assert client.limit == 1000


def test_slow_resets_are_no_flood() -> None:
    server = Server()
    server.feed(CLIENT_HELLO)
    for at in range(1, 4001, 2):
        server.feed(head(REQUEST, stream=at))
        server.time.now += 1.0
        server.feed(frame(RST_STREAM, 0, at, number(8)))
    assert not server.over and not server.streams


def test_floods_are_counted_by_the_second_and_by_what_we_send() -> None:
    server = Server()
    ping = frame(PING, 0, 0, bytes(8))
    server.feed(CLIENT_HELLO + OPEN + ping * 1990)
    server.time.now += 1.0
    server.feed(ping * 200)
    assert not server.over
    server.data(server.taken[0], b"x")
    server.feed(ping * 10)
    assert not server.over
    server.feed(ping * 10)
    assert server.over

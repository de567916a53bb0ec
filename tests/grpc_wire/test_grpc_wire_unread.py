"""What of the connection's window a peer gets back, by how much waits for the application."""

import pytest
from grpc_wire_ends import CLIENT_HELLO, REQUEST, Listening, Server, frame, frames_of

from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.frames import ACK, DATA, END_HEADERS, GOAWAY, HEADERS, SETTINGS, WINDOW_UPDATE
from proxyless.transport.grpc_wire.header_blocks import encode
from proxyless.transport.grpc_wire.settings import (
    CONNECTION_WINDOW,
    MAX_FRAME,
    MOST_UNREAD,
    NARROW_WINDOW,
    STREAM_WINDOW,
)
from proxyless.transport.grpc_wire.stream import Stream

MIB = 1024 * 1024
assert (CONNECTION_WINDOW, MOST_UNREAD) == (16 * MIB, 16 * MIB)

# MiB that arrive and are read at once (a), that arrive and wait (w), that are read after they waited (r), and
# acknowledgements of SETTINGS (k); then how much the peer has back of what it sent.
TABLE: list[tuple[str, list[tuple[str, int]], int]] = [
    ("little", [("a", 3)], 0),
    ("a piece", [("a", 4)], 4),
    ("all that is read", [("a", 64)], 64),
    ("what waits, up to the bound", [("w", 16)], 16),
    ("none beyond", [("w", 32)], 16),
    ("none beyond, for nobody", [("w", 16), ("a", 16)], 16),
    ("none while the bound is reached", [("w", 32), ("r", 16)], 16),
    ("all at once below", [("w", 32), ("r", 17)], 32),
    ("none for little", [("w", 19), ("r", 19)], 16),
    ("as before once all is read", [("w", 32), ("r", 32), ("a", 64)], 96),
    ("beside what waits", [("w", 15), ("a", 64)], 76),
    ("all, once streams have the narrow window", [("w", 32), ("k", 1)], 32),
    ("and on", [("w", 32), ("k", 1), ("a", 64), ("w", 16)], 112),
    ("none for what was acknowledged before", [("k", 3), ("w", 32)], 16),
    ("none while they have the wide one again", [("w", 16), ("k", 1), ("r", 16), ("k", 1), ("w", 32)], 32),
]


PIECE = frame(DATA, 0, 1, bytes(MAX_FRAME))
ACKNOWLEDGED = frame(SETTINGS, ACK, 0)


class Unkept(Listening):
    """waits: what arrives is not read at once."""

    __slots__ = ("waits",)

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        self.connection.consumed(self, credit)
        if self.waits:
            self.connection.unread(credit)


def arrived(server: Server, mib: int, *, waits: bool) -> int:
    """What it gives back."""
    (stream,) = server.streams.values()
    assert isinstance(stream, Unkept)
    stream.waits = waits
    for _ in range(mib * MIB // MAX_FRAME):
        server.feed(PIECE)
    assert not server.over
    return returned(server)


def returned(server: Server) -> int:
    found = [one for one in frames_of(server.take()) if one.kind == WINDOW_UPDATE and not one.stream]
    return sum(int.from_bytes(one.payload) for one in found) // MIB


class Keeping(Server):
    def on_request(self) -> Stream:
        return Unkept(self)


@pytest.fixture
def server() -> Server:
    made = Keeping()
    made.feed(CLIENT_HELLO + ACKNOWLEDGED + frame(HEADERS, END_HEADERS, 1, encode(REQUEST)))
    made.take()
    return made


@pytest.mark.parametrize(("steps", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_connections_window(server: Server, steps: list[tuple[str, int]], expected: int) -> None:
    back = 0
    for what, mib in steps:
        if what == "k":
            server.feed(ACKNOWLEDGED * mib)
            back += returned(server)
        elif what == "r":
            said = server.unread(-mib * MIB)
            assert said == bool(server._out)
            back += returned(server)
        else:
            back += arrived(server, mib, waits=what == "w")
    assert back == expected


def test_who_sends_beyond_it_is_told(server: Server) -> None:
    arrived(server, 32, waits=True)
    server.feed(frame(DATA, 0, 1, b"a"))
    *_, goaway = frames_of(server.take())
    assert (goaway.kind, goaway.payload[4:]) == (GOAWAY, int(Code.FLOW_CONTROL_ERROR).to_bytes(4))
    assert not server.unread(-32 * MIB) and not server.take()


def opened(number: int) -> bytes:
    return frame(HEADERS, END_HEADERS, number, encode(REQUEST))


def windows(server: Server) -> list[int]:
    """That it announces to streams."""
    return [int.from_bytes(one.payload[2:]) for one in frames_of(server.take()) if one.kind == SETTINGS and one.payload]


def test_streams_have_the_narrow_window_while_much_waits() -> None:
    server = Server()
    server.feed(CLIENT_HELLO + ACKNOWLEDGED + opened(1) + opened(3))
    server.take()
    old = server.taken[0]
    server.feed(frame(DATA, 0, 1, bytes(1000)))
    assert server.unread(MOST_UNREAD) and windows(server) == [NARROW_WINDOW]
    assert not server.unread(1) and not server.unread(-1)
    # Sent before the peer knew.
    server.feed(frame(DATA, 0, 3, bytes(NARROW_WINDOW)) + opened(5))
    assert [stream.receivable for stream in server.taken] == [STREAM_WINDOW] * 3
    server.feed(ACKNOWLEDGED + opened(7))
    assert [stream.receivable for stream in server.taken] == [NARROW_WINDOW] * 4
    assert not server.unread(-MOST_UNREAD // 2) and windows(server) == []
    assert server.unread(-1) and windows(server) == [STREAM_WINDOW]
    # It has to acknowledge one thing at a time.
    assert not server.unread(MOST_UNREAD)
    server.feed(opened(9))
    assert [stream.receivable for stream in server.taken] == [NARROW_WINDOW] * 5
    server.feed(ACKNOWLEDGED)
    assert old.receivable == STREAM_WINDOW and windows(server) == [NARROW_WINDOW]


def test_who_keeps_to_no_narrow_window_is_told() -> None:
    class Unread(Server):
        def on_request(self) -> Stream:
            return Stream()

    server = Unread()
    server.feed(CLIENT_HELLO + ACKNOWLEDGED + opened(1))
    server.unread(MOST_UNREAD)
    server.feed(ACKNOWLEDGED + PIECE)
    assert not server.over
    server.feed(frame(DATA, 0, 1, b"a"))
    assert server.over == "more data than the stream's window"

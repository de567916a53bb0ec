"""Whole conversations: of our two ends, with h2 that changes its mind, and with peers that send anything at all."""

import random
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from grpc_wire_ends import (
    CLIENT_HELLO,
    HEAD,
    HELLO,
    REQUEST,
    TRAILERS,
    Client,
    Listening,
    Server,
    cut,
    frame,
    frames_of,
)
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.transport.grpc_wire.connection import Connection
from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.frames import GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, WINDOW_UPDATE
from proxyless.transport.grpc_wire.header_blocks import Lines, encode
from proxyless.transport.grpc_wire.stream import Stream

SIZES = st.lists(st.integers(1, 60), max_size=10)


class Slow(Listening):
    """Keeps what it has read until it is told to give it back."""

    __slots__ = ("owed", "rooms")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.owed = self.rooms = 0

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        assert not self.gone and not self.heard.ended and not self.heard.ends
        self.heard.data += data
        self.heard.ended = end
        self.owed += credit

    def on_room(self) -> None:
        assert not self.waiting
        self.rooms += 1

    def give_back(self) -> None:
        self.connection.consumed(self, self.owed)
        self.owed = 0


class SlowServer(Server):
    def on_request(self) -> Stream:
        self.taken.append(Slow(self))
        return self.taken[-1]


@dataclass
class Side:
    """What one end of a call has sent."""

    stream: Slow
    heads: int = 0
    data: bytes = b""
    ended: bool = False


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "head", "data", "data", "large", "end", "reset", "read", "carry", "carry", "drain"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)


@dataclass
class Talk:
    client: Client = field(default_factory=Client)
    server: SlowServer = field(default_factory=SlowServer)
    ours: list[Side] = field(default_factory=list)
    theirs: dict[int, Side] = field(default_factory=dict)
    reset: set[int] = field(default_factory=set)

    def sides(self, which: int, of_client: bool) -> Side | None:
        if which >= len(self.ours):
            return None
        side = self.ours[which]
        return side if of_client else self.theirs.get(side.stream.id)

    def carry(self, to_client: bool, sizes: list[int]) -> bool:
        sender, receiver = (self.server, self.client) if to_client else (self.client, self.server)
        found = sender.take()
        for piece in cut(found, sizes):
            receiver.feed(piece)
        for stream in self.server.taken:
            assert isinstance(stream, Slow)
            self.theirs.setdefault(stream.id, Side(stream))
        return bool(found)

    def perform(self, what: str, which: int, of_client: bool, sizes: list[int]) -> None:
        side = self.sides(which, of_client)
        connection: Connection = self.client if of_client else self.server
        if what == "open" and not self.client.draining and len(self.client.streams) < self.client.limit:
            stream = Slow(self.client)
            self.client.open(stream, encode(REQUEST))
            self.ours.append(Side(stream, heads=1))
        elif what == "carry":
            self.carry(of_client, sizes)
        elif what == "drain" and which == 3:
            self.server.drain()
        elif side is None:
            return
        elif what == "read":
            side.stream.give_back()
        elif what == "reset":
            self.reset.add(side.stream.id)
            connection.reset(side.stream)
        elif side.ended or side.stream.gone:
            return
        elif what == "head" and not of_client and not side.heads:
            connection.head(side.stream, encode(HEAD))
            side.heads = 1
        elif what in {"data", "large"} and side.heads:
            piece = bytes([which]) * (1000 if what == "data" else 400_000)
            connection.data(side.stream, piece)
            side.data += piece
        elif what == "end" and side.heads:
            if of_client:
                connection.data(side.stream, b"", end=True)
            else:
                connection.head(side.stream, encode(TRAILERS), end=True)
                side.heads = 2
            side.ended = True


@given(OPERATIONS, SIZES)
@settings(max_examples=60)
def test_our_ends_agree(operations: list[tuple[str, int, bool]], sizes: list[int]) -> None:
    talk = Talk()
    talk.carry(False, sizes)
    for what, which, of_client in operations:
        talk.perform(what, which, of_client, sizes)
    for _ in range(40):
        moved = talk.carry(True, sizes) | talk.carry(False, sizes)
        for side in [*talk.ours, *talk.theirs.values()]:
            moved = moved or bool(side.stream.owed)
            side.stream.give_back()
        if not moved:
            break
    else:
        raise AssertionError("they never come to rest")
    assert not talk.client.over and not talk.server.over
    assert {*talk.client.streams} == {*talk.server.streams}
    for side in talk.ours:
        other = talk.theirs.get(side.stream.id)
        if other is None:
            assert side.stream.gone, "refused, or reset before it was seen"
            continue
        for sent, heard in ((side, other.stream.heard), (other, side.stream.heard)):
            assert sent.data.startswith(heard.data)
            assert len(heard.heads) <= sent.heads
            if side.stream.id not in talk.reset:
                assert heard.data == sent.data and heard.ended is sent.ended and not heard.ends
                assert len(heard.heads) == sent.heads
                assert not sent.stream.waiting and sent.stream.gone is (side.ended and other.ended)
            else:
                assert heard.ends <= 1


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["window", "frame", "stream credit", "connection credit", "table"]), st.integers(0, 60_000)
    ),
    max_size=12,
)


@given(st.binary(min_size=1, max_size=5), st.integers(0, 60_000), CHANGES, SIZES)
@settings(max_examples=60)
def test_we_keep_to_the_windows_of_a_peer_that_changes_its_mind(
    seed: bytes, times: int, changes: list[tuple[str, int]], sizes: list[int]
) -> None:
    """h2 raises for data beyond its windows or frames beyond its size; what was said counts once it is acknowledged."""
    body = seed * times
    ours = Client()
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    theirs.initiate_connection()
    stream = Slow(ours)
    ours.open(stream, encode(REQUEST))
    ours.data(stream, body)
    ours.head(stream, encode(TRAILERS), end=True)
    got, ended, credit = b"", False, 0
    plan = list(changes)
    for _ in range(200):
        for piece in cut(ours.take(), sizes):
            for event in theirs.receive_data(piece):
                if isinstance(event, h2.events.DataReceived):
                    got += event.data
                    credit += event.flow_controlled_length
                ended = ended or isinstance(event, h2.events.StreamEnded)
        if ended:
            break
        what, value = plan.pop(0) if plan else ("", 0)
        if what == "window":
            theirs.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: value})
        elif what == "frame":
            theirs.update_settings({SettingCodes.MAX_FRAME_SIZE: 16_384 + value})
        elif what == "table":
            theirs.update_settings({SettingCodes.HEADER_TABLE_SIZE: value})
        elif what == "stream credit":
            theirs.increment_flow_control_window(value + 1, 1)
        elif what == "connection credit":
            theirs.increment_flow_control_window(value + 1)
        elif not plan:
            theirs.increment_flow_control_window(30_000, 1)
            theirs.increment_flow_control_window(30_000)
        for piece in cut(theirs.data_to_send(), sizes):
            ours.feed(piece)
        assert len(got) + stream.waiting <= len(body)
    assert ended and got == body and not stream.waiting and not ours.over
    assert stream.rooms <= 200


def test_streams_take_turns_at_a_narrow_connection() -> None:
    ours = Client()
    streams = [Slow(ours) for _ in range(3)]
    for stream in streams:
        ours.open(stream, encode(REQUEST))
        ours.data(stream, bytes(60_000))
    ours.feed(HELLO)
    ours.take()
    assert [stream.waiting for stream in streams] == [0, 54_465, 60_000]
    for _ in range(4):
        ours.feed(frame(WINDOW_UPDATE, 0, 0, (10_000).to_bytes(4)))
    assert [stream.waiting for stream in streams] == [0, 34_465, 40_000]


def test_a_window_for_all_costs_nothing_for_those_that_have_none_of_their_own() -> None:
    ours = Client()
    ours.feed(HELLO + frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00"))
    streams = [Slow(ours) for _ in range(5)]
    for stream in streams:
        ours.open(stream, encode(REQUEST))
        ours.data(stream, b"body", end=True)
    ours.take()
    ours.feed(frame(WINDOW_UPDATE, 0, 0, (10_000).to_bytes(4)))
    assert not ours.take() and not ours._blocked
    ours.feed(frame(WINDOW_UPDATE, 0, streams[2].id, (2).to_bytes(4)))
    ours.feed(frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x03"))
    assert [stream.waiting for stream in streams] == [1, 1, 0, 1, 1]


class Raising(Listening):
    def on_head(self, lines: Lines, end: bool) -> None:
        raise ValueError("a mistake")

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        super().on_end(code, why, unprocessed=unprocessed)
        raise ValueError("another")


def test_what_a_callback_raises_ends_the_connection_for_all() -> None:
    client = Client()
    streams: list[Listening] = [Raising(client), Listening(client), Raising(client), Listening(client)]
    for stream in streams:
        client.open(stream, encode(REQUEST))
    client.feed(HELLO)
    client.take()
    with pytest.raises(ValueError, match="another"):
        client.feed(frame(HEADERS, 4, 1, encode(HEAD)))
    assert client.over and [stream.heard.code for stream in streams] == [Code.INTERNAL_ERROR] * 4
    assert [one.kind for one in frames_of(client.take())] == [GOAWAY]
    client.feed(frame(HEADERS, 4, 3, encode(HEAD)))
    assert not client.take()


class Chaotic(Listening):
    """Does anything to anybody whenever it is told something."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        super().__init__(connection)
        self.chance = chance

    def _anything(self) -> None:
        connection, chance = self.connection, self.chance
        for _ in range(chance.randrange(3)):
            stream = chance.choice([self, *connection.streams.values()])
            match chance.randrange(9):
                case 0:
                    connection.reset(stream)
                case 1:
                    connection.head(stream, encode(HEAD), end=chance.random() < 0.5)
                case 2 | 3:
                    connection.data(stream, bytes(chance.choice([0, 1, 70_000])), end=chance.random() < 0.5)
                case 4 if chance.random() < 0.1:
                    connection.close()
                case 5 if chance.random() < 0.1:
                    connection.drain()
                case 6 if connection._client and not connection.draining and not connection.over:
                    connection.open(Chaotic(connection, chance), encode(REQUEST))
                case 7:
                    connection.consumed(stream, 5)
                case _:
                    connection.ping(bytes(8))

    def on_head(self, lines: Lines, end: bool) -> None:
        super().on_head(lines, end)
        self._anything()

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        super().on_data(data, credit, end)
        self._anything()

    def on_room(self) -> None:
        self._anything()

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        super().on_end(code, why, unprocessed=unprocessed)
        assert self.heard.ends == 1
        self._anything()


class ChaoticServer(Server):
    def __init__(self, chance: random.Random) -> None:
        super().__init__(most_streams=5)
        self.chance = chance

    def on_request(self) -> Stream:
        self.taken.append(Chaotic(self, self.chance))
        return self.taken[-1]


BLOCKS = st.sampled_from([encode(REQUEST), encode(HEAD), encode(TRAILERS), b"", b"\xbe", b"\x40\x01a\x01b"])
FRAMES = st.builds(
    frame,
    st.sampled_from([0, 0, 1, 1, 1, 2, 3, 4, 6, 7, 8, 8, 9, 66]),
    st.sampled_from([0, 0, 1, 4, 4, 5, 8, 0x24, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 2, 3, 5, 7, 2**31 - 1]),
    st.one_of(
        BLOCKS,
        st.binary(max_size=12),
        st.integers(0, 2**31).map(lambda value: value.to_bytes(4)),
        st.just(bytes(8)),
        st.tuples(st.integers(1, 6), st.integers(0, 2**17)).map(
            lambda drawn: drawn[0].to_bytes(2) + drawn[1].to_bytes(4)
        ),
    ),
)


@given(st.lists(FRAMES, max_size=30).map(b"".join) | st.binary(max_size=200), SIZES, st.booleans(), st.randoms())
@settings(max_examples=200)
def test_anything_ends_the_connection_at_worst(
    sent: bytes, sizes: list[int], as_client: bool, chance: random.Random
) -> None:
    connection: Client | ChaoticServer
    if as_client:
        connection = Client()
        streams = [Chaotic(connection, chance) for _ in range(3)]
        for stream in streams:
            connection.open(stream, encode(REQUEST), end=chance.random() < 0.3)
        sent = HELLO + sent
    else:
        connection = ChaoticServer(chance)
        sent = CLIENT_HELLO + sent
    written = b""
    for piece in cut(sent, sizes):
        connection.feed(piece)
        written += connection.take()
    # What we write is frames, and no stream is heard of after its reset, nor anything after the last GOAWAY.
    reset: set[int] = set()
    kinds = []
    for one in frames_of(written.removeprefix(PREFACE)):
        assert one.stream not in reset or not one.stream or one.kind in {WINDOW_UPDATE, PING}
        kinds.append(one.kind)
        if one.kind == RST_STREAM:
            reset.add(one.stream)
    assert not connection.over or kinds[-1] == GOAWAY
    connection.lost("the test is over")
    assert connection.over and not connection.streams and not connection.ping(bytes(8)) and not connection.take()


@pytest.mark.parametrize(
    "piece", [frame(0, 0, 1, bytes(60_000)), frame(PING, 0, 0, bytes(8)), frame(6, 0, 0, bytes(8)), bytes(9)]
)
def test_what_is_kept_of_a_peer_is_bounded(piece: bytes) -> None:
    server = Server()
    server.feed(CLIENT_HELLO + frame(HEADERS, 4, 1, encode(REQUEST)))
    server.take()
    written = 0
    for _ in range(3000):
        server.feed(piece + piece[:5])
        server.feed(piece[5:])
        written += len(server.take())
        server.taken[0].heard.data = b""
        assert len(server._rest) <= 64 * 1024 + 9
    assert written < 100_000

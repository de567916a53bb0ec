"""Both ends of a connection for the tests, and frames made by hand."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxyless.transport.grpc_wire.connection import Connection
from proxyless.transport.grpc_wire.frames import PREFACE, SETTINGS
from proxyless.transport.grpc_wire.header_blocks import Line, Lines
from proxyless.transport.grpc_wire.stream import Stream

REQUEST: list[Line] = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/a.B/c"),
    (b":authority", b"b:80"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"authorization", b"Bearer x"),
]
HEAD: list[Line] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS: list[Line] = [(b"grpc-status", b"0"), (b"grpc-message", b"all-is-well" * 20)]


@dataclass
class Heard:
    heads: list[Lines] = field(default_factory=list)
    data: bytes = b""
    ended: bool = False
    failed: str = ""
    code: int | None = None
    unprocessed: bool = False
    ends: int = 0


class Listening(Stream):
    __slots__ = ("connection", "heard")

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.heard = Heard()

    def on_head(self, lines: Lines, end: bool) -> None:
        assert not self.gone and not self.heard.ended and not self.heard.ends
        self.heard.heads.append(lines)
        self.heard.ended = end

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        assert not self.gone and not self.heard.ended and not self.heard.ends
        self.heard.data += data
        self.heard.ended = end
        self.connection.consumed(self, credit)

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        assert not (self.sent and self.received)
        self.heard.failed, self.heard.code, self.heard.unprocessed = why, code, unprocessed
        self.heard.ends += 1


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Client(Connection):
    def __init__(self) -> None:
        self.time = Time()
        super().__init__(self.time, client=True)
        self.pongs: list[bytes] = []

    def on_pong(self, payload: bytes) -> None:
        self.pongs.append(payload)


class Server(Connection):
    def __init__(self, most_streams: int = 1000) -> None:
        self.time = Time()
        super().__init__(self.time, client=False, most_streams=most_streams)
        self.taken: list[Listening] = []

    def on_request(self) -> Stream:
        self.taken.append(Listening(self))
        return self.taken[-1]


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


HELLO = frame(SETTINGS, 0, 0)
CLIENT_HELLO = PREFACE + HELLO


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_of(data: bytes) -> Iterator[Frame]:
    if data.startswith(PREFACE):
        data = data[len(PREFACE) :]
    while data:
        high, low, kind, flags, number = struct.unpack_from(">BHBBL", data)
        size = high << 16 | low
        assert len(data) >= 9 + size
        yield Frame(kind, flags, number, data[9 : 9 + size])
        data = data[9 + size :]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]

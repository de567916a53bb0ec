"""Any bytes, in any pieces: the reader ends, is bounded, and its outcome does not depend on packets."""

import asyncio
import socket
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyless.transport.arrival import Waiters
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.blocking import BlockingConnection
from proxyless.transport.http1.errors import ConnectionEnded, RemoteProtocolError, WireError
from proxyless.transport.http1.framing import Framing
from proxyless.transport.http1.response import MAX_HEAD_BYTES, ResponseReader

METHODS = st.sampled_from([("GET", ""), ("HEAD", ""), ("CONNECT", ""), ("GET", "websocket"), ("POST", "")])
# Pieces of responses, right and wrong, so that a random choice often gets far into the parser.
STATUS = st.sampled_from(
    [b"200 OK", b"204 No Content", b"304 Not Modified", b"100 Continue", b"103 Early", b"101 Switch", b"404", b"999 x"]
)
LINE = st.sampled_from(
    [
        b"content-length: 5", b"content-length: 0", b"content-length: 12", b"content-length: -1",
        b"transfer-encoding: chunked", b"transfer-encoding: gzip", b"connection: close", b"connection: keep-alive",
        b"connection: upgrade", b"upgrade: websocket", b"x: y", b"X:", b" folded", b"no colon", b"x : y", b"x: \0",
        b"x: " + b"y" * 300,
    ]
)  # fmt: skip
BODY = st.sampled_from(
    [
        b"hello", b"", b"5\r\nhello\r\n0\r\n\r\n", b"5;x=y\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"zz\r\n",
        b"ffffffffffffffffff\r\n", b"\r\n", b"\n",
    ]
)  # fmt: skip


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        version = draw(st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 "]))
        end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]))
        parts += [version + draw(STATUS) + end, *(line + end for line in draw(st.lists(LINE, max_size=4))), end]
        parts += draw(st.lists(BODY, max_size=3))
    data = bytearray(b"".join(parts))
    for _ in range(draw(st.integers(0, 2))):  # and now a mistake
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def outcome(pieces: list[bytes], method: str, upgrade: str) -> tuple[object, ...]:
    """What a connection would make of it: it stops feeding at an error, and at the end of a response."""
    reader = ResponseReader()
    reader.begin(method, upgrade)
    body, after, error = [], b"", ""
    for number, piece in enumerate(pieces):
        if reader.complete:
            after = b"".join(pieces[number:])
            # llhttp overlooks empty lines between responses. A connection that meets them later is closed: as safe.
            reader.keep_alive = reader.keep_alive and not after.strip(b"\r\n")
            break
        try:
            reader.feed(piece)
        except RemoteProtocolError:
            error = "refused"
            break
        body.append(reader.take())
    else:
        try:
            reader.eof()
        except ConnectionEnded:
            error = "cut off"
    body.append(reader.take())
    head = None if reader.head is None else (reader.head.status, reader.head.reason, tuple(reader.head.headers))
    trailing = reader.trailing + after if reader.switched else b""
    # Of a response that was not completed nobody asks whether the connection is kept.
    return head, b"".join(body), error, reader.complete, reader.complete and reader.keep_alive, trailing


@st.composite
def cut(draw: st.DrawFn) -> list[bytes]:
    data = draw(responses())
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cut(), METHODS)
def test_boundaries_do_not_matter(pieces: list[bytes], request_: tuple[str, str]) -> None:
    data = b"".join(pieces)
    whole = outcome([data] if data else [], *request_)
    assert outcome(pieces, *request_) == whole
    assert outcome([bytes([byte]) for byte in data], *request_) == whole


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=20), METHODS)
def test_any_bytes_have_an_outcome(pieces: list[bytes], request_: tuple[str, str]) -> None:
    outcome(pieces, *request_)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"HTTP/1.1 "]
    ),
    st.sampled_from([b"x: y\r\n", b"y" * 100, b"HTTP/1.1 100 C\r\n\r\n", b"x:\r\n"]),
    st.integers(1, 5000),
)
def test_what_is_no_body_is_bounded(start: bytes, again: bytes, size: int) -> None:
    """However it goes on: after the limit the reader has given up, and holds no more than that."""
    reader = ResponseReader()
    reader.begin("GET")
    fed, stream = 0, start + again * (3 * MAX_HEAD_BYTES // len(again))
    try:
        for place in range(0, len(stream), size):
            reader.feed(stream[place : place + size])
            fed = place + size
    except RemoteProtocolError:
        assert fed <= MAX_HEAD_BYTES + len(start) + size
        return
    raise AssertionError("it read on and on")


HEAD_SENT = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
NOTHING = Framing("", 0)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


async def asynchronous(pieces: list[bytes], method: str, upgrade: str) -> tuple[object, ...]:
    """A connection whose application reads between packets, and after the server's end."""
    wire, connection = Wire(), AsyncConnection(asyncio.get_running_loop(), Waiters())
    wire.protocol = connection
    connection.connection_made(wire)
    connection.start(method, HEAD_SENT, b"", NOTHING, keep_alive=True, write_timeout=None, upgrade=upgrade)

    async def arrive() -> None:
        for piece in pieces:
            wire.protocol.data_received(piece)
            await asyncio.sleep(0)
        wire.protocol.eof_received()

    arriving = asyncio.create_task(arrive())
    head, body, error = None, [], ""
    try:
        answer = await connection.read_head(None, None)
        head = (answer.status, answer.reason, tuple(answer.headers))
        while chunk := await connection.read_chunk(None, None):
            body.append(chunk)
    except WireError as problem:
        error = type(problem).__name__
    await arriving
    trailing = []
    if connection.tunnel is not None:
        while chunk := await connection.tunnel.read(65536, None):
            trailing.append(chunk)
    assert not connection.finish() or not error
    connection.close()
    return head, b"".join(body), error, b"".join(trailing)


def blocking(pieces: list[bytes], method: str, upgrade: str) -> tuple[object, ...]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = BlockingConnection(ours)
        connection.start(
            method, HEAD_SENT, b"", NOTHING, keep_alive=True, write_timeout=None, deadline=None, upgrade=upgrade
        )
        for piece in pieces:
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
        head, body, error, trailing = None, [], "", []
        try:
            answer = connection.read_head(None, 20)
            head = (answer.status, answer.reason, tuple(answer.headers))
            while chunk := connection.read_chunk(None, 20):
                body.append(chunk)
        except WireError as problem:
            error = type(problem).__name__
        if connection.tunnel is not None:
            while chunk := connection.tunnel.read(65536, 20):
                trailing.append(chunk)
        assert not connection.finish() or not error
        connection.close()
    return head, b"".join(body), error, b"".join(trailing)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cut(), METHODS)
def test_both_kinds_of_connection_agree(pieces: list[bytes], request_: tuple[str, str]) -> None:
    """All at once or in pieces, on a loop or in a thread: one outcome, and no wait that does not end."""
    data = [b"".join(pieces)] if pieces else []
    in_pieces = asyncio.run(asyncio.wait_for(asynchronous(pieces, *request_), 60))
    assert asyncio.run(asyncio.wait_for(asynchronous(data, *request_), 60)) == in_pieces
    assert blocking(pieces, *request_) == in_pieces

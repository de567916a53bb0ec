"""Responses: what is read of them, and what is refused."""

import pytest

from proxyless.transport.http1.errors import ConnectionEnded, RemoteProtocolError
from proxyless.transport.http1.response import MAX_HEAD_BYTES, MAX_HEADERS, ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def read(data: bytes, method: str = "GET", *, pieces: int = 0, eof: bool = False) -> tuple[object, ...]:
    reader = ResponseReader()
    reader.begin(method)
    for start in range(0, len(data), pieces or len(data) or 1):
        if not reader.complete:
            reader.feed(data[start : start + (pieces or len(data))])
        else:
            reader.keep_alive = False  # the connection's part: bytes while idle
    if eof:
        reader.eof()
    head = reader.head
    return (head.status if head else None, reader.take(), reader.complete, reader.keep_alive)


@pytest.mark.parametrize("pieces", [0, 1, 7])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK + b"content-length: 2\r\n\r\nhi", (200, b"hi", True, True)),
        (OK + b"content-length: 0\r\n\r\n", (200, b"", True, True)),
        (OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", (200, b"hi", True, False)),
        (OK + b"Content-Length: 2\r\nConnection: x, Close\r\n\r\nhi", (200, b"hi", True, False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", (200, b"hi", True, False)),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", (200, b"hi", True, True)),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
         (200, b"hi", True, False)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True, True)),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", (304, b"", True, True)),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", (200, b"hi", True, True)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 2\r\n\r\nhi",
         (200, b"hi", True, True)),
        (CHUNKED + b"2\r\nhi\r\n3;ext=1\r\nall\r\n0\r\nx-trailer: 1\r\n\r\n",
         (200, b"hiall", True, True)),
        # Smuggling: what follows is never a second response.
        (OK + b"content-length: 2\r\n\r\nhi" + OK + b"content-length: 4\r\n\r\nevil", (200, b"hi", True, False)),
        (OK + b"content-length: 2\r\n\r\nhi!", (200, b"hi", True, False)),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\nrest", (200, b"hi", True, False)),
        (b"HTTP/1.1 204 No Content\r\n\r\nbody", (204, b"", True, False)),
    ],
)  # fmt: skip
def test_responses(data: bytes, expected: tuple[object, ...], pieces: int) -> None:
    assert read(data, pieces=pieces) == expected


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (OK + b"content-length: 5\r\n\r\n", True),
        (CHUNKED, True),
        (OK + b"\r\n", True),
        (OK + b"connection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\n", True),
        (OK + b"content-length: 5\r\n\r\nhello", False),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", False),
    ],
)
def test_the_response_to_a_head_has_no_body(data: bytes, keep_alive: bool, pieces: int) -> None:
    assert read(data, "HEAD", pieces=pieces) == (200, b"", True, keep_alive)


def test_a_connection_serves_again_after_a_head() -> None:
    reader = ResponseReader()
    for _ in range(2):
        reader.begin("HEAD")
        reader.feed(OK + b"content-length: 5\r\n\r\n")
        assert reader.complete
        reader.begin("GET")
        reader.feed(OK + b"content-length: 2\r\n\r\nhi")
        assert (reader.take(), reader.keep_alive) == (b"hi", True)


MALFORMED = [
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/0.9 200 OK\r\n\r\n",
    b"HTTP/1.7 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 000 Zero\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
    OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi",
    OK + b"content-length: 2, 2\r\n\r\nhi",
    OK + b"content-length: -2\r\n\r\nhi",
    OK + b"content-length: +2\r\n\r\nhi",
    OK + b"content-length: 0x2\r\n\r\nhi",
    OK + b"content-length:\r\n\r\nhi",
    OK + b"content-length: 99999999999999999999999\r\n\r\nhi",
    OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    OK + b"transfer-encoding: gzip\r\n\r\nhi",
    OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    OK + b"transfer-encoding: chunked, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\nhi",
    OK + b"transfer-encoding: \x0bchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    OK + b"x : spaced\r\n\r\n",
    OK + b"no colon\r\n\r\n",
    OK + b": no name\r\n\r\n",
    OK + b"x: folded\r\n line\r\n\r\n",
    OK + b"x: a\0b\r\n\r\n",
    OK + b"x: a\rb\r\n\r\n",
    OK + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    OK + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
    OK + b"x: " + b"a" * (MAX_HEAD_BYTES + 1),
]
MALFORMED_BODIES = [
    CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"fffffffffffffffff\r\nhi",
    CHUNKED + b"2\r\nhiX\r\n0\r\n\r\n",
    CHUNKED + b"2\nhi\n0\n\n",
    CHUNKED + b"2;" + b"x" * (MAX_HEAD_BYTES + 1),
    CHUNKED + b"0\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1),
    CHUNKED + b"0\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    CHUNKED + b"0\r\nno colon\r\n\r\n",
]


@pytest.mark.parametrize("pieces", [0, 4096])
@pytest.mark.parametrize("data", MALFORMED + MALFORMED_BODIES, ids=lambda data: repr(data[:60]))
def test_malformed_responses_are_refused(data: bytes, pieces: int) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data, pieces=pieces)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 2",
        OK + b"content-le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"content-length: 5\r\n\r\nhi",
        CHUNKED,
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
    ],
)
def test_an_early_end_is_not_an_end(data: bytes) -> None:
    with pytest.raises(ConnectionEnded):
        read(data, eof=True)


def test_a_body_may_be_delimited_by_the_end() -> None:
    assert read(OK + b"\r\nabc", eof=True) == (200, b"abc", True, False)

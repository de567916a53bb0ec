"""Request heads: exactly one, or refused."""

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.transport.http1.errors import LocalProtocolError
from proxyless.transport.http1.framing import CHUNKED, BodyFramer, Framing, framing_of
from proxyless.transport.http1.head import serialise

NOTHING = Framing("", 0)


def test_a_plain_head() -> None:
    head, keep, _ = serialise(
        "GET", "/a?b=1", "reviews:9080", [("accept", "*/*"), ("x", "caf\xe9"), ("empty", "")], NOTHING
    )
    assert head == b"GET /a?b=1 HTTP/1.1\r\nhost: reviews:9080\r\naccept: */*\r\nx: caf\xe9\r\nempty: \r\n\r\n"
    assert keep


def test_what_belongs_to_the_connection_is_ours() -> None:
    headers = [
        ("connection", "close, X-Mine"),
        ("keep-alive", "timeout=5"),
        ("x-mine", "hop"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "gzip"),
        ("content-length", "7"),
        ("host", "other"),
        ("x-kept", "1"),
    ]
    head, keep, _ = serialise("POST", "/", "reviews", headers, CHUNKED)
    assert head == (
        b"POST / HTTP/1.1\r\nhost: reviews\r\nx-kept: 1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    assert not keep


@pytest.mark.parametrize(
    ("method", "path", "authority", "headers"),
    [
        ("GET\r\nX: y", "/", "a", []),
        ("GET /x", "/", "a", []),
        ("", "/", "a", []),
        ("G\0T", "/", "a", []),
        ("GET", "", "a", []),
        ("GET", "relative", "a", []),
        ("GET", "http://elsewhere/", "a", []),
        ("GET", "/a b", "a", []),
        ("GET", "/ HTTP/1.1\r\nx: y\r\n\r\nGET /", "a", []),
        ("GET", "/a\nb", "a", []),
        ("GET", "/a\0", "a", []),
        ("GET", "/caf\xe9", "a", []),
        ("GET", "/\u20ac", "a", []),
        ("GET", "/a#fragment", "a", []),
        ("GET", "/", "a\r\nx: y", []),
        ("GET", "/", "a b", []),
        ("GET", "/", "a\0", []),
        ("GET", "/", "a", [("x", "1\r\ny: 2")]),
        ("GET", "/", "a", [("x", "1\r\n\r\nGET /admin HTTP/1.1\r\nhost: a")]),
        ("GET", "/", "a", [("x", "1\n y")]),
        ("GET", "/", "a", [("x", "1\ry")]),
        ("GET", "/", "a", [("x", "1\0")]),
        ("GET", "/", "a", [("x", "\x7f")]),
        ("GET", "/", "a", [("x", "\u20ac")]),
        ("GET", "/", "a", [("x y", "1")]),
        ("GET", "/", "a", [("x:", "1")]),
        ("GET", "/", "a", [("", "1")]),
        ("GET", "/", "a", [("x\r\ny", "1")]),
        ("GET", "/", "a", [("x: 1\r\ny", "2")]),
    ],
)
def test_what_would_split_a_request_is_refused(
    method: str, path: str, authority: str, headers: list[tuple[str, str]]
) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        serialise(method, path, authority, [*headers, ("authorization", "secret")], NOTHING)
    assert "secret" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=8),
    st.text(max_size=12),
    st.text(max_size=8),
    st.lists(st.tuples(st.text(), st.text()), max_size=4),
)
def test_any_text_makes_one_head_or_none(
    method: str, path: str, authority: str, headers: list[tuple[str, str]]
) -> None:
    headers = [(name.lower(), value) for name, value in headers]
    try:
        head, _, _ = serialise(method or "GET", "/" + path, authority, headers, NOTHING)
    except LocalProtocolError:
        return
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    assert head.count(b"\n") <= len(headers) + 4


def test_heads_are_what_a_server_reads() -> None:
    seen: list[tuple[str, bytes]] = []

    class Reader:
        def on_url(self, url: bytes) -> None:
            seen.append(("url", url))

        def on_message_complete(self) -> None:
            seen.append(("end", b""))

    head, _, _ = serialise("GET", "/a?b=%0d%0a", "a", [("x", " spaced ")], NOTHING)
    httptools.HttpRequestParser(Reader()).feed_data(head)
    assert seen == [("url", b"/a?b=%0d%0a"), ("end", b"")]


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ([], b"", ("", 0)),
        ([("content-length", "0")], b"", ("content-length: 0\r\n", 0)),
        ([], b"abc", ("content-length: 3\r\n", 3)),
        ([("transfer-encoding", "chunked")], b"abc", ("content-length: 3\r\n", 3)),
        ([("content-length", "5")], None, ("content-length: 5\r\n", 5)),
        ([("content-length", "5"), ("transfer-encoding", "chunked")], None, ("transfer-encoding: chunked\r\n", None)),
        ([], None, ("transfer-encoding: chunked\r\n", None)),
    ],
)
def test_framing(headers: list[tuple[str, str]], content: bytes | None, expected: tuple[str, int | None]) -> None:
    framing = framing_of(headers, content)
    assert (framing.header, framing.length) == expected


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ([("content-length", "4")], b"abc"),
        ([("content-length", "3"), ("content-length", "4")], b"abc"),
        ([("content-length", "-1")], None),
        ([("content-length", "+3")], b"abc"),
        ([("content-length", "\u0663")], b"abc"),
        ([("content-length", "9" * 30)], None),
        ([("content-length", "")], None),
    ],
)
def test_framing_that_contradicts_itself(headers: list[tuple[str, str]], content: bytes | None) -> None:
    with pytest.raises(LocalProtocolError):
        framing_of(headers, content)


def test_a_body_is_held_to_its_length() -> None:
    framer = BodyFramer(Framing("", 3))
    assert list(framer.frame(b"ab")) == [b"ab"]
    with pytest.raises(LocalProtocolError):
        framer.end()
    with pytest.raises(LocalProtocolError):
        list(framer.frame(b"cd"))
    assert list(framer.frame(b"c")) == [b"c"]
    assert framer.end() == b""


def test_chunks() -> None:
    framer = BodyFramer(CHUNKED)
    assert list(framer.frame(b"hello")) == [b"5\r\nhello\r\n"]
    assert list(framer.frame(b"")) == []
    assert framer.end() == b"0\r\n\r\n"
    pieces = list(framer.frame(b"x" * 600_000))
    assert len(pieces) == 3
    assert framer.total == 600_005

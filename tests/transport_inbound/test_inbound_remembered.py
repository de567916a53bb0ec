"""What the server remembers from request to request: bounded, and never another request's."""

from typing import Any

import pytest

from proxyless.transport.inbound import head, response_head, target


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((target, "_targets"), (head, "_names"), (head, "_hosts"), (response_head, "_heads")):
        monkeypatch.setattr(module, name, {})


def test_paths_are_remembered_up_to_a_bound() -> None:
    one, query = target.target(b"/a%41/../b?x=1", "GET")
    assert (one.judged, one.raw_path, one.path, one.respelled, query) == ("/b", b"/b", "/b", True, b"x=1")
    assert target.target(b"/a%41/../b?x=2", "POST") == (one, b"x=2")
    for number in range(3000):
        target.target(b"/%d" % number, "GET")
    target.target(b"/" + b"a" * 1000, "GET")
    assert len(target._targets) <= 1024
    assert max(map(len, target._targets)) <= 256
    assert target.target(b"/2999", "GET")[0].judged == "/2999"


@pytest.mark.parametrize(
    ("url", "method", "judged", "problem"),
    [
        (b"*", "OPTIONS", "*", ""),
        (b"*", "GET", "*", "a path that does not begin with a slash"),
        (b"http://a", "GET", "/", ""),
        (b"http://a/b/./c?d", "GET", "/b/c", ""),
        (b"/%00", "GET", "/%00", "an escaped NUL in its path"),
        (b"/?%00", "GET", "/", ""),
    ],
)
def test_what_a_request_line_asks_for(url: bytes, method: str, judged: str, problem: str) -> None:
    asked, _ = target.target(url, method)
    assert (asked.judged, asked.problem) == (judged, problem)


def test_hosts_and_names_are_remembered_up_to_a_bound() -> None:
    for number in range(3000):
        head._host(b"%d" % number)
        head._name(b"x-%d" % number)
    head._host(b"a" * 1000)
    assert len(head._hosts) <= 1024 and max(map(len, head._hosts)) <= 256
    assert len(head._names) <= 1024 and max(map(len, head._names)) <= 64


def test_heads_of_answers() -> None:
    lines: list[Any] = [
        (b"Content-Type", b"text/plain"),
        [b"x", bytearray(b"1")],
        (b"set-cookie", b"secret"),
        (b"Content-Length", b"2"),
    ]
    for _ in range(2):
        answer = response_head.response_head(200, iter(lines))
        assert (
            answer.text
            == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx: 1\r\nset-cookie: secret\r\ncontent-length: 2\r\n"
        )
        assert (answer.length, answer.chunked, answer.closes, answer.grpc_status) == (2, False, False, "")
    # Nobody's secrets, nor what never comes again.
    assert not response_head._heads
    steady = [(b"Content-Type", b"text/plain"), (b"Connection", b"x, Close"), (b"Transfer-Encoding", b"Chunked")]
    for _ in range(2):
        answer = response_head.response_head(200, steady)
        assert answer.text == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: x, Close\r\n"
        assert (answer.length, answer.chunked, answer.closes) == (None, True, True)
    assert response_head._heads == {(200, tuple(steady)): answer}
    for number in range(3000):
        assert response_head.response_head(200, [(b"content-length", b"%d" % number)]).length == number
    for strange in (
        [(b"vary", b"a" * 1000)],
        [(b"vary", b"a")] * 1000,
        [(b"x-%d" % number, b"") for number in range(9)],
    ):
        response_head.response_head(200, strange)
    assert len(response_head._heads) <= 1024
    assert all(len(lines) == 1 and len(lines[0][1]) <= 128 for _, lines in response_head._heads)


@pytest.mark.parametrize(
    "lines",
    [
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_heads_that_leave_open_where_the_body_ends(lines: list[tuple[bytes, bytes]]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"Content-Length|Transfer-Encoding"):
            response_head.response_head(200, lines)


@pytest.mark.parametrize("line", [(b"x", b"a\nb"), (b"x y", b"a"), (b"", b"a"), (b"content-type", b"a\x00")])
def test_what_would_be_more_than_one_line_is_refused_each_time(line: tuple[bytes, bytes]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Invalid HTTP header"):
            response_head.response_head(200, [line])

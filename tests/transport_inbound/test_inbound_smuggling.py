"""Requests that two servers in a row could read differently, and what a caller may not keep or claim for ever."""

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbound_support import CLIENT, SERVER, Authority, Running, TestRuntime, echo, exchange, read_reply
from inbound_support import serving_in_thread as serving

from proxyless.engine.caller import Caller
from proxyless.transport.inbound import protocol
from proxyless.transport.inbound.admission import read_scope
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import client_cert

KNOWN = Connection(Caller(True, CLIENT), local_id=str(SERVER), certificate_hash="00")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    authority = Authority()
    with serving(echo, TestRuntime(authority.source(SERVER))) as running:
        yield running


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400, id="a fragment"),
        pytest.param("GET http://b/admin HTTP/1.1\r\nhost: a\r\n\r\n", 400, id="another host in the URL"),
        pytest.param("GET http://a/admin HTTP/1.1\r\nHost: A\r\n\r\n", 200, id="the same host in the URL"),
        pytest.param("GET /?u=http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", 200, id="a URL in the query"),
        pytest.param("GET /\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505, id="HTTP/2 in the form of HTTP/1"),
        pytest.param("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 405, id="a proxy's method"),
        pytest.param("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="gzip"),
        pytest.param("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="HTTP/1.0"),
        pytest.param(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400, id="two lengths"
        ),
        pytest.param(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="length and chunked",
        ),
        pytest.param("GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n", 400, id="obs-fold"),
        pytest.param("GET / HTTP/1.1\nhost: a\n\n", 400, id="bare LF"),
        pytest.param("GET / HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n", 400, id="bare CR"),
    ],
)
def test_a_head_that_could_be_read_in_two_ways(server: Running, head: str, status: int) -> None:
    with server.connect() as connection:
        connection.sendall(head.encode("latin-1"))
        assert read_reply(connection).status == status
        if status != 200:
            assert until_closed(connection) == b""


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "apart"])
@pytest.mark.parametrize("framing", ["content-length: 32", "transfer-encoding: chunked"])
def test_the_body_of_an_upgrade_that_is_not_taken_is_no_second_request(
    server: Running, framing: str, apart: bool
) -> None:
    inner = b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n"
    body = inner if "length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    head = f"POST /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade, x\r\nupgrade: h2c\r\n{framing}\r\n\r\n".encode()
    with server.connect() as connection:
        connection.sendall(head if apart else head + body)
        if apart:
            connection.sendall(body)
        reply = read_reply(connection)
        assert (reply.status, reply.json["path"], reply.json["body"]) == (200, "/x", len(inner))
        assert "upgrade" not in dict(reply.json["headers"])
        assert until_closed(connection) == b""


def test_trailers_are_no_headers_and_are_bounded(server: Running) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"0\r\nauthorization: root\r\nx-forwarded-for: 10.0.0.1\r\n\r\n")
        reply = read_reply(connection)
        assert reply.status == 200
        assert {"authorization", "x-forwarded-for"}.isdisjoint(dict(reply.json["headers"]))
        assert exchange(connection).status == 200
    with server.connect() as connection:
        with pytest.raises(ConnectionError):
            connection.sendall(head + b"0\r\n")
            for _ in range(2000):
                connection.sendall(b"x: " + b"a" * 10_000 + b"\r\n")
        assert server.request().status == 200


def test_a_second_head_that_never_ends_is_cut_off(runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo, runtime) as server, server.connect() as connection:
        assert exchange(connection).status == 200
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.1)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: ")
        assert until_closed(connection) == b""


def test_a_connection_ends_with_the_certificate_it_was_made_with(
    authority: Authority, runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(echo, runtime) as server:
        with server.connect(authority.client_context(str(CLIENT))) as connection:
            assert exchange(connection).status == 200
        monkeypatch.setattr(protocol, "time", SimpleNamespace(time=lambda: time.time() + 3600.0))
        with server.connect(authority.client_context(str(CLIENT))) as connection:
            assert connection.recv(1) == b""


def test_names_of_the_mesh_cannot_be_written_with_underscores(server: Running) -> None:
    names = ("x_forwarded_client_cert", "X-Forwarded_Client-Cert", "x_envoy_internal", "x_proxyless_peer")
    found = dict(server.request("/", *(f"{name}: evil" for name in names), "x_mine: 1").json["headers"])
    assert not [name for name in found if name.startswith(("x_f", "x-f", "x_e", "x_p"))]
    assert found["x_mine"] == "1"


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        ('URI=a;Subject="CN=b,O=c"', True),
        (r'Subject="a\"b"', True),
        ('Subject="', False),
        (r'Subject="a\"', False),
        ('Subject="a";Cert="', False),
    ],
)
def test_no_quote_swallows_our_element(received: str, kept: bool) -> None:
    told = client_cert([received], KNOWN)
    assert told is not None
    assert (received in told) is kept
    assert told.endswith(f"By={SERVER};Hash=00;URI={CLIENT}")


_TEXT = st.text(st.characters(max_codepoint=255), max_size=40)
_NAMES = st.sampled_from(["host", "x-forwarded-client-cert", "x-envoy-internal", "te", "x_y"]) | _TEXT


@settings(deadline=None)
@given(
    headers=st.lists(st.tuples(_NAMES, _TEXT), max_size=8),
    path=st.binary(max_size=30),
    query=st.binary(max_size=30),
    known=st.booleans(),
)
def test_no_head_raises_and_none_speaks_for_the_mesh(
    headers: list[tuple[str, str]], path: bytes, query: bytes, known: bool
) -> None:
    scope: dict[str, Any] = {
        "method": "GET",
        "raw_path": path,
        "path": "/",
        "query_string": query,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "server": ("127.0.0.1", 80),
    }
    head, _ = read_scope(scope, KNOWN if known else Connection(Caller()))
    told = [value for name, value in head.kept if name.lower().replace(b"_", b"-") == b"x-forwarded-client-cert"]
    assert len(told) == known
    assert all(value.endswith(b"URI=" + str(CLIENT).encode()) for value in told)
    if not known:
        assert not [name for name, _ in head.headers if name.startswith(("x-envoy-", "x-proxyless-"))]
    if not head.problem:
        assert head.path.startswith("/")
        assert "#" not in head.path

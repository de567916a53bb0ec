"""The server on real sockets: TLS and plaintext on one port, identity, limits, drain."""

import asyncio
import contextlib
import errno
import json
import socket
import ssl
import threading
import time
import urllib.request
from typing import Any

import pytest
from inbound_support import CLIENT, DOMAIN, LOOPS, SERVER, Authority, Running, TestRuntime, echo, exchange, read_reply
from inbound_support import serving_in_thread as serving

from proxyless.model.errors import ConfigurationError
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import StringKind, StringMatcher

EVIL = f"By=spiffe://{DOMAIN}/ns/default/sa/hello;Hash=00;URI=spiffe://{DOMAIN}/ns/admin/sa/root"
loops = pytest.mark.parametrize("loop", sorted(LOOPS))


def headers_of(reply) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in reply.json["headers"]:
        found.setdefault(name, []).append(value)
    return found


@loops
def test_permissive_port_speaks_plaintext_and_mutual_tls(authority: Authority, runtime: TestRuntime, loop: str) -> None:
    with serving(echo, runtime, loop) as server:
        plain = server.request("/a%20b?x=1")
        assert plain.status == 200
        assert plain.json["path"] == "/a b"
        assert plain.json["tls"] is None
        assert plain.json["proxyless"] == {"peer": None, "tls": False, "handled": True}

        anonymous = server.request(context=authority.client_context())
        assert anonymous.json["proxyless"]["peer"] is None
        assert anonymous.json["tls"]["client_cert_chain"] == []
        assert "x-forwarded-client-cert" not in headers_of(anonymous)

        mutual = server.request(context=authority.client_context(str(CLIENT)))
        assert mutual.status == 200
        assert mutual.json["proxyless"]["peer"] == str(CLIENT)
        # What the caller asked for: an application's own URLs, of redirects too, have it.
        assert mutual.json["scheme"] == plain.json["scheme"] == "http"
        tls = mutual.json["tls"]
        assert tls["tls_version"] == 0x0304
        assert tls["cipher_suite"] in (0x1301, 0x1302, 0x1303)
        assert tls["client_cert_error"] is None
        assert tls["client_cert_name"] == ""
        assert tls["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE-----")
        assert tls["server_cert"].startswith("-----BEGIN CERTIFICATE-----")


@loops
def test_strict_port_serves_only_mutual_tls(authority: Authority, runtime: TestRuntime, loop: str) -> None:
    with serving(echo, runtime, loop) as server:
        runtime.require(server.port, MutualTls.STRICT)
        with pytest.raises(OSError):
            server.request()
        # TLS 1.3: the server's refusal of a missing certificate arrives after the client's handshake.
        with pytest.raises((ssl.SSLError, OSError)):
            server.request(context=authority.client_context())
        assert server.request(context=authority.client_context(str(CLIENT))).status == 200


@loops
def test_port_that_becomes_strict_refuses_its_open_plaintext_connections(runtime: TestRuntime, loop: str) -> None:
    with serving(echo, runtime, loop) as server, server.connect() as connection:
        assert exchange(connection).status == 200
        runtime.require(server.port, MutualTls.STRICT)
        refused = exchange(connection)
        assert refused.status == 403
        assert "STRICT" in (refused.header("x-proxyless-reason") or "")
        assert refused.header("x-envoy-response-flags") == "NR"
        assert refused.header("connection") == "close"
        assert connection.recv(1) == b""


def test_disabled_port_speaks_no_tls(authority: Authority, runtime: TestRuntime) -> None:
    with serving(echo, runtime) as server:
        runtime.require(server.port, MutualTls.DISABLE)
        assert server.request().status == 200
        with pytest.raises((ssl.SSLError, OSError)):
            server.request(context=authority.client_context(str(CLIENT)))


@pytest.mark.parametrize(
    "uris",
    [
        pytest.param((f"spiffe://{DOMAIN}/ns/a/sa/b", f"spiffe://{DOMAIN}/ns/c/sa/d"), id="two URI names"),
        pytest.param(("https://example.org/",), id="no SPIFFE ID"),
        pytest.param(("spiffe://elsewhere/ns/a/sa/b",), id="another trust domain"),
    ],
)
def test_certificate_without_a_valid_mesh_identity_is_cut_off(
    authority: Authority, runtime: TestRuntime, uris: tuple[str, ...]
) -> None:
    with serving(echo, runtime) as server:
        with pytest.raises((ssl.SSLError, OSError)):
            server.request(context=authority.client_context(*uris))
        assert server.request().status == 200


def test_certificate_of_another_root_is_refused(authority: Authority, runtime: TestRuntime) -> None:
    stranger = Authority()
    context = stranger.client_context(str(CLIENT))
    context.load_verify_locations(cadata=authority.roots_pem.decode())
    with serving(echo, runtime) as server, pytest.raises((ssl.SSLError, OSError)):
        server.request(context=context)


def test_only_the_identities_a_port_names_are_served(authority: Authority, runtime: TestRuntime) -> None:
    with serving(echo, runtime) as server, server.connect(authority.client_context(str(CLIENT))) as before:
        assert exchange(before).status == 200
        runtime.require(
            server.port, MutualTls.STRICT, san=(StringMatcher(StringKind.EXACT, f"spiffe://{DOMAIN}/ns/x/sa/y"),)
        )
        assert exchange(before).status == 403
        with pytest.raises((ssl.SSLError, OSError)):
            server.request(context=authority.client_context(str(CLIENT)))
        assert server.request(context=authority.client_context(f"spiffe://{DOMAIN}/ns/x/sa/y")).status == 200


def test_forged_headers_of_a_plaintext_caller_are_gone(runtime: TestRuntime) -> None:
    with serving(echo, runtime) as server:
        reply = server.request(
            "/",
            f"X-Forwarded-Client-Cert: {EVIL}",
            f"x-forwarded-client-cert: {EVIL}",
            "x-envoy-original-path: /admin",
            "X-Envoy-Internal: true",
            "x-proxyless-peer: root",
            "x-forwarded-for: 10.0.0.1",
        )
        found = headers_of(reply)
        assert not [name for name in found if name.startswith(("x-forwarded-client", "x-envoy-", "x-proxyless"))]
        assert found["x-forwarded-for"] == ["10.0.0.1"]
        assert reply.json["client"][0] == "127.0.0.1"


def test_xfcc_of_an_authenticated_caller_is_kept_and_ours_is_appended(
    authority: Authority, runtime: TestRuntime
) -> None:
    context = authority.client_context(str(CLIENT))
    with serving(echo, runtime) as server:
        [alone] = headers_of(server.request(context=context))["x-forwarded-client-cert"]
        by, digest, uri = alone.split(";")
        assert by == f"By={SERVER}"
        assert digest.startswith("Hash=") and len(digest) == 5 + 64
        assert uri == f"URI={CLIENT}"
        reply = server.request(
            "/",
            f"x-forwarded-client-cert: {EVIL}",
            "x-envoy-peer-metadata: x",
            "x-envoy-original-path: /v1",
            context=context,
        )
        found = headers_of(reply)
        assert found["x-forwarded-client-cert"] == [f"{EVIL},{alone}"]
        assert found["x-envoy-original-path"] == ["/v1"]
        assert "x-envoy-peer-metadata" not in found


@pytest.mark.parametrize(
    ("path", "host", "headers", "problem"),
    [
        ("/", "host: a\r\nhost: b", (), "more than one Host"),
        ("/", "host: a\r\nHOST: a", (), "more than one Host"),
        ("/", "", (), "no Host"),
        ("/", "host: good/admin?x=", (), "malformed Host"),
        ("/", "host: a,b", (), "malformed Host"),
        ("/", "host: user@a", (), "malformed Host"),
    ],
)
def test_ambiguous_head_is_answered_400(
    runtime: TestRuntime, path: str, host: str, headers: tuple[str, ...], problem: str
) -> None:
    with serving(echo, runtime) as server, server.connect() as connection:
        reply = exchange(connection, path, *headers, host=host)
        assert reply.status == 400
        assert problem in (reply.header("x-proxyless-reason") or "")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000, id="a value without end"),
        pytest.param(b"GET /" + b"a" * 70_000, id="a path without end"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", id="too many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 61_500 + b"\r\n\r\n", id="complete but too large"),
    ],
)
def test_head_without_bounds_is_refused(runtime: TestRuntime, head: bytes) -> None:
    with serving(echo, runtime) as server:
        with server.connect() as connection:
            connection.sendall(head)
            assert read_reply(connection).status == 431
        assert server.request().status == 200


def test_wsgi_application_is_recognised_and_loses_underscored_names(authority: Authority, runtime: TestRuntime) -> None:
    def app(environ, start_response):
        lines = sorted(f"{name}={value}" for name, value in environ.items() if name.startswith("HTTP_X_"))
        body = "\n".join(lines).encode()
        start_response("200 OK", [("content-length", str(len(body)))])
        return [body]

    with serving(app, runtime) as server:
        reply = server.request("/", "x-real: 1", "x_real: 2", "x_envoy_original_path: /", "X_Forwarded_Client_Cert: x")
        names = {line.partition("=")[0]: line.partition("=")[2] for line in reply.body.decode().split("\n")}
        assert names["HTTP_X_REAL"] == "1"
        assert set(names) == {"HTTP_X_REAL", "HTTP_X_REQUEST_ID"}
        mutual = server.request(context=authority.client_context(str(CLIENT)))
        assert f"URI={CLIENT}" in mutual.body.decode()


def test_metrics_endpoint(runtime: TestRuntime) -> None:
    with serving(echo, runtime) as server:
        server.request()
        host, port = server.metrics
        with urllib.request.urlopen(f"http://{host}:{port}/stats/prometheus", timeout=60) as answer:
            text = answer.read().decode()
        assert 'istio_requests_total{connection_security_policy="none"' in text
        with socket.create_connection(server.metrics, timeout=60) as connection:
            connection.sendall(b"GET /" + b"a" * 20_000 + b"\r\n\r\n")
            assert b"200" not in connection.recv(100)


def slow_application(started: threading.Event, release: threading.Event):
    async def app(scope, receive, send):

        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            started.set()
            while not release.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


@loops
def test_drain_finishes_what_is_under_way_and_still_answers(runtime: TestRuntime, loop: str) -> None:
    started, release = threading.Event(), threading.Event()
    with serving(slow_application(started, release), runtime, loop, drain_delay=2.0) as server:
        with server.connect() as busy, server.connect() as idle:
            assert exchange(idle).header("connection") is None
            busy.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            assert started.wait(60)
            server.end()
            assert server.draining.wait(60)
            # Draining: an open connection and a new one are both served, and told to go elsewhere.
            assert exchange(idle).header("connection") == "close"
            assert server.request().status == 200
            release.set()
            finished = read_reply(busy)
            assert (finished.status, finished.body, finished.header("connection")) == (200, b"ok", "close")
        server.thread.join(60)
        with pytest.raises(ConnectionRefusedError):
            server.connect()


@loops
def test_head_and_body_of_a_response_are_one_write(runtime: TestRuntime, loop: str) -> None:
    """A process killed between two would leave half a response, which nobody may ask for again."""
    with serving(echo, runtime, loop) as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")
        first = connection.recv(65536)
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and json.loads(body)


@loops
def test_head_does_not_wait_for_a_body_that_takes_its_time(runtime: TestRuntime, loop: str) -> None:

    release = threading.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        while not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"ok"})

    with serving(app, runtime, loop) as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")
        assert connection.recv(65536).endswith(b"\r\n\r\n")
        release.set()
        assert connection.recv(65536) == b"ok"


@loops
def test_first_request_of_a_connection_made_before_the_end_is_answered(
    runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """It may be a POST, which nobody repeats."""
    monkeypatch.setattr("proxyless.transport.inbound.server.FIRST_REQUEST_DELAY", 10.0)
    with serving(echo, runtime, loop) as server, server.connect() as silent, server.connect() as idle:
        assert exchange(idle).status == 200
        server.end()
        assert server.draining.wait(60)
        with pytest.raises(ConnectionError):  # a reset where it was queued when the listener closed
            while True:
                server.connect().close()
                time.sleep(0.005)  # more than MAX_PENDING of these at a time would push the silent one out
        assert exchange(silent).header("connection") == "close"
        server.thread.join(60)
        assert not server.thread.is_alive()


def test_request_that_outlives_the_drain_is_given_up(runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyless.transport.inbound.server.SHUTDOWN_BUDGET", 2.0)
    started, release = threading.Event(), threading.Event()
    with serving(slow_application(started, release), runtime) as server, server.connect() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        assert started.wait(60)
        server.end()
        server.thread.join(60)
        assert not server.thread.is_alive()


def test_taken_port_is_a_clear_error(runtime: TestRuntime) -> None:

    from proxyless.transport.inbound.application import Loaded
    from proxyless.transport.inbound.serve import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            asyncio.run(serve(Loaded("a:b", echo, True), runtime, ports={"": port}))


def test_accepting_survives_running_out_of_descriptors(runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "aborted")]
    with serving(echo, runtime) as server:
        real = server.loop.sock_accept

        async def failing(listening):
            if failures:
                raise failures.pop()
            return await real(listening)

        server.loop.call_soon_threadsafe(lambda: monkeypatch.setattr(server.loop, "sock_accept", failing))
        monkeypatch.setattr("proxyless.transport.inbound.accept._RETRY", 0.0)
        for _ in range(4):
            assert server.request().status == 200
        assert not failures
    assert isinstance(server, Running)


def test_connections_that_idle_make_room_for_new_ones(runtime: TestRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[OSError] = []
    arrived, answer = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            arrived.set()
            await asyncio.to_thread(answer.wait, 60)
        await echo(scope, receive, send)

    with serving(app, runtime) as server, contextlib.ExitStack() as held:
        real = server.loop.sock_accept

        async def failing(listening: Any) -> Any:
            if failures:
                raise failures.pop()
            return await real(listening)

        monkeypatch.setattr("proxyless.transport.inbound.accept._RETRY", 0.0)
        monkeypatch.setattr("proxyless.transport.inbound.server._SPARED", 0.0)
        busy = held.enter_context(server.connect())
        busy.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        assert arrived.wait(60)
        idle = [held.enter_context(server.connect()) for _ in range(3)]
        for one in idle:
            assert exchange(one).status == 200
        monkeypatch.setattr(server.loop, "sock_accept", failing)
        failures.append(OSError(errno.EMFILE, "Too many open files"))
        # The accept under way is of before; the one after it fails.
        held.enter_context(server.connect())
        assert [one.recv(1) for one in idle] == [b""] * 3
        assert server.request().status == 200
        answer.set()
        assert read_reply(busy).status == 200

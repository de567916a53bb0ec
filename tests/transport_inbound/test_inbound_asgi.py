"""MeshASGI and MeshWSGI as a foreign server sees them, telemetry and context included."""

import asyncio
import io
import logging
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from inbound_support import LOOPS, TestRuntime
from inbound_support import serving_in_thread as serving

from proxyless.engine.request import Request
from proxyless.model.inbound import MutualTls
from proxyless.telemetry.context import current
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.wsgi import MeshWSGI

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def call(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Run an ASGI application on one scope; returns what it sent."""
    incoming, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": f"{scope['type']}.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def http(path: str = "/", *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"hello"), *headers],
        "server": ("127.0.0.1", 8080),
        "client": ("10.1.1.1", 5000),
        **more,
    }


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def metrics(runtime: TestRuntime) -> list[str]:
    text = runtime.telemetry.prometheus().decode()
    return [line for line in text.splitlines() if line.startswith("istio_requests_total{")]


@pytest.mark.parametrize(
    "tls",
    [
        pytest.param({}, id="a server without the tls extension"),
        pytest.param(
            {"extensions": {"tls": {"client_cert_chain": ["-----BEGIN CERTIFICATE-----"], "client_cert_error": None}}},
            id="a server whose verification we did not see",
        ),
    ],
)
def test_strict_fails_closed_under_a_foreign_server(runtime: TestRuntime, tls: dict[str, Any]) -> None:
    runtime.require(8080, MutualTls.STRICT)
    start, body = call(MeshASGI(ok, runtime), http(**tls))
    assert start["status"] == 403
    headers = dict(start["headers"])
    assert b"STRICT" in headers[b"x-proxyless-reason"]
    assert headers[b"x-envoy-response-flags"] == b"NR"
    assert body["body"] == b"mutual TLS required"
    assert 'response_code="403",response_flags="NR"' in metrics(runtime)[0]


def test_permissive_under_a_foreign_server_believes_nobody(runtime: TestRuntime) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await ok(scope, receive, send)

    runtime.require(8080, MutualTls.PERMISSIVE)
    start, _ = call(
        MeshASGI(app, runtime),
        http("/", (b"x-forwarded-client-cert", b"URI=spiffe://a/ns/b/sa/c"), (b"X-Envoy-A", b"1")),
    )
    assert start["status"] == 200
    names = [name for name, _ in seen["headers"]]
    assert names == [b"host", b"x-request-id", b"traceparent"]
    assert seen["extensions"]["proxyless"]["peer"] is None


@pytest.mark.parametrize(
    ("scope", "problem"),
    [
        (http("no-slash"), b"slash"),
        (http("/a#b"), b"fragment"),
        (http("*"), b"slash"),
        (http("/", (b"host", b"other")), b"more than one Host"),
    ],
)
def test_ambiguous_requests_never_reach_the_application(
    runtime: TestRuntime, scope: dict[str, Any], problem: bytes
) -> None:
    start, _ = call(MeshASGI(ok, runtime), scope)
    assert start["status"] == 400
    assert problem in dict(start["headers"])[b"x-proxyless-reason"]


def test_wrapping_twice_counts_once(runtime: TestRuntime) -> None:
    call(MeshASGI(MeshASGI(ok, runtime), runtime), http())
    [line] = metrics(runtime)
    assert line.endswith(" 1.0")


def test_lifespan_passes_through(runtime: TestRuntime) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    assert call(MeshASGI(app, runtime), {"type": "lifespan"}) == [{"type": "lifespan.startup.complete"}]


@pytest.mark.parametrize(
    ("name", "code", "flags"),
    [("raises", "500", "-"), ("gone", "0", "DC"), ("silent", "500", "-"), ("cut", "200", "DC")],
)
def test_how_a_request_ends_is_what_telemetry_says(runtime: TestRuntime, name: str, code: str, flags: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if name == "raises":
            raise RuntimeError("no")
        if name == "cut":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if name in ("gone", "cut"):
            assert (await receive())["type"] == "http.disconnect"

    try:
        call(MeshASGI(app, runtime), http())
    except RuntimeError:
        assert name == "raises"
    assert f'response_code="{code}",response_flags="{flags}"' in metrics(runtime)[0]


def test_websocket_is_judged_observed_and_continued(runtime: TestRuntime) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current.get() is not None
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close"})

    scope = http() | {"type": "websocket", "scheme": "ws"}
    del scope["method"]
    connect, hello = {"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}
    sent = call(MeshASGI(app, runtime), scope, connect, hello)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert 'response_code="101",response_flags="-"' in metrics(runtime)[0]

    runtime.require(8080, MutualTls.STRICT)
    assert call(MeshASGI(app, runtime), scope, connect)[0]["type"] == "websocket.close"
    scope["extensions"] = {"websocket.http.response": {}}
    assert call(MeshASGI(app, runtime), scope, connect)[0]["status"] == 403


@pytest.mark.parametrize("api", ["with OpenTelemetry loaded", "without"])
@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_context_flows_into_the_calls_an_asgi_application_makes(
    runtime: TestRuntime, authority: Any, loop: str, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import opentelemetry.trace  # noqa: F401

    if api == "without":
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    from inbound_support import CLIENT

    calls: list[Request] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan")

        async def downstream() -> None:
            request = Request("GET", "ratings:80", "/")
            runtime.telemetry.begin_client(request)
            calls.append(request)

        await asyncio.gather(downstream(), asyncio.create_task(downstream()))
        await ok(scope, receive, send)

    sent = [f"traceparent: 00-{TRACE}-{PARENT}-01", "tracestate: a=b", "x-request-id: abc-1", f"b3: {TRACE}-{PARENT}-1"]
    with serving(app, runtime, loop) as server:
        waits = "x-envoy-expected-rq-timeout-ms: 5000"
        server.request("/", *sent, waits, context=authority.client_context(str(CLIENT)))
        server.request("/", *sent, waits)
    assert len(calls) == 4
    for request in calls:
        assert request.header("traceparent") == f"00-{TRACE}-{PARENT}-01"
        assert request.header("tracestate") == "a=b"
        assert request.header("b3") == f"{TRACE}-{PARENT}-1"
        assert request.header("x-request-id") == "abc-1"
    # A deadline is believed only from an authenticated caller.
    assert [request.deadline is not None for request in calls] == [True, True, False, False]


def wsgi_environ(**variables: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"SERVER_PORT": "8080", "HTTP_HOST": "hello", "PATH_INFO": "/x", **variables}
    setup_testing_defaults(environ)
    return environ


def test_wsgi_context_headers_and_metrics(runtime: TestRuntime) -> None:
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append({name: value for name, value in environ.items() if name.startswith("HTTP_")})
        seen.append(environ["wsgi.input"].read(3))
        start_response("201 Created", [])
        yield b"one"
        request = Request("GET", "ratings:80", "/")
        runtime.telemetry.begin_client(request)
        seen.append(request)
        yield b"two"

    status: list[str] = []
    response = MeshWSGI(app, runtime)(
        wsgi_environ(
            HTTP_X_FORWARDED_CLIENT_CERT="URI=x",
            HTTP_X_ENVOY_ORIGINAL_PATH="/admin",
            HTTP_X_REQUEST_ID="abc",
            HTTP_TRACEPARENT=f"00-{TRACE}-{PARENT}-00",
            **{"wsgi.input": io.BytesIO(b"abcdef")},
        ),
        lambda line, headers, exc_info=None: status.append(line),
    )
    assert b"".join(response) == b"onetwo"
    response.close()
    assert current.get() is None
    variables, read, request = seen
    assert not [name for name in variables if "ENVOY" in name or "CLIENT_CERT" in name]
    assert read == b"abc"
    assert request.header("x-request-id") == "abc"
    assert request.header("traceparent") == f"00-{TRACE}-{PARENT}-00"
    assert 'response_code="201",response_flags="-"' in metrics(runtime)[0]
    text = runtime.telemetry.prometheus().decode()
    sums = [line.rpartition(" ")[2] for line in text.splitlines() if "_bytes_sum" in line]
    assert sums == ["3.0", "6.0"]


def test_wsgi_fails_closed(runtime: TestRuntime) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise RuntimeError("never called, or it is the test below")

    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        answers.append((status, headers))

    with pytest.raises(RuntimeError):
        MeshWSGI(app, runtime)(wsgi_environ(), start)
    assert current.get() is None
    runtime.require(8080, MutualTls.STRICT)
    assert MeshWSGI(app, runtime)(wsgi_environ(), start) == [b"mutual TLS required"]
    assert MeshWSGI(app, runtime)(wsgi_environ(HTTP_HOST="a,b"), start) == [b"Bad Request"]
    assert [status for status, _ in answers] == ["403 Forbidden", "400 Bad Request"]
    assert "STRICT" in dict(answers[0][1])["x-proxyless-reason"]


def test_access_log_line_cannot_be_forged(runtime: TestRuntime, caplog: pytest.LogCaptureFixture) -> None:
    forged = b'x"\r\n[2026] "GET /forged HTTP/1.1" 200 \xe2\x80\xa8\x1b[31m\\'
    scope = http("/a?b=c", (b"user-agent", forged), (b"x-request-id", b"a b\nc"))
    logger = logging.getLogger("proxyless.access")
    call(MeshASGI(ok, runtime), scope)
    assert not caplog.records
    with caplog.at_level(logging.INFO, logger.name):
        call(MeshASGI(ok, runtime), scope)
    [record] = caplog.records
    line = record.getMessage()
    assert line.isprintable() and line.isascii()
    assert '"GET /a?b=c HTTP/1.1" 200 - via_upstream - "-" 0 2 ' in line
    assert r"x\x22\x0d\x0a[2026] \x22GET /forged" in line
    assert line.count('"') % 2 == 0
    assert record.access["downstream_remote_address"] == "10.1.1.1:5000"
    # An unusable request id is replaced, as no line or header may be built from it.
    assert len(record.access["request_id"]) == 36

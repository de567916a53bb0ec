"""Load reports (ORCA) in the head of HTTP responses."""

import asyncio
import json
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from inbound_support import TestRuntime
from inbound_support import serving_in_thread as serving

import proxyless
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.wsgi import MeshWSGI

HEADER = "endpoint-load-metrics"


def record(path: str) -> None:
    if path == "/cost":
        proxyless.call_metrics().record_request_cost_metric("rows ä\n", 3).record_cpu_utilization_metric(0.5)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    record(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    record(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def foreign_asgi(runtime: TestRuntime, path: str) -> str | None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "headers": [(b"host", b"hello")]}
    asyncio.run(MeshASGI(asgi, runtime)(scope, receive, send))
    found = [value.decode() for name, value in sent[0]["headers"] if name == HEADER.encode()]
    return found[0] if found else None


def foreign_wsgi(runtime: TestRuntime, path: str) -> str | None:
    sent: list[Any] = []
    environ: dict[str, Any] = {"HTTP_HOST": "hello", "PATH_INFO": path}
    setup_testing_defaults(environ)
    response: Any = MeshWSGI(wsgi, runtime)(environ, lambda status, headers, exc_info=None: sent.extend(headers))
    assert b"".join(response) == b"ok"
    response.close()
    return dict(sent).get(HEADER)


def check(told: str | None, nothing: str | None) -> None:
    assert nothing is None
    assert told is not None
    kind, _, text = told.partition(" ")
    report = json.loads(text)
    assert kind == "JSON"
    assert (report["request_cost"], report["cpu_utilization"]) == ({"rows ä\n": 3}, 0.5)
    assert 0 < report["mem_utilization"] < 1  # measured


@pytest.mark.parametrize("app", [asgi, wsgi])
def test_what_a_request_records_is_in_the_head(runtime: TestRuntime, app: Any) -> None:
    with serving(app, runtime) as server:
        check(server.request("/cost").header(HEADER), server.request("/").header(HEADER))
        # For the server as a whole, if it is asked for.
        runtime.telemetry.server_metrics.report_with_calls()
        assert server.request("/").header(HEADER)


@pytest.mark.parametrize("ask", [foreign_asgi, foreign_wsgi])
def test_under_a_foreign_server_too(runtime: TestRuntime, ask: Any) -> None:
    check(ask(runtime, "/cost"), ask(runtime, "/"))

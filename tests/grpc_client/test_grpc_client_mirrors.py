"""Copies of unary calls: sent beside the call, for nobody to wait for."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_client_support import (
    PATIENCE,
    TARGET,
    Backend,
    FakeRuntime,
    cluster,
    forward,
    perform,
    retrying,
    until,
    world,
)

from proxyless.model.route import Mirror
from proxyless.transport import mirrors
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

Start = Callable[..., Backend]
OK = grpc.StatusCode.OK


def mirrored(to: int, mirror: int, *policies: Mirror, **action: Any) -> FakeRuntime:
    clusters = [cluster(to), cluster(mirror, name="next")]
    return FakeRuntime(world(clusters, forward("ratings", mirrors=policies or (Mirror("next"),), **action)))


def lines(runtime: FakeRuntime, service: str) -> list[str]:
    found = [line for line in runtime.metrics().splitlines() if line.startswith("istio_requests_total{")]
    return [line for line in found if f'destination_service_name="{service}"' in line]


def unary(api: str, runtime: FakeRuntime, method: str, times: int = 1, then: Callable[[], object] = bool) -> None:
    """then: what must have happened before the channel is closed."""
    if api == "sync":
        with MeshChannel(runtime, TARGET) as channel:
            for _ in range(times):
                channel.unary_unary(f"/test.Echo/{method}")(b"x", timeout=PATIENCE)
            until("the copies", then)
        return

    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET) as aio:
            for _ in range(times):
                await aio.unary_unary(f"/test.Echo/{method}")(b"x", timeout=PATIENCE)
            await asyncio.to_thread(until, "the copies", then)

    asyncio.run(scenario())


def test_a_copy_goes_elsewhere(api: str, backend: Start) -> None:
    server, other = backend("first"), backend("second")
    server.failures = 1
    runtime = mirrored(server.port, other.port, retry=retrying("unavailable"))
    unary(api, runtime, "Fail", then=lambda: lines(runtime, "next"))
    assert ([name for name, _ in server.calls], [name for name, _ in other.calls]) == (["Fail"] * 2, ["Fail"])
    sent, copied = server.calls[0][1], other.calls[0][1]
    assert copied["x-request-id"] == sent["x-request-id"]
    assert copied["x-envoy-attempt-count"] == "1"
    (line,) = lines(runtime, "next")
    for label in ('reporter="source"', 'grpc_response_status="0"', 'request_protocol="grpc"', 'response_flags="-"'):
        assert label in line
    assert line.endswith(" 1.0")
    assert runtime.engine.active_requests("next", ("127.0.0.1", other.port)) == 0


@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
def test_streams_are_not_copied(api: str, backend: Start, kind: str) -> None:
    server, other = backend(), backend()
    method = {"unary_stream": "Many", "stream_unary": "Join", "stream_stream": "Ping"}[kind]
    runtime = mirrored(server.port, other.port)
    assert perform(api, runtime, kind, method, b"1").code is OK
    assert other.calls == []


def test_nobody_hears_of_a_copy_that_fails(api: str, backend: Start) -> None:
    server, gone = backend(), backend()
    gone.stop().wait(PATIENCE)
    runtime = mirrored(server.port, gone.port)
    unary(api, runtime, "Unary", then=lambda: lines(runtime, "next"))
    (line,) = lines(runtime, "next")
    assert 'grpc_response_status="14"' in line and 'response_flags="UF"' in line


def test_copies_are_bounded(api: str, backend: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server, slow = backend(), backend()
    monkeypatch.setattr(mirrors, "MOST", 1)
    slow._unary = slow._sleep  # type: ignore[method-assign]
    runtime = mirrored(server.port, slow.port)

    def dropped() -> bool:
        return any('response_flags="UO"' in line and line.endswith(" 2.0") for line in lines(runtime, "next"))

    unary(api, runtime, "Unary", 3, dropped)
    assert len(server.calls) == 3
    assert 'grpc_response_status="14"' in next(line for line in lines(runtime, "next") if '"UO"' in line)


def test_where_no_thread_can_be_started_a_call_goes_without_its_copy(
    backend: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, other = backend(), backend()
    runtime = mirrored(server.port, other.port)
    start = threading.Thread.start

    def refused(self: threading.Thread) -> None:
        if self.name.startswith("proxyless-"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    unary("sync", runtime, "Unary", 2, lambda: lines(runtime, "next"))
    (line,) = lines(runtime, "next")
    assert 'response_flags="UO"' in line and line.endswith(" 2.0")
    assert (len(server.calls), len(other.calls)) == (2, 0)

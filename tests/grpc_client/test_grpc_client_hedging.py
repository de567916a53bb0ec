"""Two attempts of a call under way. Who is late is made to be: it waits for what happens elsewhere."""

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

from proxyless.transport.grpc_client import MeshChannel

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
Start = Callable[..., Backend]


class Scripted(Backend):
    """The n-th attempt of a call of ``Unary`` or ``Many`` is treated in the n-th way."""

    def __init__(self, *ways: str) -> None:
        self.ways = ways
        self.cancelled = threading.Event()
        super().__init__()

    def _treat(self, context: grpc.ServicerContext) -> str:
        way = self.ways[int(dict(context.invocation_metadata())["x-envoy-attempt-count"]) - 1]
        if way == "hang":
            context.add_callback(self.cancelled.set)
            self.gone.wait(PATIENCE)
        if way.startswith("late"):
            until("another attempt", lambda: len(self.calls) > 1)
        if way.endswith("fails"):
            context.abort(UNAVAILABLE, way)
        return way

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request + b"|" + self._treat(context).encode()

    def _many(self, request: bytes, context: grpc.ServicerContext) -> Any:
        way = self._treat(context)
        for number in range(3):
            yield f"{way}{number}".encode()


@pytest.fixture
def scripted(backend: Start) -> Any:
    made: list[Scripted] = []

    def start(*ways: str, patience: float = 0.05) -> tuple[Scripted, FakeRuntime]:
        server = Scripted(*ways)
        made.append(server)
        policy = retrying("unavailable", retries=len(ways) - 1, per_try_timeout=patience)
        return server, FakeRuntime(world([cluster(server.port)], forward("ratings", retry=policy, hedge=True)))

    yield start
    for one in made:
        one.gone.set()
    for one in made:
        one.stop().wait(30)


@pytest.mark.parametrize(
    ("ways", "code", "told"),
    [
        (("quick",), OK, b"x|quick"),
        (("hang", "second"), OK, b"x|second"),
        (("late", "hang"), OK, b"x|late"),
        (("hang", "hang", "third"), OK, b"x|third"),
        (("late fails", "fails"), UNAVAILABLE, None),
    ],
)
def test_who_answers(api: str, scripted: Any, ways: tuple[str, ...], code: grpc.StatusCode, told: bytes | None) -> None:
    server, runtime = scripted(*ways)
    found = perform(api, runtime, "unary_unary", "Unary", b"x")
    assert (found.code, found.messages) == (code, [] if told is None else [told])
    assert len(server.calls) == len(ways)
    if "hang" in ways:
        assert server.cancelled.wait(PATIENCE)
    until("nobody in flight", lambda: runtime.engine.active_requests("ratings", ("127.0.0.1", server.port)) == 0)


def test_what_waits_for_its_head_is_cancelled_with_the_call(api: str, scripted: Any) -> None:
    server, runtime = scripted("hang", "hang")
    found = perform(api, runtime, "unary_unary", "Unary", b"x", timeout=1.0)
    assert (found.code, found.messages) == (grpc.StatusCode.DEADLINE_EXCEEDED, [])
    assert server.cancelled.wait(PATIENCE)
    assert runtime.engine.active_requests("ratings", ("127.0.0.1", server.port)) == 0


@pytest.mark.parametrize(("ways", "winner"), [(("hang", "second"), "second"), (("late", "hang"), "late")])
def test_a_stream_of_answers_is_that_of_one_attempt(scripted: Any, ways: tuple[str, ...], winner: str) -> None:
    server, runtime = scripted(*ways)
    found = perform("aio", runtime, "unary_stream", "Many", b"x")
    assert (found.code, found.messages) == (OK, [f"{winner}{number}".encode() for number in range(3)])
    assert server.cancelled.wait(PATIENCE)


def test_a_call_that_streams_back_is_not_hedged_by_blocking_channels(scripted: Any) -> None:
    server, runtime = scripted("hang", "second", patience=1.0)
    found = perform("sync", runtime, "unary_stream", "Many", b"x", metadata=(("x-envoy-retry-on", "5xx"),))
    assert found.messages == [b"second0", b"second1", b"second2"]
    # The per-try timeout has ended the first.
    assert server.cancelled.wait(PATIENCE)


def test_a_future_that_is_cancelled_ends_them_all(scripted: Any) -> None:
    server, runtime = scripted("hang", "hang")
    with MeshChannel(runtime, TARGET, ()) as channel:
        call: Any = channel.unary_unary("/test.Echo/Unary")
        future = call.future(b"x", timeout=PATIENCE)
        until("both attempts", lambda: len(server.calls) == 2)
        assert future.cancel()
        assert server.cancelled.wait(PATIENCE)
        until("nobody in flight", lambda: runtime.engine.active_requests("ratings", ("127.0.0.1", server.port)) == 0)

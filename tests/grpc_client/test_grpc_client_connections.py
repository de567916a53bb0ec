"""Connections under calls: those that hang, and those that nobody uses."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, until, world

from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel
from proxyless.transport.grpc_client.credentials import options

Start = Callable[..., Backend]
PINGING = (("grpc.keepalive_time_ms", 200), ("grpc.keepalive_timeout_ms", 200))


class Line:
    """Bytes between a caller and a port, until it is ``cut``: then they go nowhere, and nobody is told."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = [self._listening]
        self._threads: list[threading.Thread] = []
        self._cut = False
        self._begin(self._accept)

    def cut(self) -> None:
        self._cut = True

    def close(self) -> None:
        _end(*self._open)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _begin(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._open += [caller, server]
            self._begin(self._copy, caller, server)
            self._begin(self._copy, server, caller)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._cut:
                    sink.sendall(data)
        _end(source, sink)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(backend: Start) -> Iterator[tuple[Backend, Line]]:
    server = backend()
    made = Line(server.port)
    try:
        yield server, made
    finally:
        made.close()


def test_keepalive_ends_a_call_on_a_dead_line(api: str, line: tuple[Backend, Line]) -> None:
    """The application has set no timeout; without pings it would wait for ever."""
    server, between = line
    runtime = FakeRuntime(world([cluster(between.port)]))
    if api == "sync":
        with MeshChannel(runtime, TARGET, PINGING) as channel:
            future: Any = channel.unary_unary("/test.Echo/Sleep").future(b"")
            until("the call", lambda: server.calls)
            between.cut()
            assert future.exception(PATIENCE).code() is grpc.StatusCode.UNAVAILABLE
        return

    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET, PINGING) as channel:
            call: Any = channel.unary_unary("/test.Echo/Sleep")(b"")
            await asyncio.to_thread(until, "the call", lambda: server.calls)
            between.cut()
            assert await asyncio.wait_for(call.code(), PATIENCE) is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_an_unused_connection_is_given_up(backend: Start) -> None:
    async def scenario() -> None:
        async with AioMeshChannel(runtime, TARGET) as channel:
            call = channel.unary_unary("/test.Echo/Unary")
            assert await call(b"x", timeout=PATIENCE) == b"x"
            async with asyncio.timeout(PATIENCE):
                while channel.get_state() is not grpc.ChannelConnectivity.IDLE:
                    await asyncio.sleep(0.02)
            assert await call(b"y", timeout=PATIENCE) == b"y"

    runtime = FakeRuntime(world([cluster(backend().port, idle_timeout=1.0)]))
    asyncio.run(scenario())


def test_what_the_application_asks_for_wins_but_over_identity() -> None:
    asked = (("grpc.client_idle_timeout_ms", 5), ("grpc.keepalive_time_ms", 9), ("grpc.default_authority", "forged"))
    found = dict(options(cluster(1), TARGET, None, asked))
    assert (found["grpc.client_idle_timeout_ms"], found["grpc.keepalive_time_ms"]) == (5, 9)
    assert found["grpc.default_authority"] == TARGET
    assert dict(options(cluster(1), TARGET, None, ()))["grpc.client_idle_timeout_ms"] == 3_600_000

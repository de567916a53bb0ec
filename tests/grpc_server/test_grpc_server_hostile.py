"""Clients that speak HTTP/2 as no gRPC client does, over raw sockets: what they are told, and that they are let go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
from grpc_support import SERVICE, Echo, GrpcTestRuntime, plaintext, started

from proxyless.transport import stall
from proxyless.transport.grpc_server import connection as connections
from proxyless.transport.grpc_server.server import MeshGrpcServer
from proxyless.transport.grpc_wire.connection import PREFACE

PATIENCE = 60.0
HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/Call"), (":authority", "localhost"),
    ("te", "trailers"), ("content-type", "application/grpc"),
]  # fmt: skip
EMPTY = bytes(5)


class Peer:
    """An h2 client that checks nothing of what it sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.h2.initiate_connection()

    def ask(self, head: list[tuple[str, str]], body: bytes = EMPTY, *, end: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, head)
        self.h2.send_data(number, body, end_stream=end)
        return number

    async def events(self) -> AsyncIterator[Any]:
        while True:
            self.writer.write(self.h2.data_to_send())
            data = await asyncio.wait_for(self.reader.read(65_536), PATIENCE)
            if not data:
                return
            for event in self.h2.receive_data(data):
                yield event

    async def answer(self, number: int) -> dict[str, str]:
        """Head and trailers of one stream; ``reset`` if it was."""
        found: dict[str, str] = {}
        async for event in self.events():
            if getattr(event, "stream_id", None) != number:
                continue
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found |= {_text(name): _text(value) for name, value in event.headers}
            if isinstance(event, h2.events.StreamReset):
                found["reset"] = h2.errors.ErrorCodes(event.error_code).name
                return found
            if isinstance(event, h2.events.StreamEnded):
                return found
        return found | {"closed": ""}

    async def ended(self) -> None:
        """By the server."""
        async for _ in self.events():
            pass


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


@contextlib.asynccontextmanager
async def served(runtime: GrpcTestRuntime, echo: Any = None, **arguments: Any) -> AsyncIterator[tuple[int, Any]]:
    server = started(runtime, echo or Echo(), **arguments)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, server
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def peer(port: int) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


def changed(name: str, value: str | None) -> list[tuple[str, str]]:
    return [(key, old if key != name else value) for key, old in HEAD if key != name or value is not None]  # type: ignore[misc]


STATUS, CODE = ":status", "grpc-status"
TABLE: list[tuple[str, list[tuple[str, str]], bytes, dict[str, str]]] = [
    ("well", HEAD, EMPTY, {STATUS: "200", CODE: "0"}),
    ("get", changed(":method", "GET"), EMPTY, {STATUS: "405"}),
    ("no content type", changed("content-type", None), EMPTY, {STATUS: "415"}),
    ("web", changed("content-type", "application/grpc-web"), EMPTY, {STATUS: "415"}),
    ("suffix", changed("content-type", "application/grpc+proto"), EMPTY, {STATUS: "200", CODE: "0"}),
    ("no te", changed("te", None), EMPTY, {CODE: "13"}),
    ("no path", changed(":path", None), EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("no authority", changed(":authority", None), EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("host", [*changed(":authority", None), ("host", "h")], EMPTY, {CODE: "0"}),
    ("two hosts", [*changed(":authority", None), ("host", "h"), ("host", "i")], EMPTY, {CODE: "13"}),
    ("two authorities", [HEAD[3], *HEAD], EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("bad authority", changed(":authority", "a,b"), EMPTY, {CODE: "13"}),
    ("fragment", changed(":path", "/a#b"), EMPTY, {CODE: "13"}),
    ("late pseudo-header", [*HEAD[1:], HEAD[0]], EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("connection", [*HEAD, ("connection", "close")], EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("upper case", [*HEAD, ("X-Up", "a")], EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("line break", [*HEAD, ("x", "a\r\nb: c")], EMPTY, {"reset": "PROTOCOL_ERROR"}),
    ("no base64", [*HEAD, ("a-bin", "!!!")], EMPTY, {CODE: "13"}),
    ("timeout", [*HEAD, ("grpc-timeout", "soon")], EMPTY, {CODE: "13"}),
    ("long timeout", [*HEAD, ("grpc-timeout", "99999999H")], EMPTY, {CODE: "0"}),
    ("encoding", [*HEAD, ("grpc-encoding", "br")], EMPTY, {CODE: "12"}),
    ("unknown method", changed(":path", "/a.B/C"), EMPTY, {CODE: "12", "grpc-message": "Method not found!"}),
    ("no message", HEAD, b"", {CODE: "12"}),
    ("half a message", HEAD, b"\0\0\0\0\5ab", {CODE: "13"}),
    ("too large", HEAD, b"\0\x7f\0\0\0", {CODE: "8"}),
    ("bomb", [*HEAD, ("grpc-encoding", "gzip")], b"\1\0\0\0\2ab", {CODE: "13"}),
]


def test_what_malformed_requests_are_told(runtime: GrpcTestRuntime) -> None:
    async def main() -> dict[str, Any]:
        found = {}
        async with served(runtime) as (port, server):
            for name, head, body, _ in TABLE:
                async with peer(port) as client:
                    found[name] = await client.answer(client.ask(head, body))
            assert not server._core.calls and not server._core.active
        return found

    found = asyncio.run(main())
    seen = {name: {key: found[name].get(key) for key in expected} for name, _, _, expected in TABLE}
    assert seen == {name: expected for name, _, _, expected in TABLE}


def test_who_says_nothing_is_let_go(runtime: GrpcTestRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PREFACE_TIMEOUT", 0.2)

    async def main() -> None:
        async with served(runtime) as (port, server):
            for said in (PREFACE[:10], PREFACE, b"GET / HTTP/1.1\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                await asyncio.wait_for(reader.read(), PATIENCE)
                writer.close()
            while server._core.connections:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_handlers_of_reset_streams_are_cancelled_and_free_their_place(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        echo = Echo()
        async with served(runtime, echo, maximum_concurrent_rpcs=1) as (port, server), peer(port) as client:
            waiting = [(key, f"/{SERVICE}/Wait" if key == ":path" else value) for key, value in HEAD]
            number = client.ask(waiting)
            client.writer.write(client.h2.data_to_send())
            await asyncio.wait_for(echo.waiting.wait(), PATIENCE)
            assert (await client.answer(client.ask(HEAD)))["grpc-message"] == "Concurrent RPC limit exceeded!"
            client.h2.reset_stream(number)
            client.writer.write(client.h2.data_to_send())
            while server._core.active:
                await asyncio.sleep(0.01)
            assert (await client.answer(client.ask(HEAD)))[CODE] == "0"

    asyncio.run(main())


def test_rapid_resets_end_the_connection(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        async with served(runtime) as (port, _), peer(port) as client:
            ended = asyncio.create_task(client.ended())
            for _ in range(100_000):
                if ended.done() or client.h2.state_machine.state is h2.connection.ConnectionState.CLOSED:
                    break
                client.h2.reset_stream(client.ask(HEAD, end=False))
                client.writer.write(client.h2.data_to_send())
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError):
                await ended

    asyncio.run(main())


def test_who_does_not_read_fills_nothing(runtime: GrpcTestRuntime) -> None:
    class Flood:
        def __init__(self) -> None:
            self.written = 0

        async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
            while True:
                self.written += 1
                yield bytes(60_000)

    async def main() -> None:
        flood = Flood()
        server = MeshGrpcServer(runtime)
        handler = grpc.unary_stream_rpc_method_handler(flood.list)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Call": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with peer(port) as client:
                client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
                client.h2.increment_flow_control_window(2**30)
                client.ask(HEAD)
                client.writer.write(client.h2.data_to_send())
                before = -1
                while before != flood.written or not any(one.paused for one in server._core.connections):
                    before = flood.written
                    await asyncio.sleep(0.05)
                # What the kernel's buffers take, and little more.
                assert before < 1000
        finally:
            await server.stop(None)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["drain", "close"])
def test_who_does_not_read_the_end_is_let_go(
    runtime: GrpcTestRuntime, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stall, "STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(connections, "DRAIN_TIMEOUT", 0.2)

    class Large(Echo):
        async def call(self, request: bytes, context: Any) -> bytes:
            return bytes(64 * 1024 * 1024)  # more than the kernel takes

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), served(runtime, Large()) as (port, server), peer(port) as client:
            client.writer.write(client.h2.data_to_send())
            while not server._core.connections:
                await asyncio.sleep(0.01)
            (connection,) = server._core.connections
            # Never paused: what is left may be too little for that.
            connection.transport.set_write_buffer_limits(2**30)
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
            client.h2.increment_flow_control_window(2**30)
            client.ask(HEAD)
            client.writer.write(client.h2.data_to_send())
            while not connection.transport.get_write_buffer_size():
                await asyncio.sleep(0.01)
            getattr(connection, how)()
            while server._core.connections:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_server_that_drains_lets_its_streams_end(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        echo = Echo()
        server = started(runtime, echo)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with plaintext(port) as channel:
            waiting = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"", timeout=PATIENCE))
            await asyncio.wait_for(echo.waiting.wait(), PATIENCE)
            stopping = asyncio.create_task(server.stop(PATIENCE))
            (connection,) = server._core.connections
            while not connection.wire.draining:
                await asyncio.sleep(0.01)
            echo.release.set()
            assert await waiting == b"released"
            await stopping
        assert not server._core.connections

    asyncio.run(main())

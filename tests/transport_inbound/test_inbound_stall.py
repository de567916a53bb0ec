"""Clients of our own server that do not read what they are sent, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from inbound_support import CLIENT, LOOPS, SERVER, Authority, TestRuntime
from uvicorn.config import Config

from proxyless.model.inbound import MutualTls
from proxyless.transport import stall
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.protocol import MeshProtocol
from proxyless.transport.inbound.server_state import MeshServerState
from proxyless.transport.tls_handshake import secure

AUTHORITY = Authority()
SOURCE = AUTHORITY.source(SERVER)
# More than the kernel keeps for a client that does not read.
LARGE = bytes(4 * 1024 * 1024)
PATIENCE = 60.0
ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
ASK_LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"

Made = tuple[MeshProtocol, asyncio.StreamReader, asyncio.StreamWriter]
Test = Callable[[Made], Awaitable[None]]


class Application:
    """more: it would write more. ended: what it heard after it wrote."""

    def __init__(self, *, more: bool) -> None:
        self.more = more
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        size = b"%d" % (2 * len(LARGE) if self.more else len(LARGE))
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
        await send({"type": "http.response.body", "body": LARGE, "more_body": self.more})
        if self.more:
            await send({"type": "http.response.body", "body": LARGE})
        self.ended.set_result((await receive())["type"])


@contextlib.asynccontextmanager
async def connected(app: Application, *, tls: bool) -> AsyncIterator[Made]:
    """A connection with small buffers in the kernel."""
    loop, runtime = asyncio.get_running_loop(), TestRuntime(SOURCE)
    config = Config(MeshASGI(app, runtime), interface="asgi3", log_config=None, access_log=False)
    protocol = MeshProtocol(runtime, config, MeshServerState(), {}, loop)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as ours:
        for one, option in ((listening, socket.SO_SNDBUF), (ours, socket.SO_RCVBUF)):
            one.setsockopt(socket.SOL_SOCKET, option, 16 * 1024)
            one.setblocking(False)
        await loop.sock_connect(ours, listening.getsockname())
        accepted, _ = await loop.sock_accept(listening)
        context = AUTHORITY.client_context(str(CLIENT)) if tls else None
        asking = asyncio.ensure_future(
            asyncio.open_connection(sock=ours, ssl=context, server_hostname="a" if tls else None, limit=1024)
        )
        if tls:
            server_context = SOURCE.server_context(MutualTls.STRICT)
            await secure(loop, accepted, server_context, lambda: protocol, server_side=True)
        else:
            await loop.connect_accepted_socket(lambda: protocol, accepted)
        reader, writer = await asking
        try:
            yield protocol, reader, writer
        finally:
            writer.transport.abort()
            while protocol.connections:
                await asyncio.sleep(0.01)


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["plaintext", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def ended(protocol: MeshProtocol) -> None:
    async with asyncio.timeout(PATIENCE):
        while protocol.connections:
            await asyncio.sleep(0.01)


async def waiting(protocol: MeshProtocol) -> None:
    async with asyncio.timeout(PATIENCE):
        while not protocol.transport.get_write_buffer_size():
            await asyncio.sleep(0.01)


def test_an_application_is_not_held_for_ever(runner: Any, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "STALL_TIMEOUT", 0.2)

    async def main() -> None:
        app = Application(more=True)
        async with connected(app, tls=tls) as (protocol, _, writer):
            writer.write(ASK)
            assert await asyncio.wait_for(app.ended, PATIENCE) == "http.disconnect"
            await ended(protocol)

    runner.run(main())


@pytest.mark.parametrize("how", ["connection: close", "idle", "drain", "malformed"])
@pytest.mark.parametrize("paused", [False, True])
def test_the_end_waits_for_who_reads(
    runner: Any, tls: bool, how: str, paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(runner, how, monkeypatch, tls=tls, paused=paused)


@pytest.mark.parametrize("paused", [False, True])
def test_the_end_waits_for_who_reads_and_will_not_write(
    runner: Any, paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plaintext: TLS knows no half-close."""
    end(runner, "half-closed", monkeypatch, tls=False, paused=paused)


def end(runner: Any, how: str, monkeypatch: pytest.MonkeyPatch, *, tls: bool, paused: bool) -> None:
    at_once = how == "connection: close"
    monkeypatch.setattr(stall, "STALL_TIMEOUT", 0.2 if at_once else 3600.0)

    async def main() -> None:
        app = Application(more=False)
        async with connected(app, tls=tls) as (protocol, _, writer):
            if not paused:  # what is left may be too little for that
                protocol.transport.set_write_buffer_limits(2**30)
            writer.write(ASK_LAST if at_once else ASK)
            if not at_once:
                await waiting(protocol)
            monkeypatch.setattr(stall, "STALL_TIMEOUT", 0.2)
            if how == "idle":
                protocol.timeout_keep_alive = 0
                protocol._close_if_idle()
            elif how == "drain":
                protocol.shutdown()
            elif how == "half-closed":
                writer.write_eof()
            elif how == "malformed":
                writer.write(b"\r\nno HTTP\r\n\r\n")
            await ended(protocol)

    runner.run(main())


def test_who_reads_slowly_is_served(runner: Any, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "STALL_TIMEOUT", 3600.0)

    async def main() -> None:
        app = Application(more=False)
        async with asyncio.timeout(PATIENCE), connected(app, tls=tls) as (protocol, reader, writer):
            writer.write(ASK_LAST)
            await waiting(protocol)
            transport = protocol.transport
            while (left := transport.get_write_buffer_size()) > len(LARGE) // 2:
                while transport.get_write_buffer_size() == left:
                    assert await reader.read(16 * 1024)
                protocol._stall._look()
                assert protocol.connections
            while protocol.connections:  # the kernel may take some more
                protocol._stall._look()
                await asyncio.sleep(0.01)

    runner.run(main())


def test_an_end_that_is_read_is_whole(runner: Any, tls: bool) -> None:
    async def main() -> None:
        app = Application(more=False)
        async with asyncio.timeout(PATIENCE), connected(app, tls=tls) as (protocol, reader, writer):
            writer.write(ASK_LAST)
            await waiting(protocol)
            answer = await reader.read(-1)
            assert answer.endswith(b"\r\n\r\n" + LARGE)
            await ended(protocol)
            assert protocol._stall._timer is None

    runner.run(main())

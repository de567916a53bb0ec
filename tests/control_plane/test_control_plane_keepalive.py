"""A peer that hangs, as a stopped process does, answers no ping; its connection ends, and what hangs on it."""

import asyncio

import pytest

from proxyless.control_plane import grpc_server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS


def test_a_connection_whose_peer_is_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    faster = tuple(
        (name, value // 100 if name.endswith(("keepalive_time_ms", "timeout_ms", "without_data_ms")) else value)
        for name, value in grpc_server._OPTIONS
    )
    monkeypatch.setattr(grpc_server, "_OPTIONS", faster)

    async def scenario() -> None:
        server, port = await grpc_server.start_grpc_server((), "127.0.0.1", 0, "port")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(PREFACE)
            await asyncio.wait_for(reader.read(), 60)  # to the end, which a peer that answers would not see
            writer.close()
        finally:
            await server.stop(None)

    asyncio.run(scenario())

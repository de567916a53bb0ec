"""WebSockets between meshed processes, with httpx-ws as its users have it, over mutual TLS."""

import asyncio

import httpx
import httpx_ws
import pytest
from local_mesh import LocalMesh, answer, until

ME = "spiffe://cluster.local/ns/default/sa/default"
LARGE = b"x" * 60_000


@pytest.fixture
def chat(local: LocalMesh) -> LocalMesh:
    local.start_control_plane()
    local.serve("chat", "chat:app", "chat")
    return local


def test_sync(chat: LocalMesh) -> None:
    mesh = chat.mesh()
    with httpx.Client(transport=mesh.transport()) as client:
        until("the chat", lambda: answer(client, "http://chat/"))
        for url in ("http://chat/", "ws://chat/"):
            with httpx_ws.connect_ws(url, client) as socket:
                assert socket.receive_text(timeout=30) == ME
                for number in range(20):
                    socket.send_text(f"message {number}")
                    assert socket.receive_text(timeout=30) == f"message {number}"
                socket.send_bytes(LARGE)
                assert socket.receive_bytes(timeout=30) == LARGE
                pong = socket.ping()
                assert pong.wait(30)
        with httpx_ws.connect_ws("http://chat/", client) as socket:
            socket.receive_text(timeout=30)
            socket.send_text("bye")
            with pytest.raises(httpx_ws.WebSocketDisconnect) as ended:
                socket.receive_text(timeout=30)
            assert (ended.value.code, ended.value.reason) == (1000, "bye")
        with (
            pytest.raises(httpx_ws.WebSocketUpgradeError) as refused,
            httpx_ws.connect_ws("http://chat/refused", client),
        ):
            pass
        assert refused.value.response.status_code == 403
        assert client.get("http://chat/").text == "plain"
        record = client.get("http://chat/").extensions["proxyless"]
        assert mesh.runtime.engine.active_requests(record.cluster.name, record.attempts[-1].endpoint.key) == 0


def test_async(chat: LocalMesh) -> None:
    mesh = chat.mesh()

    async def talk(client: httpx.AsyncClient, who: int) -> None:
        async with httpx_ws.aconnect_ws("http://chat/", client) as socket:
            assert await socket.receive_text(timeout=30) == ME
            for number in range(10):
                await socket.send_text(f"{who}: {number}")
                assert await socket.receive_text(timeout=30) == f"{who}: {number}"
            await socket.send_bytes(LARGE)
            assert await socket.receive_bytes(timeout=30) == LARGE
            if who % 2:
                await socket.send_text("bye")
                with pytest.raises(httpx_ws.WebSocketDisconnect):
                    await socket.receive_text(timeout=30)

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=mesh.async_transport()) as client:
            await asyncio.gather(*(talk(client, who) for who in range(20)))
            response = await client.get("http://chat/")
            assert response.text == "plain"
            record = response.extensions["proxyless"]
            assert mesh.runtime.engine.active_requests(record.cluster.name, record.attempts[-1].endpoint.key) == 0

    with httpx.Client(transport=mesh.transport()) as client:
        until("the chat", lambda: answer(client, "http://chat/"))
    asyncio.run(asyncio.wait_for(scenario(), 60))

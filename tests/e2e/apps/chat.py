"""A WebSocket that repeats what it hears and says who called; an ordinary answer to everything else."""

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})
    if scope["type"] != "websocket" or scope["scheme"] != "ws":
        return
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": scope["extensions"]["proxyless"]["peer"] or "nobody"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 1000, "reason": "bye"})
            return
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})

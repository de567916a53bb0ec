"""The application behind every row: as little as ASGI allows."""

from typing import Any

BODY = b'{"hello":"you"}'
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"15")],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await send(HEAD)
    await send({"type": "http.response.body", "body": BODY})

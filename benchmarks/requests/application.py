"""The application behind every row: as little as ASGI allows.

``GET /`` answers 15 bytes of JSON, ``GET /bytes/N`` answers N bytes in pieces, ``POST`` reads everything first.
"""

from collections.abc import Iterator
from typing import Any

HELLO = b'{"hello":"you"}'
PIECE = 64 * 1024


def pieces(size: int) -> Iterator[bytes]:
    """``size`` bytes, at most PIECE at a time."""
    whole = b"x" * min(size, PIECE)
    while size > 0:
        yield whole[:size]
        size -= PIECE


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    path = scope["path"]
    size = int(path.removeprefix("/bytes/")) if path.startswith("/bytes/") else None
    length = len(HELLO) if size is None else size
    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if size is None:
        await send({"type": "http.response.body", "body": HELLO})
        return
    for piece in pieces(size):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

"""Requests that never end: one that keeps a thread, one that does not let itself be cancelled."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BEGUN = Path(os.environ["BEGUN"])


def thread(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/hang":
        BEGUN.touch()
        time.sleep(3600)
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"ok"]


async def task(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while scope["path"] == "/hang":
        BEGUN.touch()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

"""Answers with its version, its pid and its caller's identity."""

import json
import os
from typing import Any

VERSION = os.environ.get("VERSION", "v1")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = {
        "version": VERSION,
        "pid": os.getpid(),
        "path": scope["path"],
        "peer": scope.get("extensions", {}).get("proxyless", {}).get("peer"),
        "xfcc": headers.get("x-forwarded-client-cert"),
        "traceparent": headers.get("traceparent"),
        "request_id": headers.get("x-request-id"),
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})

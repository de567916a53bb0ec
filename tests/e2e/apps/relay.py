"""Calls hello while it handles a request, and shows what hello saw: the context that flows without user code."""

import json
from typing import Any

import httpx2

import proxyless

client = httpx2.AsyncClient(transport=proxyless.Mesh().async_transport())


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    answer = await client.get("http://hello/relayed")
    body = {
        "seen": {"traceparent": headers.get("traceparent"), "request_id": headers.get("x-request-id")},
        "hello": answer.json() if answer.status_code == 200 else answer.status_code,
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})

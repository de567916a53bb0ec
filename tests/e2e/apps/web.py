"""A WSGI application that was loaded before its workers were forked, and calls through the mesh."""

from collections.abc import Callable, Iterable
from typing import Any

import httpx2

import proxyless

mesh = proxyless.Mesh(service="web")
client = httpx2.Client(transport=mesh.transport())


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = client.get("http://hello/")
    start_response(f"{answer.status_code} answer", [("content-type", "application/json")])
    return [answer.content]


app = mesh.wsgi(hello)

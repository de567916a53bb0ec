"""A service to send requests to, and the command as a process of its own."""

import subprocess
import sys
from typing import NamedTuple

HELLO = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": dict(scope["headers"]).get(b"x", b"hello")})
"""


class Serving(NamedTuple):
    """A workload that serves ``hello``, and the environment in which commands find its mesh."""

    process: subprocess.Popen[str]
    environment: dict[str, str]


def proxyless(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxyless", *arguments]

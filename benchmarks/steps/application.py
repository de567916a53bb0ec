"""The application of ``benchmarks.requests`` that also counts its server's steps.

``GET /steps/begin`` counts from then on, ``GET /steps/end`` answers what was counted (``Counted.encode``).
"""

from typing import Any

from benchmarks.requests.application import app as measured
from benchmarks.steps.counting import Counting

_counting = Counting()


async def app(scope: Any, receive: Any, send: Any) -> None:
    match scope.get("path"):
        case "/steps/begin":
            answer = b"{}"
            _counting.begin()
        case "/steps/end":
            answer = _counting.end().encode()
        case _:
            await measured(scope, receive, send)
            return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})

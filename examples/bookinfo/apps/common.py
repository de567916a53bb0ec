"""What every bookinfo service adds to its answers, so that a page shows who answered and who asked."""

import os
from typing import Any

from starlette.requests import Request

STARS = {"Reviewer1": 5, "Reviewer2": 4}
VERSION = os.environ.get("SERVICE_VERSION", "v1")


def answered_by(request: Request) -> dict[str, Any]:
    """The version and process that answer, and the caller's identity as mutual TLS proved it (None in plaintext)."""
    peer = request.scope.get("extensions", {}).get("proxyless", {}).get("peer")
    return {"version": VERSION, "pid": os.getpid(), "caller": peer}


def end_user(request: Request) -> dict[str, str]:
    """The header that routing rules look at. Trace context and deadline need no such line: the mesh carries them."""
    user = request.headers.get("end-user")
    return {"end-user": user} if user else {}

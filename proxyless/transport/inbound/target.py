"""The path of a request in the one spelling that is judged and served, worked out once for those that come again."""

from __future__ import annotations

from urllib.parse import unquote, unquote_to_bytes

import httptools

from proxyless.engine.paths import normalised
from proxyless.transport.inbound.head import path_problem

# Peers choose the paths: what is remembered of them is bounded, and begun anew when that is full.
_MAX_TARGETS = 1024
_LONGEST = 256
_targets: dict[bytes, Target] = {}


class Target:
    """A path without its query. received: as it came, raw_path: as ASGI has it, latin-1, not decoded.

    judged: what policy and telemetry see, normalised; raw_path and path: what the application sees, the same path in
    ASGI's two forms. respelled: whether it came in another spelling. problem: why it must be answered 400, "" if sound.
    """

    __slots__ = ("judged", "path", "problem", "raw_path", "respelled")

    def __init__(self, received: str, method: str) -> None:
        self.judged = judged = normalised(received)
        self.respelled = judged != received
        self.problem = path_problem(received, method)
        self.raw_path = judged.encode("latin-1")
        if self.respelled:
            self.path = unquote_to_bytes(self.raw_path).decode("utf-8", "replace")
        else:
            self.path = unquote(judged) if "%" in judged else judged


def remembered(url: bytes) -> Target | None:
    """What ``target`` has found for a request line like this, if that was a path without query; never "*"."""
    return _targets.get(url)


def target(url: bytes, method: str) -> tuple[Target, bytes]:
    """What a request line asks for: the path, and the query without its question mark."""
    if not url.startswith(b"/"):
        # The whole URL, as to a proxy, or "*".
        parsed = httptools.parse_url(url)
        return Target((parsed.path or b"/").decode("latin-1"), method), parsed.query or b""
    path, _, query = url.partition(b"?")
    found = _targets.get(path)
    if found is None:
        found = Target(path.decode("latin-1"), method)
        if len(path) <= _LONGEST:
            if len(_targets) >= _MAX_TARGETS:
                _targets.clear()
            _targets[path] = found
    return found, query

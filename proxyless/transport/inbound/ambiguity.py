"""What this server and another before it could understand differently, with the status that says so.

Beyond what llhttp refuses itself; None stands for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Refusal = tuple[str, str]


def line_problem(version: str, method: str, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Of the request line. headers: names in any case."""
    if method == "CONNECT":
        return "405 Method Not Allowed", "method is CONNECT, and this is no proxy"
    if b"#" in url:
        return "400 Bad Request", "path has a fragment"
    if version not in ("1.1", "1.0"):
        return "505 HTTP Version Not Supported", f"version is HTTP/{version}"
    if url.startswith(b"/"):
        return None
    # The URL is the whole one, as to a proxy (RFC 9112 section 3.2.2).
    hosts = [value.lower() for name, value in headers if name.lower() == b"host"]
    _, absolute, rest = url.partition(b"://")
    if absolute and hosts != [re.split(rb"[/?]", rest, maxsplit=1)[0].lower()]:
        return "400 Bad Request", "URL and its Host header differ"
    return None


def framing_problem(version: str, framing: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Of how long the body is. framing: its lines, names and values in lower case."""
    codings = [value.strip() for name, value in framing if name == b"transfer-encoding"]
    if codings and codings != [b"chunked"]:
        return "501 Not Implemented", "Transfer-Encoding is not chunked"
    if codings and version == "1.0":
        return "400 Bad Request", "Transfer-Encoding is not of HTTP/1.0"
    return None

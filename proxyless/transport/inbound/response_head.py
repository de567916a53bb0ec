"""The head of a response: checked, and serialised once if it comes again with every answer."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable

_BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]|\A\Z")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}

# Applications use few names and, of these, few values. Others, a cookie's above all, are nobody's to remember.
_STEADY = frozenset(
    {
        b"access-control-allow-origin",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"server",
        b"transfer-encoding",
        b"vary",
    }
)
_MAX_HEADS = 1024
_MOST_LINES = 16
_LONGEST = 128
_MAX_NAMES = 1024
_NO_BODY = frozenset({204, 304})
_Lines = tuple[tuple[bytes, bytes], ...]
_heads: dict[tuple[int, _Lines], ResponseHead] = {}
_names: dict[bytes, bytes] = {}


class ResponseHead:
    """What an application's status and header lines come to.

    text: both as they are sent, but for ``transfer-encoding``, which is the server's. length: of the body, None if
    they do not say. chunked: whether they say ``transfer-encoding: chunked``. closes: whether they say ``connection:
    close``. grpc_status: "" if they have none. bodiless: whether the status allows no body.
    """

    __slots__ = ("bodiless", "chunked", "closes", "grpc_status", "length", "text")

    def __init__(self, status: int, lines: _Lines) -> None:
        """RuntimeError for what would be more than one line, or none, or leaves open where the body ends."""
        if not 200 <= status <= 999:
            # What follows an informational head is the next head: its body would be read as one.
            raise RuntimeError(f"Invalid HTTP status {status}.")
        text = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        self.bodiless = status in _NO_BODY
        self.length: int | None = None
        self.chunked = self.closes = False
        self.grpc_status = ""
        for raw_name, value in lines:
            name = _names.get(raw_name) or _checked(raw_name)
            if _BAD_VALUE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            if name == b"content-length":
                if not value.isdigit() or self.length is not None:
                    raise RuntimeError("Invalid Content-Length.")
                self.length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or self.chunked:
                    raise RuntimeError("Invalid Transfer-Encoding: the server's own is chunked.")
                self.chunked = True
                continue
            elif name == b"connection":
                self.closes = self.closes or b"close" in [token.strip() for token in value.lower().split(b",")]
            elif name == b"grpc-status":
                self.grpc_status = value.decode("latin-1")[:3]
            text.append(b"%b: %b\r\n" % (name, value))
        if self.chunked and self.length is not None:
            raise RuntimeError("Content-Length and Transfer-Encoding exclude each other.")
        self.text = b"".join(text)


def response_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """What ASGI's ``status`` and ``headers`` come to. Raises what ResponseHead does."""
    lines = tuple(headers)
    try:
        return _heads.get((status, lines)) or _read(status, lines)
    except TypeError:  # lists and bytearrays cannot be looked up
        return _read(status, tuple((bytes(name), bytes(value)) for name, value in lines))


def _read(status: int, lines: _Lines) -> ResponseHead:
    head = ResponseHead(status, lines)
    if len(lines) <= _MOST_LINES and all(len(value) <= _LONGEST and name.lower() in _STEADY for name, value in lines):
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        _heads[status, lines] = head
    return head


def _checked(raw: bytes) -> bytes:
    if _BAD_NAME.search(raw):
        raise RuntimeError("Invalid HTTP header name.")
    name = raw.lower()
    if len(_names) < _MAX_NAMES:
        _names[raw] = name
    return name

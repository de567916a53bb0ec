"""The lines of a response's head: checked, and serialised once for those that come again with every answer."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable

_BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]|\A\Z")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


# What a line says of the response itself, and the server has to hear.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"grpc-status"})


class HeadLine:
    """text: as it is sent, with its end. name: in lower case. value: as it was given. framing: see ``head_lines``."""

    __slots__ = ("framing", "name", "text", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.text = b"%b: %b\r\n" % (name, value)
        self.name = name
        self.value = value
        self.framing = name in _FRAMING


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
_MAX_LINES = 1024
_LONGEST = 128
_MAX_NAMES = 1024
_lines: dict[tuple[bytes, bytes], HeadLine] = {}
_names: dict[bytes, bytes] = {}


def head_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], list[HeadLine]]:
    """The lines that are only passed on, ready to be sent, and those that say how the response is framed.

    RuntimeError for what would be more than one line, or none.
    """
    plain: list[bytes] = []
    framing: list[HeadLine] = []
    for name, value in headers:
        try:
            line = _lines.get((name, value)) or _serialised(name, value)
        except TypeError:  # a bytearray cannot be looked up
            line = _serialised(bytes(name), bytes(value))
        if line.framing:
            framing.append(line)
        else:
            plain.append(line.text)
    return plain, framing


def _serialised(name: bytes, value: bytes) -> HeadLine:
    lower = _names.get(name) or _checked(name)
    if _BAD_VALUE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    line = HeadLine(lower, value)
    if lower in _STEADY and len(value) <= _LONGEST:
        if len(_lines) >= _MAX_LINES:
            _lines.clear()
        _lines[name, value] = line
    return line


def _checked(raw: bytes) -> bytes:
    if _BAD_NAME.search(raw):
        raise RuntimeError("Invalid HTTP header name.")
    name = raw.lower()
    if len(_names) < _MAX_NAMES:
        _names[raw] = name
    return name

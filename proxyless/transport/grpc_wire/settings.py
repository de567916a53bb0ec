"""SETTINGS (RFC 9113 section 6.5): what we announce, and what a peer says."""

import struct
from typing import NamedTuple

from proxyless.transport.grpc_wire.errors import Code, ConnectionFault
from proxyless.transport.grpc_wire.frames import FIRST_FRAME_SIZE, LARGEST

# What we announce. A window of a stream bounds what one message may take of memory before somebody reads it.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
# Bytes that may wait for the application on one connection before its streams get the narrow window.
MOST_UNREAD = 16 * 1024 * 1024
NARROW_WINDOW = 64 * 1024
MAX_FRAME = 64 * 1024
MAX_HEAD = 64 * 1024
_ENABLE_PUSH, _MAX_CONCURRENT, _INITIAL_WINDOW, _MAX_FRAME, _MAX_LIST = range(2, 7)
_ENTRY = struct.Struct(">HL")
_MOST = 64


class Said(NamedTuple):
    """None: nothing was said. window: of each stream. frame: the largest. streams: how many may be open at once."""

    window: int | None
    frame: int | None
    streams: int | None


def announced(client: bool, most_streams: int, most_head: int) -> bytes:
    entries = [(_INITIAL_WINDOW, STREAM_WINDOW), (_MAX_FRAME, MAX_FRAME), (_MAX_LIST, most_head)]
    entries.append((_ENABLE_PUSH, 0) if client else (_MAX_CONCURRENT, most_streams))
    return b"".join(_ENTRY.pack(*one) for one in entries)


def window(size: int) -> bytes:
    """A change of streams' windows."""
    return _ENTRY.pack(_INITIAL_WINDOW, size)


def said(payload: bytes, *, client: bool) -> Said:
    """client: which end we are. The last word counts. Of a table for our header blocks we have no use.

    Raises ConnectionFault.
    """
    if len(payload) % _ENTRY.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "bad SETTINGS")
    if len(payload) > _MOST * _ENTRY.size:
        raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "more settings than there are")
    found: dict[int, int] = {}
    for key, value in _ENTRY.iter_unpack(payload):
        if key == _INITIAL_WINDOW and value > LARGEST:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window larger than there are")
        if key == _MAX_FRAME and not FIRST_FRAME_SIZE <= value < 1 << 24:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a size of frames that there is not")
        if key == _ENABLE_PUSH and value > (0 if client else 1):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a push that is not allowed")
        found[key] = value
    return Said(found.get(_INITIAL_WINDOW), found.get(_MAX_FRAME), found.get(_MAX_CONCURRENT))

"""HTTP/2's frames (RFC 9113 sections 4 and 6): their layout, and the numbers that both ends count with."""

import struct

from proxyless.transport.grpc_wire.errors import Code, ConnectionFault

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
HEADER = struct.Struct(">BHBBL")  # length in two parts, type, flags, stream
# Of stream numbers and of windows.
LARGEST = 2**31 - 1
FIRST_WINDOW = 65_535
FIRST_FRAME_SIZE = 16_384


def unpadded(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    if payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]

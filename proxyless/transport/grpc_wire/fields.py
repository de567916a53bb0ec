"""Which header fields there may be (RFC 9113 section 8.2), and which pseudo-header fields in a list (section 8.3)."""

import re

Line = tuple[bytes, bytes]
Lines = tuple[Line, ...]

_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+\Z")
# Space around a value is let pass: gRPC's own metadata and messages may have it.
_NOT_IN_VALUES = re.compile(rb"[\x00\r\n]")
_COLON = 0x3A
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OF_REQUESTS = frozenset({b":method", b":scheme", b":path", b":authority"})


def sound(line: Line) -> bool:
    """Whether anybody may send this line over HTTP/2."""
    name, value = line
    return _NAME.match(name) is not None and name not in _OF_CONNECTIONS and _NOT_IN_VALUES.search(value) is None


def is_request(lines: Lines) -> bool:
    """Each pseudo-header field once, before the others. CONNECT, which has fewer of them, is never gRPC."""
    found: dict[bytes, bytes] = {}
    regular = False
    for name, value in lines:
        if name[0] != _COLON:
            regular = True
        elif regular or name in found or name not in _OF_REQUESTS:
            return False
        else:
            found[name] = value
    return bool(found.get(b":method") and found.get(b":scheme") and found.get(b":path"))


def status_of(lines: Lines) -> int:
    """Of a response's head, final or interim; 0 if it is none."""
    if not lines or lines[0][0] != b":status" or not _regular(lines[1:]):
        return 0
    value = lines[0][1]
    return int(value) if len(value) == 3 and value.isdigit() and value[0] != 0x30 else 0


def is_trailers(lines: Lines) -> bool:
    return _regular(lines)


def _regular(lines: Lines) -> bool:
    return not [name for name, _ in lines if name[0] == _COLON]

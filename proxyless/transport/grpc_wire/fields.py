"""Which header fields there may be (RFC 9113 section 8.2), and which pseudo-header fields in a list (section 8.3)."""

import re
from collections.abc import Collection

Line = tuple[bytes, bytes]
Lines = tuple[Line, ...]

_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_COLON = 0x3A
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OF_REQUESTS = frozenset({b":method", b":scheme", b":path", b":authority"})


# Names that are sound. Bounded: peers choose them.
_known: set[bytes] = set()
_MOST_KNOWN, _LONGEST_KNOWN = 1024, 64


def sound(lines: Collection[Line]) -> bool:
    """Whether anybody may send these lines over HTTP/2."""
    return sound_names([line[0] for line in lines]) and sound_values([line[1] for line in lines])


def sound_names(names: Collection[bytes]) -> bool:
    for name in names:
        if name not in _known:
            if not _NAME.match(name) or name in _OF_CONNECTIONS:
                return False
            if len(name) <= _LONGEST_KNOWN:
                if len(_known) >= _MOST_KNOWN:
                    _known.clear()
                _known.add(name)
    return True


def sound_values(values: Collection[bytes]) -> bool:
    """Space around a value is let pass: gRPC's own may have it."""
    together = b"\n".join(values)
    return together.count(b"\n") < max(len(values), 1) and b"\r" not in together and b"\0" not in together


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

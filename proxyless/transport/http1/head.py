"""Serialising a request head, with nothing in it that could start a second request (CWE-113, CWE-444)."""

import re

from proxyless.engine.request import NAME_OF
from proxyless.transport.http1.errors import LocalProtocolError
from proxyless.transport.http1.framing import Framing

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Origin form or the asterisk of OPTIONS; no "#": servers disagree about a fragment in a target (CVE-2021-39156).
_TARGET = re.compile(r"/[!\"$-~]*|\*")
# Authority form (RFC 9112 section 3.2.3), of CONNECT only.
_AUTHORITY = re.compile(r"[!\"$-.0-~]+:[0-9]{1,5}")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# What a head is made of: everything but control characters, of which a tab is allowed, and line ends are ours.
_TEXT = bytes(byte for byte in range(256) if byte in b"\t\r\n" or (byte >= 0x20 and byte != 0x7F))

# Methods, and names of headers that are sent as they are: looked at, and tokens. Applications choose them, so what is
# remembered is bounded.
_tokens: set[str] = set()
_sendable: set[str] = set()
_MOST, _LONGEST = 1024, 64
_LINE = "%s: %s\r\n".__mod__

# Facts about this connection, not about the request (RFC 9110 section 7.6.1), and what we say ourselves.
_OURS = frozenset(
    {
        "connection", "content-length", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def serialise(
    method: str, path: str, authority: str, headers: list[tuple[str, str]], framing: Framing
) -> tuple[bytes, bool, str]:
    """The bytes of a request head, whether the connection may be kept afterwards, and which protocols it offers.

    Header names must be lower case. Raises LocalProtocolError, naming the part, for what is not exactly one head.
    """
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {authority}\r\n"]
    valid = _is_token(method) and _is_target(method, path)
    options: set[str] = set()
    if _sendable.issuperset(map(NAME_OF, headers)):
        lines += map(_LINE, headers)
    else:
        for name, value in headers:
            if name not in _OURS:
                valid = valid and _is_token(name)
                if valid and len(_sendable) < _MOST and len(name) <= _LONGEST:
                    _sendable.add(name)
                lines.append(f"{name}: {value}\r\n")
            elif name == "connection" and value != "keep-alive":
                options |= {option.strip().lower() for option in value.split(",")}
    keep_alive = "close" not in options
    upgrade = _offered(headers) if "upgrade" in options else ""
    if options:  # what they name is for this connection only
        own = _OURS | options
        lines[1:] = [f"{name}: {value}\r\n" for name, value in headers if name not in own]
    expected = len(lines) + 2  # request line and host are one element; the blank line
    if framing.header:
        lines.append(framing.header)
        expected += 1
    if upgrade:
        lines.append(f"connection: upgrade\r\nupgrade: {upgrade}\r\n")
        expected += 1
    lines.append("\r\n" if keep_alive or upgrade else "connection: close\r\n\r\n")
    if upgrade or not keep_alive:
        expected += 1
    try:
        head = "".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        head = b""
    # Over the whole at once: a grammar as one regular expression takes three times as long as everything else here.
    # The counts see a line end within a part, as each line has one of its own.
    if (
        not valid
        or " " in authority
        or "\t" in authority
        or head.count(b"\n") != expected
        or head.count(b"\r") != expected
        or head.translate(None, _TEXT)
    ):
        raise LocalProtocolError(_what_is_wrong(method, path, authority, headers))
    return head, keep_alive, upgrade


def _is_target(method: str, path: str) -> bool:
    return bool(_TARGET.fullmatch(path) or (method == "CONNECT" and _AUTHORITY.fullmatch(path)))


def _is_token(text: str) -> bool:
    if text in _tokens:
        return True
    if _NAME.fullmatch(text) is None:
        return False
    if len(_tokens) < _MOST and len(text) <= _LONGEST:
        _tokens.add(text)
    return True


def _offered(headers: list[tuple[str, str]]) -> str:
    """The protocols of ``Upgrade``, without HTTP/2: it is the mesh that chooses between versions of HTTP."""
    names = [name.strip() for key, value in headers if key == "upgrade" for name in value.split(",")]
    return ", ".join(name for name in names if name and name.lower() not in ("h2c", "h2"))


def _what_is_wrong(method: str, path: str, authority: str, headers: list[tuple[str, str]]) -> str:
    """Names the part; a header's value is not shown, it may be a credential."""
    if not _NAME.fullmatch(method):
        return f"{method[:80]!r} is not an HTTP method"
    if not _is_target(method, path):
        return f"the path {path[:200]!r} is not a request target: percent-encode all but printable ASCII, and no '#'"
    if not re.fullmatch(r"[^\x00-\x20\x7f-\U0010ffff]*", authority):
        return f"{authority[:200]!r} cannot be a Host header"
    for name, value in headers:
        if not _NAME.fullmatch(name):
            return f"{name[:80]!r} is not a header name"
        if not _VALUE.fullmatch(value) or (not value.isascii() and max(value) > "\xff"):
            return (
                f"the value of the header {name!r} has a character that a header cannot carry (a line break, NUL, ...)"
            )
    return "the request head is not valid HTTP"

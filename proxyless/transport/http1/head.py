"""Serialising a request head, with nothing in it that could start a second request (CWE-113, CWE-444)."""

import re

from proxyless.transport.http1.errors import LocalProtocolError
from proxyless.transport.http1.framing import Framing

_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Origin form or the asterisk of OPTIONS; no "#": servers disagree about a fragment in a target (CVE-2021-39156).
_TARGET = r"(?:/[!\"$-~]*|\*)"
# Authority form (RFC 9112 section 3.2.3), of CONNECT only.
_AUTHORITY = r"[!\"$-.0-~]+:[0-9]{1,5}"
_VALUE = r"[^\x00-\x08\x0a-\x1f\x7f]*"
# One pass over what is about to be sent: its grammar, not its parts, is what must be right.
_HEAD = re.compile(
    rf"(?:{_TCHAR} {_TARGET}|CONNECT {_AUTHORITY}) HTTP/1\.1\r\n"
    rf"host: [^\x00-\x20\x7f]*\r\n(?:{_TCHAR}: {_VALUE}\r\n)*\r\n".encode()
)
_NAME = re.compile(_TCHAR)
_FIELD_VALUE = re.compile(_VALUE)

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
    keep_alive = True
    own: frozenset[str] | set[str] = _OURS
    upgrade = ""
    for name, value in headers:
        if name == "connection" and value != "keep-alive":
            options = {option.strip().lower() for option in value.split(",")}
            if "close" in options:
                keep_alive = False
            if "upgrade" in options:
                upgrade = _offered(headers)
            own = own | options
    lines += [f"{name}: {value}\r\n" for name, value in headers if name not in own]
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
    # The count sees what the grammar cannot: a line break inside a value that makes two valid lines.
    if _HEAD.fullmatch(head) is None or head.count(b"\n") != expected:
        raise LocalProtocolError(_what_is_wrong(method, path, authority, headers))
    return head, keep_alive, upgrade


def _offered(headers: list[tuple[str, str]]) -> str:
    """The protocols of ``Upgrade``, without HTTP/2: it is the mesh that chooses between versions of HTTP."""
    names = [name.strip() for key, value in headers if key == "upgrade" for name in value.split(",")]
    return ", ".join(name for name in names if name and name.lower() not in ("h2c", "h2"))


def _what_is_wrong(method: str, path: str, authority: str, headers: list[tuple[str, str]]) -> str:
    """Names the part; a header's value is not shown, it may be a credential."""
    if not _NAME.fullmatch(method):
        return f"{method[:80]!r} is not an HTTP method"
    if not re.fullmatch(_TARGET, path) and not (method == "CONNECT" and re.fullmatch(_AUTHORITY, path)):
        return f"the path {path[:200]!r} is not a request target: percent-encode all but printable ASCII, and no '#'"
    if not re.fullmatch(r"[^\x00-\x20\x7f-\U0010ffff]*", authority):
        return f"{authority[:200]!r} cannot be a Host header"
    for name, value in headers:
        if not _NAME.fullmatch(name):
            return f"{name[:80]!r} is not a header name"
        if not _FIELD_VALUE.fullmatch(value) or (not value.isascii() and max(value) > "\xff"):
            return (
                f"the value of the header {name!r} has a character that a header cannot carry (a line break, NUL, ...)"
            )
    return "the request head is not valid HTTP"

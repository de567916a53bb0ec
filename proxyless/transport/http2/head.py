"""Request and response heads in HTTP/2's form (RFC 9113 section 8)."""

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from proxyless.transport.http1.errors import RemoteProtocolError
from proxyless.transport.http1.framing import Framing
from proxyless.transport.http1.response import MAX_HEADERS, ResponseHead

# Section 8.2.2: facts about an HTTP/1.1 connection; the host is :authority, the length is the framing's to say.
_DROPPED = frozenset(
    {
        "connection", "content-length", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
# RFC 7541 section 7.1.3: what must not end up in a table that others' guesses are compressed with.
_SECRET = frozenset({"authorization", "proxy-authorization"})


def request_head(
    *, method: str, scheme: str, authority: str, path: str, headers: list[tuple[str, str]], framing: Framing
) -> list[HeaderTuple]:
    """Of a request that ``http1.head.serialise`` found valid: its grammar holds here too. Names are lower case."""
    lines = [
        HeaderTuple(b":method", method.encode()),
        HeaderTuple(b":scheme", scheme.encode()),
        HeaderTuple(b":authority", authority.encode()),
        HeaderTuple(b":path", path.encode()),
    ]
    dropped: frozenset[str] | set[str] = _DROPPED
    for name, value in headers:
        if name == "connection":
            dropped = dropped | {option.strip().lower() for option in value.split(",")}
    for name, value in headers:
        if name == "te" and value.strip().lower() == "trailers":
            lines.append(HeaderTuple(b"te", b"trailers"))  # gRPC servers insist on it
        if name in dropped:
            continue
        if name == "cookie":
            # Section 8.2.3: crumbs compress better, and a short one could be guessed byte by byte.
            for crumb in value.split(";"):
                if crumb := crumb.strip():
                    raw = crumb.encode("latin-1")
                    lines.append((NeverIndexedHeaderTuple if len(raw) < 20 else HeaderTuple)(b"cookie", raw))
            continue
        kind = NeverIndexedHeaderTuple if name in _SECRET else HeaderTuple
        # Section 8.2.1 has no white space around a value; HTTP/1.1 ignores it.
        lines.append(kind(name.encode("latin-1"), value.strip(" \t").encode("latin-1")))
    if framing.length is not None and framing.header:
        lines.append(HeaderTuple(b"content-length", b"%d" % framing.length))
    return lines


def response_head(raw: list[tuple[bytes, bytes]]) -> tuple[ResponseHead, int | None]:
    """The head, and the length it announces. Raises RemoteProtocolError; h2 has checked names and pseudo-headers."""
    if len(raw) > MAX_HEADERS:
        raise RemoteProtocolError(f"the response has more than {MAX_HEADERS} headers")
    status = b""
    length: int | None = None
    headers: list[tuple[str, str]] = []
    for name, value in raw:
        if name == b":status":
            status = value
            continue
        if name == b"content-length":
            length = int(value)
        headers.append((name.decode("latin-1"), value.decode("latin-1")))
    if len(status) != 3 or not status.isdigit() or status < b"200":
        raise RemoteProtocolError(f"the server answered with the status {status[:10]!r}")
    return ResponseHead(int(status), headers, "2"), length

"""How a request body is delimited (RFC 9112 section 6), and the bytes that do it."""

from collections.abc import Iterator
from dataclasses import dataclass

from proxyless.engine.request import NAME_OF
from proxyless.transport.http1.errors import LocalProtocolError

_FRAMING = frozenset({"content-length", "transfer-encoding"})
# Pieces of this size are written one after the other, so that back-pressure acts within a large chunk too.
_PIECE = 256 * 1024
# Seconds that a body waits for a 100: curl's, as many servers never send one.
CONTINUE_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Framing:
    """header: the line that announces the body, "" for none. length: body bytes, None when it is chunked."""

    header: str
    length: int | None


_NOTHING = Framing("", 0)
CHUNKED = Framing("transfer-encoding: chunked\r\n", None)


def framing_of(headers: list[tuple[str, str]], content: bytes | None) -> Framing:
    """content: the whole body, or None for a stream.

    The application's own framing headers are checked, then replaced by ours. Raises LocalProtocolError when they
    contradict each other or the body.
    """
    declared, chunked = (None, False) if _FRAMING.isdisjoint(map(NAME_OF, headers)) else _declared(headers)
    if declared is not None and not (declared.isascii() and declared.isdigit() and len(declared) < 19):
        raise LocalProtocolError(f"{declared[:40]!r} is not a Content-Length")
    if content is None:
        if declared is None or chunked:
            return CHUNKED
        return Framing(f"content-length: {declared}\r\n", int(declared))
    if declared is None:
        return Framing(f"content-length: {len(content)}\r\n", len(content)) if content else _NOTHING
    if int(declared) != len(content) and not chunked:
        raise LocalProtocolError(f"Content-Length says {declared}, but the body has {len(content)} bytes")
    return Framing(f"content-length: {len(content)}\r\n", len(content))


def _declared(headers: list[tuple[str, str]]) -> tuple[str | None, bool]:
    """The length that they announce, and whether they announce chunks."""
    declared: str | None = None
    chunked = False
    for name, value in headers:
        if name == "content-length":
            if declared is not None and declared != value:
                raise LocalProtocolError("the request has two different Content-Length headers")
            declared = value
        elif name == "transfer-encoding":
            if value.strip().lower() != "chunked":
                raise LocalProtocolError("the only Transfer-Encoding that can be sent is chunked")
            chunked = True
    return declared, chunked


def expects_continue(headers: list[tuple[str, str]]) -> bool:
    """Whether the application asked that its body waits for a 100 (RFC 9110 section 10.1.1)."""
    return any(name == "expect" and value.strip().lower() == "100-continue" for name, value in headers)


class BodyFramer:
    """Turns a stream of chunks into bytes for the wire, and holds it to the length that was announced."""

    __slots__ = ("_left", "total")

    def __init__(self, framing: Framing) -> None:
        self._left = framing.length
        self.total = 0

    def frame(self, chunk: bytes) -> Iterator[bytes]:
        """The wire form of a chunk, in pieces. Raises LocalProtocolError when it is more than was announced."""
        size = len(chunk)
        if self._left is not None:
            if size > self._left:
                raise LocalProtocolError("the request body is longer than its Content-Length")
            self._left -= size
        self.total += size
        if size <= _PIECE:
            if size:  # an empty chunk would end a chunked body
                yield self._wire(chunk)
            return
        view = memoryview(chunk)
        for start in range(0, size, _PIECE):
            yield self._wire(bytes(view[start : start + _PIECE]))

    def end(self) -> bytes:
        """What closes the body. Raises LocalProtocolError when it is less than was announced."""
        if self._left is None:
            return b"0\r\n\r\n"
        if self._left:
            raise LocalProtocolError(f"the request body ended {self._left} bytes before its Content-Length")
        return b""

    def _wire(self, piece: bytes) -> bytes:
        return piece if self._left is not None else b"%x\r\n%b\r\n" % (len(piece), piece)

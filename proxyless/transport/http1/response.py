"""Reading responses: llhttp's parser with bounds, for the exchanges of one connection. No I/O here."""

from collections import deque
from dataclasses import dataclass, field

import httptools

from proxyless.transport.http1.errors import ConnectionEnded, RemoteProtocolError
from proxyless.transport.http1.names import lower

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})

# Lines that a server says again with each response. Others are nobody's to remember: a value may be a secret.
_REPEATED = _FRAMING | {"cache-control", "content-encoding", "content-type", "date", "server", "vary", "via"}
_MOST, _LONGEST = 1024, 128
# A header as text, the same as bytes, whether it is ASCII, and whether it says how the response is framed.
_Read = tuple[tuple[str, str], tuple[bytes, bytes], bool, bool]
_known: dict[tuple[bytes, bytes], _Read] = {}


def _read(line: tuple[bytes, bytes]) -> _Read:
    name, known = lower(line[0])
    stripped = line[1].strip(b" \t")
    value = stripped.decode("latin-1")
    found = (name, value), (known, stripped), value.isascii(), name in _FRAMING
    if name in _REPEATED and len(value) <= _LONGEST:
        if len(_known) >= _MOST:  # peers choose the values
            _known.clear()
        _known[line] = found
    return found


@dataclass(slots=True)
class ResponseHead:
    """Header names are lower case, values latin-1. reason: the phrase after the status, as it came.

    raw: the headers as bytes, [] when nobody kept them. plain: it is known that all are ASCII.
    """

    status: int
    headers: list[tuple[str, str]]
    version: str
    reason: bytes = b""
    raw: list[tuple[bytes, bytes]] = field(default_factory=list)
    plain: bool = False


class ResponseReader:
    """``begin`` an exchange, ``feed`` what arrives; ``head`` once it is there; ``take`` the body until ``complete``.

    keep_alive: known when complete. buffered: body bytes not taken yet. started: a byte of the response arrived.
    continued: a 100 arrived. switched: the response was the last of HTTP here (101, or 2xx to CONNECT), and
    ``trailing`` are the first bytes of what follows it.
    """

    __slots__ = (
        "_chunked", "_chunks", "_connect", "_head_bytes", "_interim", "_length", "_lines", "_no_body", "_parser",
        "_quiet", "_reason", "_upgrade", "buffered", "complete", "continued", "head", "keep_alive", "started",
        "switched", "trailing",
    )  # fmt: skip

    def __init__(self) -> None:
        # One for all exchanges: parser and reader refer to each other, which only the garbage collector can undo.
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._no_body = self._connect = False
        self._upgrade = ""
        self.complete = True
        self.keep_alive = True
        self.switched = False
        self.trailing = b""
        self.buffered = 0
        self._reset()

    def _reset(self) -> None:
        self.head: ResponseHead | None = None
        self.started = self.continued = False
        self._reason = b""
        self._lines: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._quiet = 0
        self._interim = self._chunked = False
        self._length: str | None = None

    def begin(self, method: str, upgrade: str = "") -> None:
        """A request with ``method`` is being sent; its response comes next. upgrade: the protocols it offers."""
        if self._no_body:  # the parser was left in the middle of the response to a HEAD
            self._parser = httptools.HttpResponseParser(self)
        self._reset()
        self._chunks.clear()
        self.buffered = 0
        self.complete = self.keep_alive = False
        self._connect = method == "CONNECT"
        self._no_body = self._connect or method == "HEAD"
        self._upgrade = upgrade

    def feed(self, data: bytes) -> None:
        """Raises RemoteProtocolError for what is not a response.

        Bytes after the end of one are no error of it; they only forbid keeping the connection.
        """
        self.started = True
        self._quiet += len(data)
        if self._no_body:
            self._feed_head_only(data)
        else:
            self._parse(data)
        # Nothing but framing for too long: an endless head, chunk extension, trailer or run of 1xx responses.
        if self._quiet > MAX_HEAD_BYTES and not self.complete:
            raise RemoteProtocolError(f"the response head (or trailer) has more than {MAX_HEAD_BYTES} bytes")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.keep_alive = False
            if self.complete:
                return
            if isinstance(error.__context__, RemoteProtocolError):
                raise error.__context__ from None
            raise RemoteProtocolError(f"the response is not valid HTTP/1.1: {error}") from None

    def _feed_head_only(self, data: bytes) -> None:
        """The response to a HEAD ends with its head, whatever that announces; llhttp cannot be told so here.

        So does one to CONNECT that grants it. A refusal has a body like any other response.
        """
        end = 0
        while end < len(data):
            if self.complete:
                if data[end:].strip(b"\r\n"):  # empty lines are overlooked, as llhttp does
                    self.keep_alive = False
                return
            start, end = end, data.find(b"\n", end) + 1 or len(data)
            self._parse(data[start:end])
            if self.head is None:
                continue
            if not self._connect:
                self.complete = True
            elif self._no_body:
                self._switch(data[end:])
                return
            else:
                if end < len(data):
                    self._parse(data[end:])
                return

    def _switch(self, trailing: bytes) -> None:
        self.complete = self.switched = True
        self.keep_alive = False
        self.trailing = trailing

    def eof(self) -> None:
        """The peer closed its side. Raises ConnectionEnded unless that is how the body ends."""
        if self.complete:
            return
        if self.head is None:
            what = "in the middle of the response head" if self.started else "without a response"
            raise ConnectionEnded(f"the server closed the connection {what}", clean=True)
        if self._chunked or self._length is not None:
            raise ConnectionEnded("the server closed the connection before the end of the response body", clean=True)
        self.complete = True

    def take(self) -> bytes:
        """All body bytes that have arrived and were not taken yet."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        return data

    # Called by the parser. What they raise stops it.

    def on_message_begin(self) -> None:
        if self.complete:
            raise RemoteProtocolError("bytes follow the end of the response")

    def on_status(self, phrase: bytes) -> None:
        self._reason += phrase  # in pieces when packets split it

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise RemoteProtocolError(f"the response head (or trailer) has more than {MAX_HEAD_BYTES} bytes")
        if len(self._lines) >= MAX_HEADERS:
            raise RemoteProtocolError(f"the response has more than {MAX_HEADERS} headers")
        self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        lines, self._lines = self._lines, []  # what comes now are trailers: counted, not kept for the application
        if status == 101:
            self._check_switch(lines)
        elif status < 200:
            if status < 100:
                raise RemoteProtocolError(f"the server answered with the status {status:03}, which is none")
            self._interim = True
            self.continued = self.continued or status == 100
            return
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise RemoteProtocolError(f"the server answered with HTTP/{version} on an HTTP/1.1 connection")
        codings = []
        closing = version == "1.0"
        headers, raw, plain = [], [], True
        for line in lines:
            header, kept, ascii_only, framing = _known.get(line) or _read(line)
            headers.append(header)
            raw.append(kept)
            plain = plain and ascii_only
            if framing:
                name, value = header
                if name == "transfer-encoding":
                    codings.append(value.lower())
                elif name == "content-length":
                    self._length = value
                else:
                    options = value.lower()
                    closing = "close" in options or (closing and "keep-alive" not in options)
        if codings:
            # Anything else would hand the application an encoded body as if it were plain.
            if codings != ["chunked"]:
                raise RemoteProtocolError("the response has a Transfer-Encoding other than chunked")
            self._chunked = True
            closing = closing or version == "1.0"
        if self._connect and not 200 <= status < 300:
            self._no_body = False
        # For the response to a HEAD llhttp is never asked: it waits for a body.
        self.keep_alive = self._no_body and not closing
        self.head = ResponseHead(status, headers, version, self._reason, raw, plain)
        self._head_bytes = 0

    def _check_switch(self, lines: list[tuple[bytes, bytes]]) -> None:
        """RFC 9110 section 15.2.2: a 101 names the protocol, and it is one that the request offered."""
        chosen = [value.decode("latin-1").strip(" \t").lower() for name, value in lines if lower(name)[0] == "upgrade"]
        offered = {name.strip() for name in self._upgrade.lower().split(",")} - {""}
        if not self._parser.should_upgrade() or len(chosen) != 1 or chosen[0] not in offered:
            raise RemoteProtocolError("the server switched to a protocol that we did not ask for")

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        self._chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._reason = b""
            return
        self.complete = True
        if not self._no_body:
            self.keep_alive = self._parser.should_keep_alive() and not (
                self._chunked and self.head is not None and self.head.version == "1.0"
            )

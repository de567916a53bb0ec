"""One exchange on an HTTP/2 connection, as far as it needs no I/O."""

from collections import deque

from proxyless.transport.http1.errors import LocalProtocolError, RemoteProtocolError
from proxyless.transport.http1.framing import BodyFramer
from proxyless.transport.http1.response import ResponseHead


class Stream:
    """A response as it arrives. head: once it is there. buffered: body bytes not taken yet. complete: it has all come.

    error: why there will be no more of it. id: 0 before the request is sent, and it is not known by the session any
    more once ``gone``. request_done: all of the request is sent, or nobody wants the rest.
    """

    __slots__ = (
        "_chunks", "_expected", "_received", "_unreturned", "buffered", "complete", "error", "gone", "head", "id",
        "method", "request_bytes", "request_done",
    )  # fmt: skip

    def __init__(self) -> None:
        self.id = 0
        self.method = ""
        self.head: ResponseHead | None = None
        self.error: BaseException | None = None
        self.complete = self.gone = self.request_done = False
        self.buffered = self.request_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._received = self._unreturned = 0
        self._expected: int | None = None

    def wake(self) -> None:
        """Something happened to this stream, or there may be room to send. Called by the session."""

    # The session's

    def answered(self, head: ResponseHead, length: int | None) -> None:
        self.head = head
        if self.method != "HEAD" and head.status not in (204, 304):
            self._expected = length

    def received(self, data: bytes, credit: int) -> None:
        """credit: what ``data`` cost of the stream's window, padding included."""
        self._received += len(data)
        self._unreturned += credit
        if data:
            self._chunks.append(data)
            self.buffered += len(data)

    def ended(self) -> None:
        """Raises RemoteProtocolError when that is not the announced end."""
        if self._expected is not None and self._received != self._expected:
            raise RemoteProtocolError("the response's body is not as long as its Content-Length")
        self.complete = True

    def take(self) -> tuple[bytes, int]:
        """All body bytes that have arrived, and the credit that their taking returns to the peer."""
        chunks = self._chunks
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        credit, self._unreturned = self._unreturned, 0
        return data, credit


class DataFramer(BodyFramer):
    """Holds a body to its announced length; frames are made where the windows are known."""

    __slots__ = ()

    def _wire(self, piece: bytes) -> bytes:
        return piece


def checked(chunk: object) -> bytes:
    """A chunk of the application's body. Raises LocalProtocolError for anything but bytes."""
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise LocalProtocolError(f"a request body is made of bytes, not {type(chunk).__name__}")
    return bytes(chunk)

"""What one end of an HTTP/2 connection sends: heads, data within the peer's windows, resets, pings, and last words."""

from proxyless.transport.flood import FloodBudget
from proxyless.transport.grpc_wire.errors import Code, name_of
from proxyless.transport.grpc_wire.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_FRAME_SIZE,
    FIRST_WINDOW,
    GOAWAY,
    HEADER,
    HEADERS,
    LARGEST,
    PING,
    RST_STREAM,
)
from proxyless.transport.grpc_wire.header_blocks import NO_TABLE
from proxyless.transport.grpc_wire.settings import STREAM_WINDOW
from proxyless.transport.grpc_wire.stream import Stream, Unsent

# The payload of a PING whose answer says that the peer knows of our GOAWAY.
DRAINING = b"draining"


class Sending:
    """streams: open ones by number. draining: no new stream is opened. over: why all is over, "" before."""

    def __init__(self, budget: FloodBudget) -> None:
        self._budget = budget
        self._out = bytearray()
        self._table_said = self._draining_soon = False
        self._sendable = self._peer_window = FIRST_WINDOW
        self._window = STREAM_WINDOW  # what a stream of ours begins with, as far as the peer knows
        self._peer_frame = FIRST_FRAME_SIZE
        self._blocked: dict[Stream, None] = {}  # streams that have a window, but the connection has none
        self._next = 1
        self._last = 0  # the highest number of a stream that the peer opened
        self._told_last = LARGEST  # that the peer knows of by our GOAWAY
        self.streams: dict[int, Stream] = {}
        self.draining = False
        self.over = ""

    def on_change(self) -> None:
        """``limit``, ``settled`` or ``draining`` is not what it was, or a stream is gone."""

    def take(self) -> bytes:
        """What is to be written now. Not bounded here: while the socket takes nothing, nothing should be fed."""
        found = bytes(self._out)
        self._out.clear()
        return found

    def open(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """A client's request head. Not while ``over`` or ``draining``, nor with ``limit`` streams open."""
        assert not self.over and not self.draining, "the connection takes no further stream"
        stream.id = number = self._next
        self._next += 2
        if number >= LARGEST - 2:
            self.draining = True
        self._adopt(stream, number)
        self.head(stream, block, end=end)

    def head(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """A head or, with ``end``, trailers, which follow what still waits for the windows. Of ``encode``."""
        if self.over or not _may_send(stream):
            return
        if stream.unsent:
            stream.unsent.append(Unsent(b"", end, block))
            return
        self._write_block(stream, block, end)

    def data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """What the windows hold back waits, counted in ``stream.waiting``; then ``on_room`` tells when it is gone."""
        if self.over or not _may_send(stream):
            return
        size = len(data)
        if size <= self._sendable and size <= stream.sendable and size <= self._peer_frame and not stream.unsent:
            if size or end:
                self._write_data(stream, data, size, end)
            return
        stream.unsent.append(Unsent(memoryview(data), end))
        stream.waiting += size
        self._send_waiting(stream)

    def reset(self, stream: Stream, code: int = Code.CANCEL) -> None:
        """Nobody wants more of it, from either side; nor to be told of its end."""
        if not stream.gone and stream.id:
            if not self.over:
                self._frame(RST_STREAM, 0, stream.id, int(code).to_bytes(4))
            self._forget(stream)

    def ping(self, payload: bytes) -> None:
        """payload: 8 bytes."""
        if not self.over:
            self._frame(PING, 0, 0, payload)

    def drain(self) -> None:
        """A server wants no new streams. Those on their way are still taken, until the peer has answered a PING that
        says it knows (section 6.8), or ``drained``; those that came go on.
        """
        if not self.draining and not self.over and not self._draining_soon:
            self._draining_soon = True
            self._frame(GOAWAY, 0, 0, LARGEST.to_bytes(4) + bytes(4))
            self._frame(PING, 0, 0, DRAINING)

    def drained(self) -> None:
        """The peer knows of ``drain``, or has had its time to answer."""
        if not self.draining:
            self.draining = True
            self._going_away(Code.NO_ERROR)
            self.on_change()

    def close(self, code: int = Code.NO_ERROR, why: str = "the connection was closed") -> None:
        """All is over, also what is under way; the peer is told."""
        if not self.over:
            self._going_away(code)
            self._end(code, why)

    def lost(self, why: str) -> None:
        """The socket ended."""
        if not self.over:
            self._end(Code.CONNECT_ERROR, why)

    # ---- within

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._out += HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, number)
        self._out += payload

    def _write_block(self, stream: Stream, block: bytes, end: bool) -> None:
        if not self._table_said:
            self._table_said = True
            block = NO_TABLE + block
        flags = END_STREAM if end else 0
        if len(block) <= self._peer_frame:
            self._frame(HEADERS, flags | END_HEADERS, stream.id, block)
        else:
            pieces = [block[at : at + self._peer_frame] for at in range(0, len(block), self._peer_frame)]
            self._frame(HEADERS, flags, stream.id, pieces[0])
            for piece in pieces[1:-1]:
                self._frame(CONTINUATION, 0, stream.id, piece)
            self._frame(CONTINUATION, END_HEADERS, stream.id, pieces[-1])
        self._budget.sent()
        if end:
            self._we_ended(stream)

    def _write_data(self, stream: Stream, data: bytes | memoryview, size: int, end: bool) -> None:
        stream.sendable -= size
        self._sendable -= size
        self._frame(DATA, END_STREAM if end else 0, stream.id, data)
        self._budget.sent()
        if end:
            self._we_ended(stream)

    def _send_all_waiting(self) -> None:
        while self._blocked and self._sendable > 0:
            self._send_and_tell(next(iter(self._blocked)))

    def _send_and_tell(self, stream: Stream) -> None:
        """on_room is not called by who sends: it may send in turn, and so on."""
        self._send_waiting(stream)
        if not stream.unsent and (stream.sent or not stream.gone):
            stream.on_room()

    def _send_waiting(self, stream: Stream) -> None:
        unsent = stream.unsent
        self._blocked.pop(stream, None)
        while unsent:
            data, end, block = unsent[0]
            if block:
                unsent.popleft()
                self._write_block(stream, block, end)
                continue
            room = min(stream.sendable, self._sendable, self._peer_frame)
            if room <= 0 and data:
                if stream.sendable > 0:
                    # To the end of the line: each stream has its turn of the connection's window.
                    self._blocked[stream] = None
                return
            piece = data[: max(room, 0)]
            size = len(piece)
            whole = size == len(data)
            stream.waiting -= size
            if whole:
                unsent.popleft()
            else:
                unsent[0] = Unsent(data[size:], end)
            self._write_data(stream, piece, size, end and whole)

    def _we_ended(self, stream: Stream) -> None:
        stream.sent = True
        if stream.received:
            self._forget(stream)

    def _adopt(self, stream: Stream, number: int) -> None:
        stream.id = number
        stream.sendable, stream.receivable = self._peer_window, self._window
        self.streams[number] = stream

    def _forget(self, stream: Stream) -> None:
        if not stream.gone:
            stream.gone = True
            self.streams.pop(stream.id, None)
            self._blocked.pop(stream, None)
            stream.unsent.clear()
            stream.waiting = 0
            self.on_change()

    def _fail(self, stream: Stream, code: int, why: str, *, unprocessed: bool = False) -> None:
        if not stream.gone:
            self._forget(stream)
            stream.on_end(code, why, unprocessed=unprocessed)

    def _going_away(self, code: int) -> None:
        self._told_last = min(self._told_last, self._last)  # never more than before
        self._frame(GOAWAY, 0, 0, self._told_last.to_bytes(4) + int(code).to_bytes(4))

    def _end(self, code: int, why: str) -> None:
        self.over, self.draining = why or name_of(code), True
        failed: Exception | None = None
        for stream in list(self.streams.values()):
            try:
                self._fail(stream, code, why)
            except Exception as error:  # the others are to hear of it all the same
                failed = failed or error
        self.on_change()
        if failed is not None:
            raise failed


def _may_send(stream: Stream) -> bool:
    """Whether our side is open, and its end not even waiting."""
    return not (stream.sent or stream.gone or (stream.unsent and stream.unsent[-1].end))

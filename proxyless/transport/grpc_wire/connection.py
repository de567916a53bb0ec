"""One HTTP/2 connection (RFC 9113) without a socket, of either end.

``feed`` what arrives and write ``take`` afterwards. Whatever the peer does wrong ends the connection with the code that
the RFC says, told to it in a GOAWAY; what no honest peer does at such a rate ends it too, as Envoy's flood limits do.
"""

import struct
from collections.abc import Callable

from proxyless.transport.flood import FloodBudget
from proxyless.transport.grpc_wire.errors import Code, ConnectionFault, HeadMalformed, HeadTooLarge, name_of
from proxyless.transport.grpc_wire.fields import is_request, is_trailers, status_of
from proxyless.transport.grpc_wire.header_blocks import NO_TABLE, Decoder, Lines
from proxyless.transport.grpc_wire.stream import Stream, Unsent

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT, _INITIAL_WINDOW, _MAX_FRAME, _MAX_LIST = range(1, 7)
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_HEADER = struct.Struct(">BHBBL")
_SETTING = struct.Struct(">HL")
_LARGEST = 2**31 - 1
_FIRST_WINDOW = 65_535
_DRAINING = b"draining"

# What we announce. A window of a stream bounds what one message may take of memory before somebody reads it.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
MAX_FRAME = 64 * 1024
MAX_HEAD = 64 * 1024
_MOST_BLOCK_FRAMES = 16
_MOST_SETTINGS = 64
# Whatever the peer allows: what waits on one connection stays bounded.
_MOST_OPEN = 1000
# To a server, a request that its client made void at once costs more than it cost the client (CVE-2023-44487 and
# CVE-2025-8671). In frames: 500 at once, as Envoy's premature_reset_total_stream_count; and in seconds, as Envoy's
# premature_reset_min_stream_lifetime_seconds.
_PREMATURE_COST, _PREMATURE = 4.0, 1.0
_TOO_LARGE_COST = 20.0


class Connection:
    """clock: seconds. client: which end we are. most_streams: that the peer may have open at once; for a server only.
    most_head: bytes of a header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts.

    streams: open ones by number. limit: how many we may open at once, as far as the peer has said. settled: the peer's
    SETTINGS have come. draining: no new stream is opened (client) or taken (server). over: why all is over, "" before.
    Subclasses take what is not of a stream: ``on_request``, ``on_pong``, ``on_change``.
    """

    def __init__(
        self, clock: Callable[[], float], *, client: bool, most_streams: int = 1000, most_head: int = MAX_HEAD
    ) -> None:
        self._client = client
        self._clock = clock
        self._most = most_streams
        self._most_block = max(most_head, MAX_HEAD)
        self._out = bytearray()
        self._rest = b""
        self._preface = not client
        self._decoder = Decoder(most_head)
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and bytes of a head that goes on
        self._block_frames = 0
        self._table_said = self._draining_soon = False
        self._sendable = self._peer_window = _FIRST_WINDOW
        self._peer_frame = 16_384
        self._receivable = CONNECTION_WINDOW
        self._unreturned = 0
        self._blocked: dict[Stream, None] = {}  # streams that have a window, but the connection has none
        self._next = 1
        self._last = 0  # the highest number of a stream that the peer opened
        self._told_last = _LARGEST  # that the peer knows of by our GOAWAY
        self._budget = FloodBudget(clock)
        self.streams: dict[int, Stream] = {}
        self.limit = 100
        self.settled = self.draining = False
        self.over = ""
        if client:
            self._out += PREFACE
        settings = [(_INITIAL_WINDOW, STREAM_WINDOW), (_MAX_FRAME, MAX_FRAME), (_MAX_LIST, most_head)]
        settings.append((_ENABLE_PUSH, 0) if client else (_MAX_CONCURRENT, most_streams))
        self._frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in settings))
        self._frame(WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW - _FIRST_WINDOW).to_bytes(4))

    # ---- for who subclasses

    def on_request(self) -> Stream | None:
        """A stream for a server's next request, whose ``on_head`` follows; None: it is refused, unprocessed."""
        return None

    def on_pong(self, payload: bytes) -> None:
        """The answer to ``ping``."""

    def on_change(self) -> None:
        """``limit``, ``settled`` or ``draining`` is not what it was, or a stream is gone."""

    # ---- what we send

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
        if number >= _LARGEST - 2:
            self.draining = True
        self._adopt(stream, number)
        self.head(stream, block, end=end)

    def head(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """A head or, with ``end``, trailers, which follow what still waits for the windows. Of ``encode``."""
        if not _may_send(stream):
            return
        if stream.unsent:
            stream.unsent.append(Unsent(b"", end, block))
            return
        self._write_block(stream, block, end)

    def data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """What the windows hold back waits, counted in ``stream.waiting``; then ``on_room`` tells when it is gone."""
        size = len(data)
        if not _may_send(stream) or not (size or end):
            return
        if size <= self._sendable and size <= stream.sendable and size <= self._peer_frame and not stream.unsent:
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

    def consumed(self, stream: Stream, credit: int) -> None:
        """The application has taken this much: the peer may send it again."""
        if stream.gone or stream.received or self.over or not credit:
            return
        stream.receivable += credit
        self._frame(WINDOW_UPDATE, 0, stream.id, credit.to_bytes(4))

    def ping(self, payload: bytes) -> None:
        """payload: 8 bytes."""
        if not self.over:
            self._frame(PING, 0, 0, payload)

    def drain(self) -> None:
        """A server wants no new streams. Those on their way are still taken, until the peer has answered a PING that
        says it knows (section 6.8); those that came go on.
        """
        if not self.draining and not self.over and not self._draining_soon:
            self._draining_soon = True
            self._frame(GOAWAY, 0, 0, _LARGEST.to_bytes(4) + bytes(4))
            self._frame(PING, 0, 0, _DRAINING)

    def close(self, code: int = Code.NO_ERROR, why: str = "the connection was closed") -> None:
        """All is over, also what is under way; the peer is told."""
        if not self.over:
            self._going_away(code)
            self._end(code, why)

    def lost(self, why: str) -> None:
        """The socket ended."""
        if not self.over:
            self._end(Code.CONNECT_ERROR, why)

    # ---- what arrives

    def feed(self, data: bytes) -> None:
        """Afterwards write ``take``; with ``over`` set, close the socket then."""
        if self.over:
            return
        try:
            self._feed(data)
        except ConnectionFault as fault:
            self.close(fault.code, str(fault))
        except Exception:
            self.close(Code.INTERNAL_ERROR, "an error of ours, while something arrived")
            raise

    def _feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        if self._preface:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the peer does not speak HTTP/2")
            if end < len(PREFACE):
                self._rest = data
                return
            position, self._preface = len(PREFACE), False
        while end - position >= 9:
            high, low, kind, flags, number = _HEADER.unpack_from(data, position)
            size = high << 16 | low
            if size > MAX_FRAME:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame larger than allowed, or no HTTP/2 at all")
            stop = position + 9 + size
            if stop > end:
                break
            self._arrived(kind, flags, number & _LARGEST, data[position + 9 : stop])
            if self.over:
                return
            position = stop
        self._rest = data[position:]

    def _arrived(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block that is interrupted")
        if not self.settled and (kind != SETTINGS or flags & _ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == DATA:
            self._got_data(flags, number, payload)
        elif kind == HEADERS:
            self._got_headers(flags, number, payload)
        elif kind == RST_STREAM:
            self._got_reset(number, payload)
        else:
            self._spend()
            if kind == WINDOW_UPDATE:
                self._got_window(number, payload)
            elif kind == PING:
                self._got_ping(flags, number, payload)
            elif kind == SETTINGS:
                self._got_settings(flags, number, payload)
            elif kind == CONTINUATION:
                self._got_more(flags, payload)
            elif kind == GOAWAY:
                self._got_goaway(number, payload)
            elif kind == PUSH_PROMISE:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a push, which we did not allow")
            elif kind == PRIORITY and (not number or len(payload) != 5):
                raise ConnectionFault(Code.FRAME_SIZE_ERROR if number else Code.PROTOCOL_ERROR, "a bad PRIORITY")
            # Otherwise PRIORITY, and frames of extensions, mean nothing to us.

    def _got_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if flags & _PADDED:
            payload = _unpadded(payload)
        if not payload and not flags & _END_STREAM:
            self._spend()
        self._receivable -= size
        if self._receivable < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window")
        # Returned as it arrives: a stream that nobody reads must not stop the others.
        self._unreturned += size
        if self._unreturned >= CONNECTION_WINDOW // 4:
            self._frame(WINDOW_UPDATE, 0, 0, self._unreturned.to_bytes(4))
            self._receivable += self._unreturned
            self._unreturned = 0
        stream = self.streams.get(number)
        if stream is None:
            # Data on its way to a stream that we have reset may be many frames.
            self._must_be_past(number, 0.0 if payload else 1.0)
            return
        if stream.received:
            raise ConnectionFault(Code.STREAM_CLOSED, "data after the end of a stream")
        stream.receivable -= size
        if stream.receivable < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the stream's window")
        if not stream.headed:
            self._broken(stream, Code.PROTOCOL_ERROR, "the peer sent data before a head")
            return
        end = bool(flags & _END_STREAM)
        stream.received = end
        stream.on_data(payload, size, end)
        if end and stream.sent:
            self._forget(stream)

    def _got_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a HEADERS frame without the priority it announces")
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._got_head(number, payload, bool(flags & _END_STREAM))
            return
        self._spend()
        if not number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS without a stream")
        self._block = number, flags, bytearray(payload)
        self._block_frames = 1

    def _got_more(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        number, first, block = self._block
        block += payload
        self._block_frames += 1
        if len(block) > self._most_block or self._block_frames > _MOST_BLOCK_FRAMES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & _END_HEADERS:
            self._block = None
            self._got_head(number, bytes(block), bool(first & _END_STREAM))

    def _got_head(self, number: int, block: bytes, end: bool) -> None:
        lines: Lines = ()
        problem = None
        try:
            lines = self._decoder.decode(block)
        except HeadTooLarge:
            self._spend(_TOO_LARGE_COST)
            problem = Code.ENHANCE_YOUR_CALM
        except HeadMalformed:
            problem = Code.PROTOCOL_ERROR
        stream = self.streams.get(number)
        if stream is None:
            if not self._client and number % 2 and number > self._last:
                self._new(number, lines, problem, end)
            else:
                self._must_be_past(number)
            return
        if stream.received:
            raise ConnectionFault(Code.STREAM_CLOSED, "a head after the end of a stream")
        if problem is None:
            if stream.headed:
                wrong = not end or not is_trailers(lines)
            else:
                status = status_of(lines)
                if 100 <= status < 200 and status != 101 and not end:
                    self._spend()
                    return
                wrong = status < 200
            if wrong:
                problem = Code.PROTOCOL_ERROR
        if problem is not None:
            too_large = problem is Code.ENHANCE_YOUR_CALM
            why = "a header list larger than we take" if too_large else "the peer sent a malformed header list"
            self._broken(stream, problem, why)
            return
        self._tell_head(stream, lines, end)

    def _new(self, number: int, lines: Lines, problem: Code | None, end: bool) -> None:
        self._last = number
        if problem is None and not is_request(lines):
            problem = Code.PROTOCOL_ERROR
        stream = None
        if problem is None and not self.draining and len(self.streams) < self._most:
            stream = self.on_request()
            if self.over:
                return
        if stream is None:
            self._spend()
            self._frame(RST_STREAM, 0, number, int(Code.REFUSED_STREAM if problem is None else problem).to_bytes(4))
            return
        stream.opened = self._clock()
        self._adopt(stream, number)
        self._tell_head(stream, lines, end)

    def _tell_head(self, stream: Stream, lines: Lines, end: bool) -> None:
        stream.headed, stream.received = True, end
        stream.on_head(lines, end)
        if end and stream.sent:
            self._forget(stream)

    def _got_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or (len(payload) if flags & _ACK else len(payload) % 6):
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "bad SETTINGS")
        if flags & _ACK:
            return
        if len(payload) > _MOST_SETTINGS * _SETTING.size:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "more settings than there are")
        window = self._peer_window
        if self._client and not self.settled:
            self.limit = _MOST_OPEN
        for key, value in _SETTING.iter_unpack(payload):
            if key == _INITIAL_WINDOW:
                if value > _LARGEST:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window larger than there are")
                window = value
            elif key == _MAX_FRAME:
                if not 16_384 <= value < 1 << 24:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "a size of frames that there is not")
                self._peer_frame = min(value, MAX_FRAME)
            elif key == _MAX_CONCURRENT and self._client:
                self.limit = min(value, _MOST_OPEN)
            elif key == _ENABLE_PUSH and value > (0 if self._client else 1):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a push that is not allowed")
        self._frame(SETTINGS, _ACK, 0, b"")
        self.settled = True
        if window != self._peer_window:
            self._set_window(window)
        self.on_change()

    def _set_window(self, window: int) -> None:
        """Of each stream (section 6.9.2); the connection's is another matter."""
        change, self._peer_window = window - self._peer_window, window
        for stream in self.streams.values():
            stream.sendable += change
            if stream.sendable > _LARGEST:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window larger than there are")
        if change > 0:
            for stream in list(self.streams.values()):
                if stream.unsent:
                    self._send_and_tell(stream)

    def _got_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "a bad PING")
        if flags & _ACK and payload == _DRAINING and self._draining_soon and not self.draining:
            self.draining = True
            self._going_away(Code.NO_ERROR)
            self.on_change()
        elif flags & _ACK:
            self.on_pong(payload)
        else:
            self._frame(PING, _ACK, 0, payload)

    def _got_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a bad RST_STREAM")
        stream = self.streams.get(number)
        if stream is None:
            self._must_be_past(number)
            return
        code = int.from_bytes(payload)
        self._spend_on_end(stream)
        why = f"the peer reset the stream ({name_of(code)})"
        self._fail(stream, code, why, unprocessed=code == Code.REFUSED_STREAM)

    def _got_goaway(self, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "a bad GOAWAY")
        if not self._client:
            return  # it takes no pushes, and gets none
        last, code = int.from_bytes(payload[:4]) & _LARGEST, int.from_bytes(payload[4:8])
        self.draining = True
        why = f"the peer closes the connection ({name_of(code)}) and has not processed this"
        for stream in [one for one in self.streams.values() if one.id > last]:
            self._fail(stream, code, why, unprocessed=True)
        self.on_change()

    def _got_window(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a bad WINDOW_UPDATE")
        more = int.from_bytes(payload) & _LARGEST
        if not number:
            self._sendable += more
            if not more or self._sendable > _LARGEST:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR, "a bad window")
            self._send_all_waiting()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._must_be_past(number)
            return
        if not more or stream.sendable + more > _LARGEST:
            code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
            self._broken(stream, code, "the peer sent a bad window")
            return
        stream.sendable += more
        if stream.unsent:
            self._send_and_tell(stream)

    # ---- within

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._out += _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, number)
        self._out += payload

    def _write_block(self, stream: Stream, block: bytes, end: bool) -> None:
        if not self._table_said:
            self._table_said = True
            block = NO_TABLE + block
        flags = _END_STREAM if end else 0
        if len(block) <= self._peer_frame:
            self._frame(HEADERS, flags | _END_HEADERS, stream.id, block)
        else:
            pieces = [block[at : at + self._peer_frame] for at in range(0, len(block), self._peer_frame)]
            self._frame(HEADERS, flags, stream.id, pieces[0])
            for piece in pieces[1:-1]:
                self._frame(CONTINUATION, 0, stream.id, piece)
            self._frame(CONTINUATION, _END_HEADERS, stream.id, pieces[-1])
        self._budget.sent()
        if end:
            self._we_ended(stream)

    def _write_data(self, stream: Stream, data: bytes | memoryview, size: int, end: bool) -> None:
        stream.sendable -= size
        self._sendable -= size
        self._frame(DATA, _END_STREAM if end else 0, stream.id, data)
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
        stream.sendable, stream.receivable = self._peer_window, STREAM_WINDOW
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

    def _broken(self, stream: Stream, code: Code, why: str) -> None:
        """A stream error (section 5.4.2)."""
        self._spend_on_end(stream)
        self._frame(RST_STREAM, 0, stream.id, int(code).to_bytes(4))
        self._fail(stream, code, why)

    def _going_away(self, code: int) -> None:
        self._told_last = min(self._told_last, self._last)  # never more than before
        self._frame(GOAWAY, 0, 0, self._told_last.to_bytes(4) + int(code).to_bytes(4))

    def _end(self, code: int, why: str) -> None:
        self.over, self.draining = why or name_of(code), True
        self._rest, self._block = b"", None
        failed: Exception | None = None
        for stream in list(self.streams.values()):
            try:
                self._fail(stream, code, why)
            except Exception as error:  # the others are to hear of it all the same
                failed = failed or error
        self.on_change()
        if failed is not None:
            raise failed

    def _must_be_past(self, number: int, cost: float = 1.0) -> None:
        """A stream that is not open: one that was, whose late frames are nobody's, or one that never was."""
        ours = number % 2 == (1 if self._client else 0)
        if not number or number > (self._next - 1 if ours else self._last):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame of a stream that was never opened")
        self._spend(cost)

    def _spend_on_end(self, stream: Stream) -> None:
        """The peer ends a stream before its time. A client's are as many as it opens itself."""
        if not self._client and self._clock() - stream.opened < _PREMATURE:
            self._spend(_PREMATURE_COST)

    def _spend(self, frames: float = 1.0) -> None:
        if not self._budget.spend(frames):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a flood of frames that bring nothing")


def _may_send(stream: Stream) -> bool:
    """Whether our side is open, and its end not even waiting."""
    return not (stream.sent or stream.gone or (stream.unsent and stream.unsent[-1].end))


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]

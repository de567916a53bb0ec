"""One HTTP/2 connection (RFC 9113) without a socket, of either end.

``feed`` what arrives and write ``take`` afterwards. Whatever the peer does wrong ends the connection with the code that
the RFC says, told to it in a GOAWAY; what no honest peer does at such a rate ends it too, as Envoy's flood limits do.
"""

from collections.abc import Callable

from proxyless.transport.flood import FloodBudget
from proxyless.transport.grpc_wire.errors import Code, ConnectionFault, HeadMalformed, HeadTooLarge, name_of
from proxyless.transport.grpc_wire.fields import is_request, is_trailers, status_of
from proxyless.transport.grpc_wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADER,
    HEADERS,
    LARGEST,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    unpadded,
)
from proxyless.transport.grpc_wire.header_blocks import Decoder, Lines
from proxyless.transport.grpc_wire.receiving import PIECE, Receiving
from proxyless.transport.grpc_wire.sending import DRAINING
from proxyless.transport.grpc_wire.settings import (
    CONNECTION_WINDOW,
    MAX_FRAME,
    MAX_HEAD,
    STREAM_WINDOW,
    announced,
    said,
)
from proxyless.transport.grpc_wire.stream import Stream

__all__ = ["CONNECTION_WINDOW", "MAX_FRAME", "MAX_HEAD", "STREAM_WINDOW", "Connection"]

_MOST_BLOCK_FRAMES = 16
# Whatever the peer allows: what waits on one connection stays bounded.
_MOST_OPEN = 1000
# To a server, a request that its client made void at once costs more than it cost the client (CVE-2023-44487 and
# CVE-2025-8671). In frames: 500 at once, as Envoy's premature_reset_total_stream_count; and in seconds, as Envoy's
# premature_reset_min_stream_lifetime_seconds.
_PREMATURE_COST, _PREMATURE = 4.0, 1.0
_TOO_LARGE_COST = 20.0


class Connection(Receiving):
    """clock: seconds. client: which end we are. most_streams: that the peer may have open at once; for a server only.
    most_head: bytes of a header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts.

    streams: open ones by number. limit: how many we may open at once, as far as the peer has said. settled: the peer's
    SETTINGS have come. draining: no new stream is opened (client) or taken (server). goaway: the code with which a
    server asked for that. over: why all is over, "" before.
    Subclasses take what is not of a stream: ``on_request``, ``on_pong``, ``on_change``.
    """

    def __init__(
        self, clock: Callable[[], float], *, client: bool, most_streams: int = 1000, most_head: int = MAX_HEAD
    ) -> None:
        super().__init__(FloodBudget(clock))
        self._client = client
        self._clock = clock
        self._most = most_streams
        self._most_block = max(most_head, MAX_HEAD)
        self._rest = b""
        self._preface = not client
        self._decoder = Decoder(most_head)
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and bytes of a head that goes on
        self._block_frames = 0
        self.limit = 100
        self.settled = False
        self.goaway: int | None = None
        if client:
            self._out += PREFACE
        self._frame(SETTINGS, 0, 0, announced(client, most_streams, most_head))
        self._frame(WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW - FIRST_WINDOW).to_bytes(4))

    def on_request(self) -> Stream | None:
        """A stream for a server's next request, whose ``on_head`` follows; None: it is refused, unprocessed."""
        return None

    def on_pong(self, payload: bytes) -> None:
        """The answer to ``ping``."""

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
            data, self._rest = self._rest + data, b""
        position, end = 0, len(data)
        if self._preface:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the peer does not speak HTTP/2")
            if end < len(PREFACE):
                self._rest = data
                return
            position, self._preface = len(PREFACE), False
        while end - position >= 9:
            high, low, kind, flags, number = HEADER.unpack_from(data, position)
            size = high << 16 | low
            if size > MAX_FRAME:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame larger than allowed, or no HTTP/2 at all")
            stop = position + 9 + size
            if stop > end:
                break
            self._arrived(kind, flags, number & LARGEST, data[position + 9 : stop])
            if self.over:
                return
            position = stop
        self._rest = data[position:]

    def _arrived(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block that is interrupted")
        if not self.settled and (kind != SETTINGS or flags & ACK):
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
        if flags & PADDED:
            payload = unpadded(payload)
        if not payload and not flags & END_STREAM:
            self._spend()
        self._receivable -= size
        if self._receivable < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._unreturned += size
        if self._unreturned >= PIECE:
            self._give_back()
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
        end = bool(flags & END_STREAM)
        stream.received = end
        stream.on_data(payload, size, end)
        if end and stream.sent:
            self._forget(stream)

    def _got_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITISED:
            if len(payload) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a HEADERS frame without the priority it announces")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._got_head(number, payload, bool(flags & END_STREAM))
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
        if flags & END_HEADERS:
            self._block = None
            self._got_head(number, bytes(block), bool(first & END_STREAM))

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
        if number or (payload and flags & ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "bad SETTINGS")
        if flags & ACK:
            self._acknowledged()
            return
        their = said(payload, client=self._client)
        if their.frame is not None:
            self._peer_frame = min(their.frame, MAX_FRAME)
        if self._client and (their.streams is not None or not self.settled):
            self.limit = _MOST_OPEN if their.streams is None else min(their.streams, _MOST_OPEN)
        self._frame(SETTINGS, ACK, 0, b"")
        self.settled = True
        if their.window is not None and their.window != self._peer_window:
            self._set_window(their.window)
        self.on_change()

    def _set_window(self, window: int) -> None:
        """Of each stream (section 6.9.2); the connection's is another matter."""
        change, self._peer_window = window - self._peer_window, window
        for stream in self.streams.values():
            stream.sendable += change
            if stream.sendable > LARGEST:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window larger than there are")
        if change > 0:
            for stream in list(self.streams.values()):
                if stream.unsent:
                    self._send_and_tell(stream)

    def _got_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "a bad PING")
        if flags & ACK and payload == DRAINING and self._draining_soon:
            self.drained()
        elif flags & ACK:
            self.on_pong(payload)
        else:
            self._frame(PING, ACK, 0, payload)

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
        self._fail(stream, code, why, unprocessed=code == Code.REFUSED_STREAM and not stream.headed)

    def _got_goaway(self, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise ConnectionFault(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "a bad GOAWAY")
        if not self._client:
            return  # it takes no pushes, and gets none
        last, code = int.from_bytes(payload[:4]) & LARGEST, int.from_bytes(payload[4:8])
        self.draining, self.goaway = True, code
        why = f"the peer closes the connection ({name_of(code)}) and has not processed this"
        for stream in [one for one in self.streams.values() if one.id > last]:
            self._fail(stream, code, why, unprocessed=not stream.headed)
        self.on_change()

    def _got_window(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a bad WINDOW_UPDATE")
        more = int.from_bytes(payload) & LARGEST
        if not number:
            self._sendable += more
            if not more or self._sendable > LARGEST:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR, "a bad window")
            self._send_all_waiting()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._must_be_past(number)
            return
        if not more or stream.sendable + more > LARGEST:
            code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
            self._broken(stream, code, "the peer sent a bad window")
            return
        stream.sendable += more
        if stream.unsent:
            self._send_and_tell(stream)

    def _broken(self, stream: Stream, code: Code, why: str) -> None:
        """A stream error (section 5.4.2)."""
        self._spend_on_end(stream)
        self._frame(RST_STREAM, 0, stream.id, int(code).to_bytes(4))
        self._fail(stream, code, why)

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

"""The client's side of one HTTP/2 connection, without a socket: h2's state machine, held to what a client needs.

Frames reach h2 one by one: what came whole before a broken one counts, however the bytes were cut on the way. GOAWAY
never reaches it: to h2 the connection would be over, while streams that the server still serves go on (RFC 9113, 6.8).
"""

import contextlib
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple

from proxyless.transport.http1.errors import (
    ConnectionEnded,
    RemoteProtocolError,
    StreamAborted,
    StreamRefused,
    WireError,
)
from proxyless.transport.http1.response import MAX_HEAD_BYTES
from proxyless.transport.http2 import frames
from proxyless.transport.http2.frames import Frames
from proxyless.transport.http2.head import response_head
from proxyless.transport.http2.stream import Stream

# Body bytes of one response that may wait for the application before the server is made to wait.
STREAM_WINDOW = 256 * 1024
# The connection's window is returned as bytes arrive: a stream that nobody reads must not stop the others. What may
# wait is bounded by streams times their window.
_CONNECTION_WINDOW = 16 * 1024 * 1024
# RFC 9113 section 6.5.2: no limit until the server says one, and 100 is the least that it should say.
_STREAMS_AT_FIRST = 100
# Whatever the server allows: what waits per connection stays bounded.
_MOST_STREAMS = 1000
_LAST_STREAM_ID = 2**31 - 1
_CONFIG = H2Configuration(
    client_side=True,
    header_encoding=None,
    # Heads are made of what http1.head has checked, in lower case.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Session:
    """``open`` a stream, ``send`` its body, ``feed`` what arrives, ``take`` from streams, and write ``outgoing``.

    draining: no further stream can be opened. settled: the server has shown that it speaks HTTP/2. error: why the
    connection is over, None while it is not.
    Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float], max_streams: int | None = None) -> None:
        """max_streams: at once, whatever more the server allows."""
        self._most_streams = min(_MOST_STREAMS, max_streams or _MOST_STREAMS)
        self._h2 = H2Connection(_CONFIG)
        # Replaced, not updated: an update would hold only once the server has acknowledged it.
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: frames.MAX_FRAME_SIZE,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        self._frames = Frames(clock)
        self._credit = 0
        self._limit = min(_STREAMS_AT_FIRST, self._most_streams)
        self.settled = False  # the server's first SETTINGS have come
        self._blocked: dict[Stream, None] = {}
        self.streams: dict[int, Stream] = {}
        self.draining = False
        self.error: WireError | None = None

    @property
    def limit(self) -> int:
        """How many streams may be open at once."""
        return self._limit

    def outgoing(self) -> bytes:
        """What is to be written now."""
        return self._h2.data_to_send()

    # Requests

    def open(self, stream: Stream, method: str, head: list[HeaderTuple], *, complete: bool = False) -> None:
        """Send a request's head. Raises WireError when the connection takes no further stream.

        complete: there is no body, and the head says so. Were it said by an empty frame thereafter, a proxy would have
        sent the head on as that of a chunked request, which many an HTTP/1.1 server takes for two.
        """
        if self.error is not None:
            raise self.error
        if self.draining:
            raise StreamRefused("the server closes the connection and takes no further request on it")
        number = self._h2.get_next_available_stream_id()
        try:
            self._h2.send_headers(number, head, end_stream=complete)
        except H2Error as error:  # its limit of streams became less since this one was promised
            raise StreamRefused(f"the server takes no further stream now: {error}") from None
        self._frames.sent()
        stream.id, stream.method, stream.request_done = number, method, complete
        self.streams[number] = stream
        if number > _LAST_STREAM_ID - 4:
            self.draining = True

    def send(self, stream: Stream, data: memoryview) -> int:
        """Send as much of ``data`` as the windows let; how much that was. With less than all, ``wake`` will follow."""
        sent = 0
        while sent < len(data) and self._sendable(stream):
            room = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._blocked[stream] = None
                return sent
            piece = data[sent : sent + room]
            self._h2.send_data(stream.id, bytes(piece))
            self._frames.sent()
            sent += len(piece)
        self._blocked.pop(stream, None)
        return sent

    def end(self, stream: Stream) -> None:
        """The request is complete."""
        if self._sendable(stream):
            self._h2.end_stream(stream.id)
        stream.request_done = True
        self._forget_if_over(stream)

    def _sendable(self, stream: Stream) -> bool:
        return not (stream.gone or stream.request_done or stream.error is not None or self.error is not None)

    def leave(self, stream: Stream) -> None:
        """Nobody wants more of this stream: the server is told, unless it is over anyway."""
        if stream.gone or not stream.id:
            return
        if self.error is None and not (stream.complete and stream.request_done):
            code = ErrorCodes.NO_ERROR if stream.complete else ErrorCodes.CANCEL
            self._reset(stream, code)
        self._forget(stream)

    def take(self, stream: Stream) -> bytes:
        """The body bytes that have arrived; the server may send as many more."""
        data, credit = stream.take()
        if credit and not (stream.complete or stream.gone) and self.error is None:
            self._h2.increment_flow_control_window(credit, stream.id)
        return data

    # What arrives

    def feed(self, data: bytes) -> None:
        """Afterwards ``error`` is set if this was the end of the connection; write ``outgoing`` in any case."""
        if self.error is not None:
            return
        try:
            for kind, flags, number, frame in self._frames.cut(data):
                self._frame(kind, flags, number, frame)
        except RemoteProtocolError as error:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM if "flood" in str(error) else 1)
            self.fail(error)
        except H2Error as error:  # h2 has written the GOAWAY
            self.fail(RemoteProtocolError(f"the server does not keep to HTTP/2: {_words(error)}"))

    def eof(self) -> None:
        """The peer closed its side."""
        self.fail(ConnectionEnded("the server closed the connection", clean=True))

    def fail(self, error: WireError) -> None:
        """The connection is over: every stream that is not complete ends with ``error``."""
        if self.error is None:
            self.error = error
        self.draining = True
        for stream in list(self.streams.values()):
            self._fail(stream, error)

    def _frame(self, kind: int, flags: int, number: int, frame: bytes) -> None:
        if not self.settled:
            if kind != frames.SETTINGS or flags & 1:
                raise RemoteProtocolError("the server does not speak HTTP/2: its first frame is not SETTINGS")
            self.settled = True
        if kind == frames.GOAWAY:
            self._going_away(number, frame)
            return
        if kind == frames.PUSH_PROMISE:
            raise RemoteProtocolError("the server pushes, which we did not allow")
        for event in self._h2.receive_data(frame):
            self._event(event)
        if kind == frames.SETTINGS:
            if (limit := min(self._h2.remote_settings.max_concurrent_streams, self._most_streams)) != self._limit:
                self._limit = limit
            self._unblock()  # the initial window may have grown
        elif kind == frames.WINDOW_UPDATE:
            if not number:
                self._unblock()
            elif (waiting := self.streams.get(number)) is not None:
                waiting.wake()

    def _event(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._return_credit(event.flow_controlled_length)
        elif not isinstance(
            event, ResponseReceived | InformationalResponseReceived | TrailersReceived | StreamEnded | StreamReset
        ):
            return
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.error is not None:
            return
        match event:
            case ResponseReceived():
                stream.answered(*response_head(event.headers))
            case DataReceived():
                if stream.head is None:
                    raise RemoteProtocolError("the server sent a body before its head")
                stream.received(event.data, event.flow_controlled_length)
            case StreamEnded():
                if stream.head is None:
                    raise RemoteProtocolError("the server ended a stream without a response")
                stream.ended()
                self._forget_if_over(stream)
            case StreamReset():
                self._was_reset(stream, event)
        stream.wake()

    def _was_reset(self, stream: Stream, event: StreamReset) -> None:
        code = int(event.error_code or 0)
        if stream.complete:
            # Section 8.1: it has answered, and does not want the rest of the request.
            stream.request_done = True
            self._forget(stream)
        elif code == ErrorCodes.REFUSED_STREAM:
            self._fail(stream, StreamRefused("the server refused the stream"))
        else:
            self._fail(stream, StreamAborted(f"the server reset the stream: {_name(code)}"))

    def _going_away(self, number: int, frame: bytes) -> None:
        if number or len(frame) < 17:
            raise RemoteProtocolError("the server sent a GOAWAY that is none")
        last = int.from_bytes(frame[9:13], "big") & _LAST_STREAM_ID
        code = int.from_bytes(frame[13:17], "big")
        self.draining = True
        why = f"the server closes the connection ({_name(code)}) and has not processed this request"
        for stream in [one for one in self.streams.values() if one.id > last]:
            self._fail(stream, StreamRefused(why))

    def _return_credit(self, size: int) -> None:
        self._credit += size
        if self._credit >= _CONNECTION_WINDOW // 4:
            self._h2.increment_flow_control_window(self._credit)
            self._credit = 0

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for stream in blocked:
            stream.wake()

    def _reset(self, stream: Stream, code: int) -> None:
        with contextlib.suppress(H2Error):  # the server may have been faster
            self._h2.reset_stream(stream.id, code)

    def _fail(self, stream: Stream, error: WireError) -> None:
        if not stream.complete and stream.error is None:
            stream.error = error
        stream.request_done = True
        self._forget(stream)
        stream.wake()

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.complete and stream.request_done:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.gone = True
        self._blocked.pop(stream, None)
        self.streams.pop(stream.id, None)


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error code {code}"


def _words(error: H2Error) -> str:
    """h2's text, which is of the peer's making, cut to what a log line bears."""
    return "".join(one if one.isprintable() else "?" for one in str(error)[:200]) or type(error).__name__

"""What a peer may send: the connection's window and its streams', by what waits for the application."""

from proxyless.transport.flood import FloodBudget
from proxyless.transport.grpc_wire.frames import SETTINGS, WINDOW_UPDATE
from proxyless.transport.grpc_wire.sending import Sending
from proxyless.transport.grpc_wire.settings import (
    CONNECTION_WINDOW,
    MOST_UNREAD,
    NARROW_WINDOW,
    STREAM_WINDOW,
    window,
)
from proxyless.transport.grpc_wire.stream import Stream

# The connection's window is given back in pieces of so many bytes.
PIECE = CONNECTION_WINDOW // 4


class Receiving(Sending):
    """The connection's window is given back as data arrives: a stream that nobody reads must not stop the others, nor
    many of them those that are read, or handlers that wait for each other would wait for ever. Envoy gives back only
    what was read, and has that problem; gRPC core makes streams' windows small when memory is short. As here: where
    MOST_UNREAD waits on a connection its streams get NARROW_WINDOW, and until the peer has acknowledged that, no more
    of the connection's. So what waits is bounded by these three, and what is read goes on.

    piece: bytes of a stream's window that are worth giving back together.
    """

    def __init__(self, budget: FloodBudget) -> None:
        super().__init__(budget)
        self._receivable = CONNECTION_WINDOW
        self._unreturned = self._unread = 0
        self._announced: int | None = STREAM_WINDOW  # as long as the peer has not acknowledged it
        self.piece = STREAM_WINDOW // 4

    def on_narrow(self) -> None:
        """``piece`` is smaller: streams that owe more must give it back, or may get nothing again."""

    def consumed(self, stream: Stream, credit: int) -> None:
        """The application has taken this much: the peer may send it again."""
        if stream.gone or stream.received or self.over or not credit:
            return
        stream.receivable += credit
        self._frame(WINDOW_UPDATE, 0, stream.id, credit.to_bytes(4))

    def unread(self, change: int) -> bool:
        """change: of how many bytes, of all streams, wait for the application. True: there is something to write."""
        self._unread += change
        changed = self._adjust()
        return (change < 0 and self._unreturned >= PIECE and self._give_back()) or changed

    # ---- within

    def _acknowledged(self) -> None:
        """The SETTINGS that we sent last."""
        if self._announced is None:
            return
        change, self._window = self._announced - self._window, self._announced
        self._announced = None
        if change:
            for stream in self.streams.values():
                stream.receivable += change
            self._adjust()
            if self._unreturned >= PIECE:
                self._give_back()

    def _adjust(self) -> bool:
        if self._window == STREAM_WINDOW:
            if self._unread < MOST_UNREAD:
                return False
            size = NARROW_WINDOW
        else:
            # Not at once: what is at the bound need not change with each read.
            if self._unread >= MOST_UNREAD // 2:
                return False
            size = STREAM_WINDOW
        if self._announced is not None or self.over:
            return False
        self._announced, self.piece = size, size // 4
        self._frame(SETTINGS, 0, 0, window(size))
        if size == NARROW_WINDOW:
            self.on_narrow()
        return True

    def _give_back(self) -> bool:
        if self.over or (self._unread >= MOST_UNREAD and self._window != NARROW_WINDOW):
            return False
        self._frame(WINDOW_UPDATE, 0, 0, self._unreturned.to_bytes(4))
        self._receivable += self._unreturned
        self._unreturned = 0
        return True

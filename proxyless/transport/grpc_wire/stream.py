"""One stream of an HTTP/2 connection: what it may still send, and whom it tells of what arrives."""

from collections import deque
from typing import NamedTuple

from proxyless.transport.grpc_wire.header_blocks import Lines


class Unsent(NamedTuple):
    """What waits for a window. block: of trailers, which have none and wait for what is before them."""

    data: bytes | memoryview
    end: bool
    block: bytes = b""


class Stream:
    """To be subclassed: the ``on_`` methods are called by the connection, while it is fed. They may call it in turn,
    but for ``feed``; what they raise ends the connection.

    id: 0 until it is opened. sent: our side has ended. received: the peer's has. gone: the connection has forgotten it.
    headed: the peer's head has come. waiting: bytes that wait for the peer's windows.
    """

    __slots__ = ("gone", "headed", "id", "opened", "receivable", "received", "sendable", "sent", "unsent", "waiting")

    def __init__(self) -> None:
        self.id = 0
        self.sent = self.received = self.gone = self.headed = False
        self.opened = 0.0  # on the connection's clock; a server's only
        self.sendable = self.receivable = 0
        self.unsent: deque[Unsent] = deque()
        self.waiting = 0

    def on_head(self, lines: Lines, end: bool) -> None:
        """A head, then perhaps trailers, with which ``end`` is set: lists that RFC 9113 section 8 allows. Interim heads
        (1xx) are not told of. What a header means, and which may come twice, is for whoever reads it.
        """

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        """After the head. credit: what it took of the window; to be given back with ``Connection.consumed``."""

    def on_room(self) -> None:
        """All that waited is in the output."""

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        """It is over before its time: once, and never after both sides have ended, or ``Connection.reset``.

        code: of the reset or the connection's end. unprocessed: the peer has not looked at it and never will, so it may
        be sent again.
        """

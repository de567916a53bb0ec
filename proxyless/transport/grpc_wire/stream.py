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
    """To be subclassed: the ``on_`` methods are called by the connection, while it is fed.

    id: 0 until it is opened. sent: our side has ended. received: the peer's has. gone: the connection has forgotten it.
    waiting: bytes that wait for the peer's windows.
    """

    __slots__ = ("gone", "id", "receivable", "received", "sendable", "sent", "unsent", "waiting")

    def __init__(self) -> None:
        self.id = 0
        self.sent = self.received = self.gone = False
        self.sendable = self.receivable = 0
        self.unsent: deque[Unsent] = deque()
        self.waiting = 0

    def on_head(self, lines: Lines, end: bool) -> None:
        """A header list: a head, or the trailers after data."""

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        """credit: what it took of the window; to be given back with ``Connection.consumed``."""

    def on_room(self) -> None:
        """All that waited for the windows is in the output."""

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        """It is over before its time. code: of the reset or the connection's end. unprocessed: the peer has not looked
        at it and never will, so it may be sent again.
        """

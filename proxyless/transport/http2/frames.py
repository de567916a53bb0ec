"""Cutting what a peer sends into frames, and refusing what no honest peer sends, before anything is kept of it."""

from collections.abc import Callable, Iterator

from proxyless.transport.flood import FloodBudget
from proxyless.transport.http1.errors import RemoteProtocolError

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM = 0x1
_END_HEADERS = 0x4
_HEADER = 9
# What we announce as SETTINGS_MAX_FRAME_SIZE: the protocol's smallest, and default.
MAX_FRAME_SIZE = 16_384
# HPACK can make a list longer, never much shorter, than its bytes: an honest block is no longer than its list may be.
MAX_HEADER_BLOCK = 64 * 1024


class Frames:
    """``cut`` bytes into whole frames. Raises RemoteProtocolError for what is too much, as Envoy's flood limits do."""

    __slots__ = ("_block", "_block_frames", "_budget", "_buffer")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._buffer = bytearray()
        self._block = self._block_frames = 0  # of the header block that is arriving
        self._budget = FloodBudget(clock)

    def cut(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, stream, and all bytes of each whole frame."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER:
            length = buffer[0] << 16 | buffer[1] << 8 | buffer[2]
            kind, flags = buffer[3], buffer[4]
            if length > MAX_FRAME_SIZE:
                raise RemoteProtocolError(
                    f"the server sent an HTTP/2 frame of {length} bytes, or does not speak HTTP/2"
                )
            if len(buffer) < _HEADER + length:
                return
            frame = bytes(buffer[: _HEADER + length])
            del buffer[: _HEADER + length]
            self._check(kind, flags, length)
            yield kind, flags, int.from_bytes(frame[5:9], "big") & 0x7FFF_FFFF, frame

    def sent(self) -> None:
        """A frame of a request was sent: the peer may answer it with some frames of its own (Envoy allows 10)."""
        self._budget.sent()

    def _check(self, kind: int, flags: int, length: int) -> None:
        if kind in (HEADERS, CONTINUATION):
            self._block += length
            self._block_frames += 1
            if self._block > MAX_HEADER_BLOCK or self._block_frames > MAX_HEADER_BLOCK // 4096:
                raise RemoteProtocolError(f"the server sent a header block of more than {MAX_HEADER_BLOCK} bytes")
            if flags & _END_HEADERS:
                self._block = self._block_frames = 0
        elif kind == DATA and length:
            return
        if not self._budget.spend():
            raise RemoteProtocolError("the server floods the connection with HTTP/2 frames that bring nothing")

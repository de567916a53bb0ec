"""gRPC's messages in a stream's data: five bytes of prefix, then the message, compressed or not (PROTOCOL-HTTP2.md)."""

import struct
import zlib

from proxyless.model.errors import ProxylessError

_PREFIX = struct.Struct(">BL")
# grpcio's default for what a message may have, in bytes.
MAX_MESSAGE = 4 * 1024 * 1024
# zlib's windows: gzip has a header of its own, deflate is zlib's.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = ("identity", *_WINDOWS)


class BadMessage(ProxylessError):
    """status: the number of the gRPC status that the call ends with. before: messages that came whole with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.before: tuple[bytes, ...] = ()


def frame(message: bytes, encoding: str = "identity") -> bytes:
    """encoding: one of ENCODINGS."""
    if encoding == "identity":
        return _PREFIX.pack(0, len(message)) + message
    packer = zlib.compressobj(wbits=_WINDOWS[encoding])
    packed = packer.compress(message) + packer.flush()
    return _PREFIX.pack(1, len(packed)) + packed


class Packed(bytes):
    """A message as it was sent, for ``Messages.unpacked``."""

    __slots__ = ()


class Messages:
    """``feed`` data, and have the messages in their order.

    most: bytes of one message, as sent and as decompressed; None for no limit. encoding: of ``grpc-encoding``.
    later: compressed ones come ``Packed``, so that what waits to be read is no larger than what was sent.
    """

    __slots__ = ("_buffer", "_later", "_most", "encoding")

    def __init__(self, most: int | None = MAX_MESSAGE, *, later: bool = False) -> None:
        self._buffer = bytearray()
        self._most = most
        self._later = later
        self.encoding = "identity"

    @property
    def partial(self) -> int:
        """Bytes that no message was made of yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises BadMessage."""
        buffer = self._buffer
        if not buffer and len(data) >= 5:  # one message in one frame, nearly always
            flag, size = _PREFIX.unpack_from(data)
            if size == len(data) - 5:
                self._check(size)
                return [self._message(flag, data[5:])]
        buffer += data
        found: list[bytes] = []
        start = 0
        try:
            while len(buffer) - start >= 5:
                flag, size = _PREFIX.unpack_from(buffer, start)
                self._check(size)
                end = start + 5 + size
                if end > len(buffer):
                    break
                found.append(self._message(flag, bytes(buffer[start + 5 : end])))
                start = end
        except BadMessage as bad:
            bad.before = tuple(found)
            raise
        finally:
            del buffer[:start]
        return found

    def _check(self, size: int) -> None:
        if self._most is not None and size > self._most:
            raise BadMessage(8, f"Received message larger than max ({size} vs. {self._most})")

    def _message(self, flag: int, data: bytes) -> bytes:
        if not flag:
            return data
        if flag != 1:
            raise BadMessage(13, f"a message with the flags {flag}, which do not exist")
        if self.encoding == "identity":
            raise BadMessage(13, "a compressed message in a stream that names no compression")
        return Packed(data) if self._later else self.unpacked(data)

    def unpacked(self, data: bytes) -> bytes:
        """Raises BadMessage."""
        window = _WINDOWS.get(self.encoding)
        if window is None:
            raise BadMessage(12, "a message is compressed in a way that is not supported")
        unpacker = zlib.decompressobj(wbits=window)
        try:
            found = unpacker.decompress(data, 0 if self._most is None else self._most + 1)
        except zlib.error:
            raise BadMessage(13, "a message that cannot be decompressed") from None
        if self._most is not None and len(found) > self._most:
            raise BadMessage(8, f"Received message larger than max ({len(found)} or more vs. {self._most})")
        if not unpacker.eof:
            raise BadMessage(13, "a message whose compressed form is cut off")
        if unpacker.unused_data:
            raise BadMessage(13, "a message with more than its compressed form")
        return found

"""The request messages of a streaming call: kept for another attempt until the call is committed to one."""

# As gRPC's per-RPC retry buffer (gRFC A6) and Envoy's per-connection buffer: what is longer is not repeated.
REPLAY_LIMIT = 1024 * 1024


class Outgoing:
    """Messages by their number in the stream. ended: there are no more. Not thread-safe by itself."""

    __slots__ = ("_first", "_messages", "_size", "ended", "keeping", "total_bytes")

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._first = 0
        self._size = 0
        self.keeping = True
        self.ended = False
        self.total_bytes = 0

    @property
    def end(self) -> int:
        """The number that the next message will have."""
        return self._first + len(self._messages)

    def add(self, message: bytes) -> None:
        """Once more is kept than ``REPLAY_LIMIT`` bytes, ``keeping`` is False."""
        self._messages.append(message)
        self._size += len(message)
        self.total_bytes += len(message)
        if self._size > REPLAY_LIMIT:
            self.keeping = False

    def get(self, number: int) -> bytes:
        return self._messages[number - self._first]

    def sent(self, number: int) -> None:
        """All before ``number`` are on their way; forgotten if no other attempt will want them."""
        if not self.keeping and number > self._first:
            gone = self._messages[: number - self._first]
            self._size -= sum(map(len, gone))
            del self._messages[: len(gone)]
            self._first = number

"""What arrives of a request: its messages, kept until its handler reads them, and the window that they take."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from proxyless.transport.grpc_wire.messages import BadMessage, Messages, Packed
from proxyless.transport.grpc_wire.stream import Stream

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.connection import MeshConnection
    from proxyless.transport.grpc_server.rpc import Rpc

# The connection is told of what waits in steps of so many bytes: small messages are many.
_STEP = 16 * 1024


class Incoming(Stream):
    """What becomes of a message, and of the RPC, ``Call`` says.

    finished: the status is on its way. left: before that the caller went, or its deadline came. task: of the handler.
    """

    __slots__ = (
        *("_ended", "_held", "_let_in", "_messages", "_owed", "_queue", "_readers", "_told"),
        *("connection", "finished", "left", "rpc", "task"),
    )

    def __init__(self, connection: MeshConnection) -> None:
        super().__init__()
        self.connection = connection
        self.finished = self.left = self._ended = False
        self.rpc: Rpc | None = None
        self.task: asyncio.Task[None] | None = None
        self._queue: deque[bytes] = deque()
        # Bytes of what arrived: that wait to be read; of them, those the connection knows of; to be given back; of the
        # next message, that never waited.
        self._held = self._told = self._owed = self._let_in = 0
        self._readers: list[asyncio.Future[None]] = []

    def check(self) -> None:
        """Raise if the RPC has ended."""

    def _take(self, message: bytes) -> None:
        """The one message of a request that is not a stream."""

    def _input_over(self) -> None:
        """There is no more."""

    def _stop_for(self, error: BadMessage) -> None:
        """End it, from outside of its handler."""

    def _expect(self, most: int | None, encoding: str) -> None:
        self._messages = Messages(most, later=True)
        self._messages.encoding = encoding

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        connection = self.connection
        if self.finished or self.left or self.rpc is None:
            if not end:
                connection.wire.consumed(self, credit)
            return
        queue = self._queue
        if not queue:
            self._let_in = self._messages.partial
        try:
            found = self._messages.feed(data)
            if found and self.task is None:
                # The one message of a request that is not a stream; grpcio reads no second one either.
                message = found[0]
                self._take(message if message.__class__ is not Packed else self._messages.unpacked(message))
                found = []
        except BadMessage as error:
            self._stop_for(error)
            return
        if found:
            queue += found
            self._wake()
        if queue:
            self._held += credit
            if self._held - self._told >= _STEP:
                self._tell()
        else:
            self._owed += credit  # a part of a message that is next: the rest must be let in
        if end:
            self._input_over()
        elif self._owed >= connection.wire.piece:
            self.give_back()

    async def read(self) -> bytes | None:
        """The next message, None after the last."""
        queue = self._queue
        while not queue:
            if self._ended:
                return None
            if self.left or self.finished:
                self.check()
            self._owed += self._held
            self._held = 0
            if self._told:
                self._tell()
            if self._owed >= self.connection.wire.piece or self._messages.partial:
                self.give_back()
                self.connection.flush_soon()
            reader = self.connection.loop.create_future()
            self._readers.append(reader)
            try:
                await reader
            finally:
                self._readers.remove(reader)
        message = queue.popleft()
        assert self.rpc is not None
        share = min(self._held, len(message) + 5 - self._let_in)
        self._let_in = 0
        self._held -= share
        self._owed += share
        if self._told - self._held >= _STEP:
            self._tell()
        if self._owed >= self.connection.wire.piece:
            self.give_back()
            self.connection.flush_soon()
        if message.__class__ is Packed:
            try:
                message = self._messages.unpacked(message)
            except BadMessage as error:
                self._stop_for(error)
                await asyncio.sleep(0)  # who asks is mostly the handler, which is cancelled
                self.check()
        self.rpc.received += len(message)
        return message

    def _tell(self) -> None:
        change, self._told = self._held - self._told, self._held
        if self.connection.wire.unread(change):
            self.connection.flush_soon()

    def give_back(self) -> None:
        credit, self._owed = self._owed, 0
        self.connection.wire.consumed(self, credit)

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    def _forget(self) -> None:
        """What nobody will read."""
        if self._held:
            self._queue.clear()
            self._held = 0
        if self._told:
            self._tell()

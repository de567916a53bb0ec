"""One attempt: a stream of a connection, up to what the engine wants to hear, and the rest of it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed, FailureKind, Outcome
from proxyless.transport.grpc_client.metadata import Metadata, lines
from proxyless.transport.grpc_client.rpc import Rpc
from proxyless.transport.grpc_client.status import CANCELLED, CODES, Status
from proxyless.transport.grpc_client.subchannels import Subchannel, Subchannels
from proxyless.transport.grpc_client.wire import answer
from proxyless.transport.grpc_client.wire.channel import WireChannel
from proxyless.transport.grpc_client.wire.connection import WireConnection
from proxyless.transport.grpc_client.wire.head import InvalidMetadata, custom, opening, timeout
from proxyless.transport.grpc_client.wire.options import WireOptions, encoding_of
from proxyless.transport.grpc_wire.connection import STREAM_WINDOW
from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.header_blocks import Lines
from proxyless.transport.grpc_wire.messages import BadMessage, Messages, Packed, frame
from proxyless.transport.grpc_wire.stream import Stream

_EXPIRED = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
# What the end of a stream says about the way there rather than about the call.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
# Seconds by which a timer, or a server's clock, may be early.
_EARLY = 0.01
# Credit is given back in pieces of this many bytes: each is a frame to send, and one to receive.
_PIECE = STREAM_WINDOW // 4

_Waiters = list[asyncio.Future[None]]


class WireAttempt(Stream):
    """``start``, then ``first``; after that, if it answered, ``read`` until EOF and ``end``.

    whole: there is one request and one response, so that its end tells all there is to know. call: itself, which
    writes. initial: the response's metadata. status: set if it ended with neither metadata nor a message.
    What arrives is not looked at before somebody reads, and of what is compressed no more than the next message is
    unpacked, so a window is about all that a stream holds; a whole call's one response is taken as it comes.
    """

    __slots__ = (
        "_again", "_block", "_callbacks", "_connection", "_enders", "_failed", "_final", "_finished", "_found", "_head",
        "_kept", "_loop", "_messages", "_options", "_owed", "_pool", "_raw", "_readers", "_record", "_request", "_rpc",
        "_step", "_subchannel", "_timer", "_whole", "_writers", "_written", "encoding", "initial", "status",
    )  # fmt: skip

    def __init__(
        self,
        pool: Subchannels[WireChannel],
        step: Attempt,
        rpc: Rpc,
        record: AttemptRecord,
        options: WireOptions,
        *,
        whole: bool,
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._step = rpc.attempt(step)
        self._rpc = rpc
        self._record = record
        self._options = options
        self._whole = whole
        self.encoding = encoding_of(rpc.asked, options)
        self._subchannel: Subchannel[WireChannel] | None = None
        self._connection: WireConnection | None = None
        self._request: bytes | None = None
        self._block = b""
        self._timer: asyncio.TimerHandle | None = None
        self._head: answer.Head | None = None
        self._messages = Messages(options.most_received, later=True)
        self._raw: deque[tuple[bytes, int]] = deque()  # data, and what it took of the window
        self._found: deque[bytes] = deque()
        self._finished: Status | None = None  # the server's, while what came before it is unread
        self._owed = 0
        self._final: Status | None = None
        self._failed: Failed | None = None
        self._again = self._written = self._kept = False
        self._readers: _Waiters = []
        self._writers: _Waiters = []
        self._enders: _Waiters = []
        self._callbacks: list[Callable[[Any], None]] = []
        self.initial: Metadata = ()
        self.status: Status | None = None

    @property
    def call(self) -> "WireAttempt":
        return self

    async def start(self, request: bytes | None) -> Failed | None:
        """request: the one message, None for a stream of them."""
        self.start_known(request)
        return None

    def start_known(self, request: bytes | None) -> bool:
        step, rpc = self._step, self._rpc
        self._request = request
        if request is not None and not self._may_send(request):
            return True
        scheme = "http" if step.endpoint.tls is None else "https"
        try:
            common = opening(step.path, step.authority, scheme, self.encoding, self._options.user_agent)
            self._block = common + custom(step.headers)
        except InvalidMetadata as error:
            self._settle(Status(grpc.StatusCode.INTERNAL, str(error)))
            return True
        limit = step.timeout if step.timeout is not None else rpc.remaining()
        if limit is not None:
            self._timer = self._loop.call_later(limit, self._late)
        self._subchannel = subchannel = self._pool.take(step.endpoint, step.cluster, step.authority)
        subchannel.channel.submit(self)
        return True

    async def first(self, wants_head: asyncio.Event) -> Outcome:
        """What came: headers or a message (then the call is committed to this attempt), or a status without them."""
        started = time.monotonic()
        if self._whole:
            while self._final is None:
                await self._wait(self._enders)
        elif not self._has_news(wants_head):
            asked = asyncio.ensure_future(wants_head.wait())
            asked.add_done_callback(lambda _: _release(self._readers))
            try:
                while not self._has_news(wants_head):
                    await self._wait(self._readers)
            finally:
                asked.cancel()
        self._record.wait = time.monotonic() - started
        final = self._final
        if final is None or self.initial or self._found or self._kept:
            self._note_peer()
            return Answered(200, [] if self._head is None else list(self._head.lines))
        self.status = final
        if self._failed is not None:
            return self._failed
        self._note_peer()
        self._record.grpc_status = final.number
        found = [*lines(final.trailing), ("grpc-status", final.number)]
        if final.code is grpc.StatusCode.DEADLINE_EXCEEDED and self._out_of_time(_EARLY):
            return self._failure(FailureKind.TIMEOUT, final.details)
        return Answered(200, found)

    async def read(self) -> Any:
        """The next message, or ``grpc.aio.EOF``, also where the call ended otherwise."""
        while not self._found:
            if self._raw:
                self._look()
            elif self._final is not None:
                return grpc.aio.EOF
            else:
                await self._wait(self._readers)
        message = self._found.popleft()
        if message.__class__ is Packed:
            try:
                message = self._messages.unpacked(message)
            except BadMessage as error:
                self._found.clear()
                self._bad(error)
                return grpc.aio.EOF
        if self._finished is not None:
            self._finish(self._finished)
        return message

    async def final(self) -> Status:
        """Once all messages of a success have been read."""
        while self._final is None:
            await self._wait(self._enders)
        return self._final

    def end(self) -> None:
        """Cancels what is still under way. May be called again."""
        self._settle(CANCELLED)
        if self._subchannel is not None:
            self._pool.done(self._subchannel)
            self._subchannel = None

    # ---- as a call of grpcio's

    async def write(self, message: bytes) -> None:
        """Returns when the peer's windows and the transport have taken it. Raises InvalidStateError after the end."""
        connection = await self._opened()
        if not self._may_send(message):
            raise asyncio.InvalidStateError
        self._written = True
        connection.data(self, self._framed(message))
        connection.spoken()
        connection.flush_soon()
        while (self.waiting or connection.paused) and self._final is None:
            if connection.paused:
                connection.writers[self.on_room] = None
            await self._wait(self._writers)

    async def done_writing(self) -> None:
        connection = await self._opened()
        connection.data(self, b"", end=True)
        connection.flush_soon()

    async def wait_for_connection(self) -> None:
        """Raises grpc.RpcError if it ended before."""
        try:
            await self._opened()
        except asyncio.InvalidStateError:
            if self._connection is None:
                raise grpc.RpcError from None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._final is not None:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    async def _opened(self) -> WireConnection:
        while self._connection is None and self._final is None:
            await self._wait(self._writers)
        if self._connection is None or self._final is not None:
            raise asyncio.InvalidStateError
        return self._connection

    # ---- told by the channel

    def on_connection(self, connection: WireConnection) -> None:
        self._connection = connection
        remaining = self._rpc.remaining()
        connection.open(self, self._block if remaining is None else self._block + timeout(remaining))
        if self._request is not None:
            connection.data(self, self._framed(self._request), end=True)
        connection.spoken()
        if len(connection.streams) == 1:  # nobody to share a write with
            connection.flush()
        else:
            connection.flush_soon()
        _release(self._writers)

    def on_no_connection(self, why: str) -> None:
        failed = Failed(FailureKind.CONNECT, why, body_consumed=not self._rpc.request.replayable)
        self._settle(Status(grpc.StatusCode.UNAVAILABLE, why), failed)

    # ---- told by the connection

    def on_head(self, lines: Lines, end: bool) -> None:
        if end:
            self._finish(answer.status_of(lines))
            return
        self._head = head = answer.head(lines)
        if head.problem is not None:
            self._settle(head.problem)
            return
        self.initial = head.initial
        self._messages.encoding = head.encoding
        if not self._whole:
            _release(self._readers)

    def on_data(self, data: bytes, credit: int, end: bool) -> None:
        self._raw.append((data, credit))
        if self._whole:
            self._look()
            if len(self._found) > 1:
                self._settle(Status(grpc.StatusCode.INTERNAL, "more than one response to a call that has one"))
        else:
            _release(self._readers)
        if end:
            self._finish(answer.NO_STATUS)

    def on_room(self) -> None:
        _release(self._writers)

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        connection, again = self._connection, self._subchannel
        assert connection is not None
        if unprocessed and not (self._again or self._written or self._head) and again is not None:
            # Once, as every gRPC client does by itself (gRFC A6, "Transparent Retries").
            self._again, self._connection, self._owed = True, None, 0
            super().__init__()
            again.channel.submit(self)
        elif unprocessed:
            self._fail(Status(grpc.StatusCode.UNAVAILABLE, why), FailureKind.REFUSED_STREAM)
        elif connection.over:
            self._fail(Status(grpc.StatusCode.UNAVAILABLE, why), FailureKind.RESET)
        elif code == Code.CANCEL and self._out_of_time(_EARLY):
            self._fail(_EXPIRED, FailureKind.TIMEOUT)
        else:
            status = answer.of_reset(code, why)
            if status.code in _BROKEN:
                self._fail(status, FailureKind.RESET)
            else:  # the server's answer
                self._settle(status)

    # ---- within

    def _has_news(self, wants_head: asyncio.Event) -> bool:
        if self._raw and not self._found:
            self._look()
        known = self._final is not None or self._found or self.initial or self._kept
        return bool(known) or (self._head is not None and wants_head.is_set())

    def _look(self) -> None:
        """At what has arrived, as far as the next message; at all of it where only one may come."""
        raw = self._raw
        while raw and (self._whole or not self._found):
            data, credit = raw.popleft()
            try:
                found = self._messages.feed(data)
                if found and found[0].__class__ is Packed and not self._found:
                    found[0] = self._messages.unpacked(found[0])  # whether it is one decides about the attempt
                self._found += found
            except BadMessage as error:
                self._found += error.before
                self._bad(error)
                return
            self._owed += credit
            if self._owed >= _PIECE and self._connection is not None:
                self._connection.consumed(self, self._owed)
                self._connection.flush_soon()
                self._owed = 0
        if self._finished is not None:
            self._finish(self._finished)

    def _bad(self, error: BadMessage) -> None:
        self._raw.clear()
        code = CODES[error.status]
        whose = "CLIENT: " if code is grpc.StatusCode.RESOURCE_EXHAUSTED else ""
        self._settle(Status(code, f"{whose}{error}"))

    def _finish(self, status: Status) -> None:
        """The server's last word, which is a success only once all before it has been read."""
        if status.ok and not self._whole and (self._raw or self._found):
            if self._finished is None:
                self._finished = status
                self._stop_sending()
        elif status.ok and self._messages.partial:
            self._settle(Status(grpc.StatusCode.INTERNAL, "the last message is cut off"))
        else:
            self._settle(status)

    def _late(self) -> None:
        self._timer = None
        if self._out_of_time(0.001):
            self._fail(_EXPIRED, FailureKind.TIMEOUT)
        elif self._head is None:
            self._fail(Status(_EXPIRED.code, "no response in time"), FailureKind.TIMEOUT)
        else:
            # The response's head is all that the limit of an attempt asks for.
            self._kept = True
            _release(self._readers)
            if (remaining := self._rpc.remaining()) is not None:
                self._timer = self._loop.call_later(remaining, self._late)

    def _fail(self, status: Status, kind: FailureKind) -> None:
        self._settle(status, self._failure(kind, status.details))

    def _failure(self, kind: FailureKind, details: str) -> Failed:
        return Failed(kind, details, request_sent=True, body_consumed=not self._rpc.request.replayable)

    def _settle(self, status: Status, failed: Failed | None = None) -> None:
        if self._final is not None:
            return
        self._final, self._failed = status, failed
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is None:
            if self._subchannel is not None:
                self._subchannel.channel.withdraw(self)
        else:
            self._stop_sending()
            if self._connection.writers:
                self._connection.writers.pop(self.on_room, None)
        _release(self._readers)
        _release(self._writers)
        _release(self._enders)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _stop_sending(self) -> None:
        connection = self._connection
        if connection is not None and not self.gone and not (self.received and self.sent):
            connection.reset(self, Code.NO_ERROR if self.received else Code.CANCEL)
            connection.flush_soon()

    def _may_send(self, message: bytes) -> bool:
        most = self._options.most_sent
        if most is None or len(message) <= most:
            return True
        why = f"CLIENT: Sent message larger than max ({len(message)} vs. {most})"
        self._settle(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, why))
        return False

    def _framed(self, message: bytes) -> bytes:
        if self.encoding != "identity":
            packed = frame(message, self.encoding)
            if len(packed) < len(message):
                return packed
        return frame(message)

    def _out_of_time(self, early: float) -> bool:
        remaining = self._rpc.remaining()
        return remaining is not None and remaining <= early

    def _note_peer(self) -> None:
        if self._connection is not None:
            self._record.peer = self._connection.peer or None

    async def _wait(self, waiters: _Waiters) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters.append(waiter)
        await waiter


def _release(waiters: _Waiters) -> None:
    if waiters:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

"""One RPC on our server: a stream of a connection, judged when its head has come, then read, written and ended.

Statuses and details are those of grpcio's server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.engine.request import Request
from proxyless.telemetry.grpc_metrics import OTHER
from proxyless.telemetry.grpc_status import status_name
from proxyless.transport.grpc_server import running
from proxyless.transport.grpc_server.incoming import Incoming
from proxyless.transport.grpc_server.metadata import encoded, message_line
from proxyless.transport.grpc_server.request_head import Head
from proxyless.transport.grpc_server.rpc import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    NOT_FOUND,
    OK,
    RESOURCE_EXHAUSTED,
    TOO_MANY,
    UNIMPLEMENTED,
    UNKNOWN,
    Rpc,
    number,
)
from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.header_blocks import Line, Lines, encode
from proxyless.transport.grpc_wire.messages import BadMessage, frame

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.connection import MeshConnection
    from proxyless.transport.grpc_server.methods import Method

log = logging.getLogger("proxyless.inbound")

_FINISHED = "RPC already finished."
_STATUS: Line = (b":status", b"200")
_TYPE: Line = (b"content-type", b"application/grpc")
_ACCEPTS: Line = (b"grpc-accept-encoding", b"identity, deflate, gzip")
_HEAD = encode([_STATUS, _TYPE, _ACCEPTS])
_WELL = encode([(b"grpc-status", b"0")])


class Call(Incoming):
    """code, details, trailing: what the servicer has set so far. aborted: the error by which it ended its RPC.

    flat: the next message is not compressed. running: the handler has begun.
    """

    __slots__ = (
        *("_accepts", "_begun", "_deadline", "_room", "aborted", "callbacks", "code", "counted", "deadline", "details"),
        *("encoding", "flat", "head_sent", "method", "path", "request", "running", "status", "trailing"),
    )

    def __init__(self, connection: MeshConnection) -> None:
        super().__init__(connection)
        self._begun = self.flat = self.head_sent = self.running = self.counted = False
        self._room: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.deadline: float | None = None
        self.method: Method | None = None
        self.request: bytes | None = None
        self.code: Any = None
        self.details = ""
        self.trailing: tuple[Any, ...] = ()
        self.status = OK
        self.aborted: BaseException | None = None
        self.callbacks: list[Callable[[], object]] = []

    # ---- what arrives

    def on_head(self, lines: Lines, end: bool) -> None:
        if not self._begun:
            self._begun = True
            self._begin(lines, end)
        elif not end:
            self._reset("a head in the middle of a request")
        else:  # trailers of a client say nothing in gRPC
            self._input_over()

    def _begin(self, lines: Lines, end: bool) -> None:
        connection = self.connection
        core = connection.core
        facts = connection.facts
        head = Head(lines, facts)
        if head.malformed:
            self._reset(head.malformed)
            return
        if head.http or head.problem or head.unsupported:
            self._refuse_unread(head)
            return
        if head.waits is not None:
            self.deadline = connection.loop.time() + head.waits
            self._deadline = connection.loop.call_at(self.deadline, self._expire)
        self.path = path = head.path
        self._accepts = head.accepts
        self.encoding = core.options.encoding
        self._expect(core.options.most_received, head.encoding)
        methods = core.methods
        self.method = method = methods.find(path)
        self.rpc = rpc = Rpc(
            core.runtime,
            facts,
            core.runtime.snapshot().inbound.get(connection.port),
            Request("POST", facts.local, path, head.authority, "https" if facts.caller.tls else "http", head.judged),
            read=head.read,
            shown=head.shown,
            label=OTHER if method is None else path[1:],
            known=method is not None,
        )
        core.calls.add(self)
        if (refusal := rpc.refusal) is not None:
            self.finish(refusal.code, refusal.details, refusal.metadata)
            self.settle()
        elif methods.by_name:
            if method is None:
                self._stop(UNIMPLEMENTED, NOT_FOUND)
            elif not core.admit(self):
                self._stop(RESOURCE_EXHAUSTED, TOO_MANY)
            elif method.incoming:
                self._run(running.streamed(self, method) if method.asynchronous else running.in_threads(self, method))
        else:
            self._run(running.chosen(self))
        if end:
            self._input_over()

    def _take(self, message: bytes) -> None:
        method = self.method
        assert method is not None and self.rpc is not None
        self.request = message
        self.rpc.received += len(message)
        if not method.asynchronous:
            self._run(running.in_threads(self, method))
        elif method.outgoing:
            self._run(running.streamed(self, method))
        else:
            self._run(running.unary(self, method))

    def _input_over(self) -> None:
        self._ended = True
        if self.finished or self.left or self.rpc is None:
            return
        if self._messages.partial:
            self._stop(INTERNAL, "a message is cut off by the end of the stream")
        elif self.task is None:
            self._stop(UNIMPLEMENTED, f'"{self.path}" requires exactly one request message.')
        else:
            self._wake()

    def on_room(self) -> None:
        if self.sent and not self.received:
            self.connection.wire.reset(self, Code.NO_ERROR)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def on_end(self, code: int, why: str, *, unprocessed: bool) -> None:
        self._leave()

    def _expire(self) -> None:
        if not self.finished and not self.left:
            self._send_status(DEADLINE_EXCEEDED, "Deadline Exceeded", ())
            self._leave()
            self.connection.flush_soon()

    def _stop(self, status: int, details: str) -> None:
        """End it, from outside of its handler."""
        self.finish(status, details)
        if self.running and self.task is not None:
            self.task.cancel()
        else:
            self._never_ran()
        self.connection.flush_soon()

    def _stop_for(self, error: BadMessage) -> None:
        # Too large: grpcio says at which end.
        self._stop(error.status, f"SERVER: {error}" if error.status == RESOURCE_EXHAUSTED else str(error))

    def cancel(self, status: int = CANCELLED, details: str = "Cancelled") -> None:
        """By the servicer, or as the server ends."""
        if not self.finished and not self.left:
            self._stop(status, details)

    def _leave(self) -> None:
        """Nobody waits for it any more."""
        if self.left:
            return
        self.left = not self.finished
        if self._deadline is not None:
            self._deadline.cancel()
        for waiter in (*self._readers, self._room):
            if waiter is not None and not waiter.done():
                waiter.cancel()
        if self.rpc is None or not self.left:
            return
        if self.running and self.task is not None:
            self.task.cancel()
        else:
            self._never_ran()

    def _never_ran(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.settle()

    def _reset(self, why: str) -> None:
        log.debug("port %d: a request is refused: %s", self.connection.port, why)
        self.connection.wire.reset(self, Code.PROTOCOL_ERROR)
        self._leave()

    def _refuse_unread(self, head: Head) -> None:
        """Before policy or telemetry have seen it: it is no gRPC, or could be read in two ways."""
        if head.http:
            lines: list[Line] = [(b":status", b"%d" % head.http), (b"grpc-status", b"2")]
        elif head.problem:
            lines = [_STATUS, _TYPE, (b"grpc-status", b"13"), message_line(head.problem)]
        else:
            lines = [
                _STATUS,
                _TYPE,
                _ACCEPTS,
                (b"grpc-status", b"12"),
                message_line("the compression is not supported"),
            ]
        self.finished = True
        self._close(encode(lines))

    # ---- the handler

    def _run(self, work: Any) -> None:
        self.task = self.connection.loop.create_task(work)

    async def one(self) -> None:
        """Wait for the one message of a request that is not a stream, as ``request``."""
        self.request = await self.read()
        if self.request is None:
            self.finish(UNIMPLEMENTED, f'"{self.path}" requires exactly one request message.')

    def check(self) -> None:
        """Raise if the RPC has ended: its handler may have caught what told it so."""
        if self.aborted is not None:
            raise self.aborted
        if self.finished or self.left:
            raise grpc.aio.UsageError(_FINISHED)

    # ---- the answer

    def send_head(self, metadata: Any = ()) -> None:
        self.check()
        if self.head_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._send_head(encoded(metadata))
        self.connection.flush_soon()

    def _send_head(self, metadata: list[Line]) -> None:
        self.head_sent = True
        encoding = self.encoding
        if encoding != "identity" and encoding.encode() not in self._accepts.replace(b" ", b"").split(b","):
            encoding = self.encoding = "identity"
        if encoding == "identity" and not metadata:
            self.connection.wire.head(self, _HEAD)
            return
        lines = [_STATUS, _TYPE, _ACCEPTS, *metadata]
        if encoding != "identity":
            lines.insert(2, (b"grpc-encoding", encoding.encode()))
        self.connection.wire.head(self, encode(lines))

    def send(self, data: bytes) -> bool:
        """One message; False if it is too large, which ends the RPC."""
        most = self.connection.core.options.most_sent
        if most is not None and len(data) > most:
            self.finish(RESOURCE_EXHAUSTED, f"SERVER: Sent message larger than max ({len(data)} vs. {most})")
            return False
        if not self.head_sent:
            self._send_head([])
        assert self.rpc is not None
        self.rpc.sent += len(data)
        framed = frame(data)
        if self.encoding != "identity" and not self.flat:
            packed = frame(data, self.encoding)
            framed = packed if len(packed) < len(framed) else framed
        self.flat = False
        self.connection.wire.data(self, framed)
        return True

    async def write(self, data: bytes) -> None:
        self.check()
        if not self.send(data):
            self.check()
        await self.room()

    async def room(self) -> None:
        """Wait until what was written has left, as far as that bounds what we keep."""
        connection = self.connection
        if connection.crowded:
            connection.flush()
            await asyncio.sleep(0)
        else:
            connection.flush_soon()
        while (self.waiting or connection.paused) and not self.gone:
            self._room = connection.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    def answer(self, data: bytes) -> None:
        """The response of an RPC that has one."""
        self.check()
        status = OK if self.code is None else number(self.code)
        # gRPC discards the response where the status is not OK.
        if status or self.send(data):
            self.finish(status, self.details, self.trailing)

    def finish(self, status: int, details: str = "", trailing: Any = ()) -> None:
        """The status. A second one means nothing."""
        if self.finished or self.left:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._send_status(status, details, trailing)
        self.finished = True

    def _send_status(self, status: int, details: str, trailing: Any) -> None:
        lines: list[Line] = []
        load = () if self.rpc is None else self.rpc.load()
        if status or details or trailing or load:
            lines = [(b"grpc-status", b"%d" % status)]
            if details:
                lines.append(message_line(details))
            lines += encoded(trailing) + encoded(load)
        self.status = status
        if status and not self.head_sent:
            self._close(encode([_STATUS, _TYPE, *lines]))
            return
        if not self.head_sent:
            self._send_head([])
        self._close(encode(lines) if lines else _WELL)

    def _close(self, block: bytes) -> None:
        wire = self.connection.wire
        wire.head(self, block, end=True)
        if self.sent and not self.received:
            wire.reset(self, Code.NO_ERROR)  # nobody reads the rest of the request

    def failed(self, error: BaseException) -> None:
        """The handler raised it."""
        if error is self.aborted:
            return
        if isinstance(error, asyncio.CancelledError):
            self.finish(CANCELLED, "the servicer was cancelled")
            return
        if not isinstance(error, Exception):
            self.finish(UNKNOWN, "the servicer ends")
            raise error
        log.error("%s raised by the servicer of %s", type(error).__name__, self.path, exc_info=error)
        status = UNKNOWN if self.code is None else number(self.code) or UNKNOWN
        try:
            self.finish(status, f"Unexpected {type(error)}: {error}", self.trailing)
        except ValueError:
            self.finish(status, f"Unexpected {type(error)}: {error}")  # its metadata are what is wrong

    def settle(self, error: str = "") -> None:
        """All is over: tell who counts. error: the servicer's exception, by name."""
        self._forget()
        core = self.connection.core
        core.calls.discard(self)
        if self.counted:
            self.counted = False
            core.active -= 1
        if self.rpc is not None:
            self.rpc.end(self.status, gone=self.left, error=error)
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of %s failed (%s)", self.path, status_name(str(self.status)))
        self.connection.settled()

"""One attempt: grpcio's call of bytes on an endpoint's subchannel, up to what the engine wants to hear."""

import asyncio
import time
from typing import Any

import grpc

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed, FailureKind, Outcome
from proxyless.model.errors import NotReadyError
from proxyless.transport.grpc_client.metadata import Metadata, lines
from proxyless.transport.grpc_client.peer_name import Peer, PeerUnknown
from proxyless.transport.grpc_client.rpc import Rpc
from proxyless.transport.grpc_client.status import Status, outcome
from proxyless.transport.grpc_client.subchannels import Subchannel, Subchannels

# An application that waits for initial metadata gets them, even if empty, unless a status follows within this: then
# the response was Trailers-Only, and another attempt may be made.
_TRAILERS_ONLY_GRACE = 0.25


class AioAttempt:
    """``start``, then ``first``; after that, if it answered, ``read`` until EOF and ``end``.

    call: grpcio's. initial: its initial metadata. status: set once it has ended.
    """

    def __init__(self, pool: Subchannels[grpc.aio.Channel], step: Attempt, rpc: Rpc, record: AttemptRecord) -> None:
        self._pool = pool
        self._step = rpc.attempt(step)
        self._rpc = rpc
        self._record = record
        self._reading: asyncio.Task[Any] | None = None
        self._subchannel: Subchannel[grpc.aio.Channel] | None = None
        self.call: Any = None
        self.initial: Metadata = ()
        self.status: Status | None = None
        self._peer = ""

    async def start(self, request: bytes | None) -> Failed | None:
        """request: the one message, None for a stream of them."""
        step, pool = self._step, self._pool
        try:
            if not self.start_known(request):
                timeout = step.cluster.connect_timeout
                timeout = timeout if step.timeout is None else max(0.001, min(timeout, step.timeout))
                self._start(request, await asyncio.to_thread(pool.learn, step.endpoint, timeout))
        except (PeerUnknown, NotReadyError) as error:
            return Failed(FailureKind.CONNECT, str(error))
        return None

    def start_known(self, request: bytes | None) -> bool:
        """Without waiting; False where the endpoint must be asked who it is. Raises PeerUnknown, NotReadyError."""
        peer = self._pool.peer(self._step.endpoint)
        if peer is None and self._step.endpoint.tls is not None:
            return False
        self._start(request, peer)
        return True

    def _start(self, request: bytes | None, peer: Peer | None) -> None:
        step = self._step
        self._subchannel = self._pool.take(step.endpoint, step.cluster, step.authority, peer)
        self._peer = peer.identity if peer is not None else ""
        self.call = self._begin(self._subchannel, request)

    def _begin(self, subchannel: Subchannel[grpc.aio.Channel], request: bytes | None) -> Any:
        channel: Any = subchannel.channel
        path, arguments = self._step.path, self._rpc.arguments(self._step)
        if request is not None:
            return channel.unary_stream(path)(request, **arguments)
        return channel.stream_stream(path)(**arguments)

    async def first(self, wants_head: asyncio.Event) -> Outcome:
        """What came: headers or a message (then the call is committed to this attempt), or a status without them."""
        step, call = self._step, self.call
        started = time.monotonic()
        limit = None if step.timeout is None else started + step.timeout
        # Before anything else: grpcio drops messages that nobody waits for once there is a status other than OK.
        self._reading = reading = asyncio.ensure_future(call.read())
        reading.add_done_callback(_heard)
        try:
            async with asyncio.timeout_at(None if limit is None else _loop_time(limit)):
                self.initial = tuple(await call.initial_metadata())
        except TimeoutError:
            self.call.cancel()
            return self._timed_out()
        self._record.wait = time.monotonic() - started
        if self.initial:
            return self._answered()
        asked = asyncio.ensure_future(wants_head.wait())
        try:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            done, _ = await asyncio.wait({reading, asked}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if reading not in done and done:
                await asyncio.wait({reading}, timeout=_TRAILERS_ONLY_GRACE)
        finally:
            asked.cancel()
        if not reading.done():
            # Headers are here, so the server answers; that is all a limit for the response head asks.
            return self._answered()
        if reading.exception() is None and reading.result() is not grpc.aio.EOF:
            return self._answered()
        return await self._without_answer(limit)

    async def read(self) -> Any:
        """The next message, or ``grpc.aio.EOF``, also where the call ended otherwise."""
        reading, self._reading = self._reading, None
        try:
            return await (self.call.read() if reading is None else reading)
        except grpc.RpcError:
            return grpc.aio.EOF

    async def final(self) -> Status:
        call = self.call
        trailing = tuple((key, value) for key, value in await call.trailing_metadata())
        return Status(await call.code(), await call.details() or "", trailing)

    def end(self) -> None:
        """Cancels what is still under way. May be called again."""
        if self.call is not None and not self.call.done():
            self.call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self._subchannel is not None:
            self._pool.done(self._subchannel)
            self._subchannel = None

    async def _without_answer(self, limit: float | None) -> Outcome:
        """Of a call that ended with neither headers nor a message. limit: of this attempt, by time.monotonic()."""
        step, rpc = self._step, self._rpc
        self.status = await self.final()
        self._record.grpc_status = self.status.number
        consumed = not rpc.request.replayable
        if self.status.ok:
            return Answered(200, [*lines(self.initial), ("grpc-status", "0")])
        found = outcome(self.status, rpc.deadline if limit is None else limit, consumed=consumed)
        if isinstance(found, Failed) and found.kind is FailureKind.CONNECT:
            self._pool.forget(step.endpoint)
        elif isinstance(found, Answered):
            self._record.peer = self._peer or None
        return found

    def _answered(self) -> Answered:
        self._record.peer = self._peer or None
        return Answered(200, lines(self.initial))

    def _timed_out(self) -> Failed:
        consumed = not self._rpc.request.replayable
        return Failed(FailureKind.TIMEOUT, "no response in time", request_sent=True, body_consumed=consumed)


def _loop_time(moment: float) -> float:
    return asyncio.get_running_loop().time() + moment - time.monotonic()


def _heard(task: "asyncio.Task[Any]") -> None:
    """Its failure is the call's, which is told by the status."""
    if not task.cancelled():
        task.exception()

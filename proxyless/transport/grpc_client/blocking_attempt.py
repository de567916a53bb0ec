"""One attempt in threads: grpcio's call of bytes on an endpoint's subchannel."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed, FailureKind, Outcome
from proxyless.model.errors import NotReadyError
from proxyless.transport.grpc_client.metadata import Metadata, lines
from proxyless.transport.grpc_client.peer_name import PeerUnknown
from proxyless.transport.grpc_client.rpc import Rpc
from proxyless.transport.grpc_client.status import Status, outcome
from proxyless.transport.grpc_client.subchannels import Subchannel, Subchannels

_NOTHING = object()


class BlockingAttempt:
    """``start``, then ``first``; after that, if it answered, ``read`` until None and ``end``.

    call: grpcio's. initial: its initial metadata. status: set once it has ended. over: nobody wants it any more.
    """

    def __init__(self, pool: Subchannels[grpc.Channel], step: Attempt, rpc: Rpc, record: AttemptRecord) -> None:
        self._pool = pool
        self._step = rpc.attempt(step)
        self._rpc = rpc
        self._record = record
        self._subchannel: Subchannel[grpc.Channel] | None = None
        self._lock = threading.Lock()
        self._message: Any = _NOTHING
        self._peer = ""
        self.call: Any = None
        self.initial: Metadata = ()
        self.status: Status | None = None
        self.over = False

    def start(self, requests: bytes | Iterator[bytes]) -> Failed | None:
        step, pool = self._step, self._pool
        try:
            peer = pool.peer(step.endpoint)
            if peer is None and step.endpoint.tls is not None:
                timeout = step.cluster.connect_timeout
                timeout = timeout if step.timeout is None else max(0.001, min(timeout, step.timeout))
                peer = pool.learn(step.endpoint, timeout)
            subchannel = pool.take(step.endpoint, step.cluster, step.authority, peer)
        except (PeerUnknown, NotReadyError) as error:
            return Failed(FailureKind.CONNECT, str(error))
        self._subchannel = subchannel
        self._peer = peer.identity if peer is not None else ""
        channel: Any = subchannel.channel
        arguments = self._rpc.arguments(step)
        if isinstance(requests, bytes):
            self.call = channel.unary_stream(step.path)(requests, **arguments)
        else:
            self.call = channel.stream_stream(step.path)(requests, **arguments)
        if self.over:  # cancelled meanwhile
            self.call.cancel()
        return None

    def first(self) -> Outcome:
        """What came: headers or a message (then the call is committed to this attempt), or a status without them."""
        step, rpc, call = self._step, self._rpc, self.call
        started = time.monotonic()
        limit = None if step.timeout is None else started + step.timeout
        timer, expired = self._timer(limit)
        try:
            # Not the headers first: grpcio drops messages that nobody waits for once there is a status other than OK.
            self._message = next(call)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            if error is not call:
                raise
        finally:
            if timer is not None:
                timer.cancel()
        self._record.wait = time.monotonic() - started
        self.initial = tuple((key, value) for key, value in call.initial_metadata() or ())
        if self.initial or self._message is not _NOTHING:
            return self._answered()
        self.status = self.final()
        self._record.grpc_status = self.status.number
        consumed = not rpc.request.replayable
        if expired.is_set() and self.status.code is grpc.StatusCode.CANCELLED:
            return Failed(FailureKind.TIMEOUT, "no response in time", request_sent=True, body_consumed=consumed)
        if self.status.ok:
            return Answered(200, [*lines(self.initial), ("grpc-status", "0")])
        found = outcome(self.status, rpc.deadline if limit is None else limit, consumed=consumed)
        if isinstance(found, Failed) and found.kind is FailureKind.CONNECT:
            self._pool.forget(step.endpoint)
        elif isinstance(found, Answered):
            self._record.peer = self._peer or None
        return found

    def read(self) -> bytes | None:
        """The next message; None at the end, also where the call ended otherwise."""
        message, self._message = self._message, _NOTHING
        if message is not _NOTHING:
            return message  # type: ignore[no-any-return]
        try:
            return next(self.call)  # type: ignore[no-any-return]
        except StopIteration:
            return None
        except grpc.RpcError:
            return None

    def final(self) -> Status:
        """Waits for the status."""
        call = self.call
        code = call.code()
        trailing = tuple((key, value) for key, value in call.trailing_metadata() or ())
        return Status(code, call.details() or "", trailing)

    def end(self) -> None:
        """Cancels what is still under way. May be called again, and from any thread."""
        self.over = True
        if self.call is not None:
            self.call.cancel()
        with self._lock:
            subchannel, self._subchannel = self._subchannel, None
        if subchannel is not None:
            self._pool.done(subchannel)

    def _timer(self, limit: float | None) -> tuple[threading.Timer | None, threading.Event]:
        """For an attempt that must end before its call: grpcio knows the call's deadline only."""
        expired = threading.Event()
        remaining = self._rpc.remaining()
        if limit is None or (remaining is not None and limit - time.monotonic() >= remaining - 0.001):
            return None, expired

        headed = threading.Event()

        def hear() -> None:
            self.call.initial_metadata()
            headed.set()

        def expire() -> None:
            if not headed.is_set():
                expired.set()
                self.call.cancel()

        # The server's headers are all that such a limit asks for.
        threading.Thread(target=hear, name="proxyless-grpc-head", daemon=True).start()

        timer = threading.Timer(max(0.0, limit - time.monotonic()), expire)
        timer.daemon = True
        timer.start()
        return timer, expired

    def _answered(self) -> Answered:
        self._record.peer = self._peer or None
        return Answered(200, lines(self.initial))

"""The mesh under one call of a blocking stub: the engine's loop in a thread, and what the stub's call returns."""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import grpc

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord, CallRecord
from proxyless.engine.steps import Attempt, Delay, Outcome, Respond
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.model.snapshot import Snapshot
from proxyless.transport import forgotten
from proxyless.transport.completion import Completion
from proxyless.transport.grpc_client.blocking_attempt import BlockingAttempt
from proxyless.transport.grpc_client.blocking_hedging import race
from proxyless.transport.grpc_client.blocking_requests import Requests
from proxyless.transport.grpc_client.metadata import Metadata
from proxyless.transport.grpc_client.rpc import FIRST_WAIT, LONGEST_WAIT, CopyRpc, Rpc
from proxyless.transport.grpc_client.status import CANCELLED, Status, is_not_connected, of_reply, unavailable
from proxyless.transport.grpc_client.subchannels import Subchannels
from proxyless.transport.mirrors import BlockingMirrors
from proxyless.transport.runtime import Runtime

logger = logging.getLogger("proxyless.grpc")

# See aio_attempt: so long empty headers may yet turn out to belong to a Trailers-Only response.
_TRAILERS_ONLY_GRACE = 0.25


if TYPE_CHECKING:
    _Future = grpc.Future[Any]
else:
    _Future = grpc.Future


class MeshCall(grpc.RpcError, grpc.Call, _Future):
    """A call, a future of its one response or an iterator of many, and the exception that says how it failed: as
    grpcio's own calls are all of it.

    ``perform`` does it, in the caller's thread or, by ``start``, in one of its own. mirrors: takes copies, if any are
    to be made.
    """

    def __init__(
        self,
        runtime: Runtime,
        pool: Subchannels[grpc.Channel],
        rpc: Rpc,
        request: bytes | Iterator[Any],
        *,
        unary: bool,
        serialize: Callable[[Any], bytes] | None = None,
        deserialize: Callable[[bytes], Any] | None = None,
        mirrors: BlockingMirrors | None = None,
    ) -> None:
        super().__init__()
        forgotten.prepare()
        self._runtime = runtime
        self._pool = pool
        self._rpc = rpc
        self._unary = unary
        self._mirrors = mirrors if unary else None
        self._deserialize = deserialize
        self._changed = threading.Condition()
        self._attempt: BlockingAttempt | None = None
        self._racing: tuple[BlockingAttempt, ...] = ()
        self._committed = False
        self._head: Metadata | None = None
        self._status: Status | None = None
        self._response: bytes | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._request: bytes | Requests
        if isinstance(request, bytes):
            self._request = request
            rpc.request_bytes = len(request)
            # What streams back has a head before its first message, which only another thread could hear of.
            rpc.request.hedgeable = unary
        else:
            self._request = Requests(request, serialize, self._iterator_failed)

    # ---- performing

    def start(self) -> Self:
        threading.Thread(target=self.perform, name="proxyless-grpc-call", daemon=True).start()
        return self

    def perform(self) -> None:
        """Until the status is known; of a call with many responses, until the application may read them."""
        try:
            status = self._perform()
        except ProxylessError as error:
            status = unavailable(str(error))
        except Exception as error:  # a programming error must end the call, not leave it waiting
            logger.exception("a call failed inside the mesh")
            status = Status(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        except BaseException:  # KeyboardInterrupt
            self.cancel()
            raise
        if status is not None:
            self._finish(status)

    def _perform(self) -> Status | None:
        wait = FIRST_WAIT
        while True:
            why = "no connection"
            try:
                snapshot = self._resolved()
            except NotReadyError as error:
                if not self._rpc.asked.wait_for_ready:
                    raise
                why = str(error)
            else:
                call = self._rpc.begin(snapshot)
                ended = self._round(call)
                if ended is not None or self._committed:
                    return ended
            remaining = self._rpc.remaining()
            if remaining is not None and remaining <= wait:
                self._sleep(remaining)
                return Status(grpc.StatusCode.DEADLINE_EXCEEDED, f"Deadline Exceeded: {why}")
            self._sleep(wait)
            if self._status is not None:
                return self._status
            wait = min(2 * wait, LONGEST_WAIT)

    def _round(self, call: Call) -> Status | None:
        """The status; None if the application reads on, or the call waits for a connection and should ask again."""
        step = call.next_step()
        while step is not None:
            if self._status is not None:
                return self._status
            match step:
                case Attempt():
                    self._end_attempt()
                    if call.mirrored:
                        self._mirror(call)
                    if step.hedged and isinstance(self._request, bytes):
                        decided = race(call, step, self._beside, self._request)
                        if isinstance(decided, Respond):
                            step = decided
                            continue
                        with self._changed:
                            self._attempt = decided
                        break
                    attempt = BlockingAttempt(self._pool, step, self._rpc, call.record.attempts[-1])
                    with self._changed:
                        self._attempt = attempt
                    outcome: Outcome | None = attempt.start(self._play(attempt))
                    if outcome is None:
                        with self._changed:
                            self._changed.notify_all()
                        outcome = attempt.first()
                    call.report(outcome)
                case Delay():
                    self._sleep(step.seconds)
                case Respond():
                    if self._rpc.asked.wait_for_ready and is_not_connected(step) and not call.out_of_time:
                        return None
                    return of_reply(step, out_of_time=call.out_of_time)
            step = call.next_step()
        assert self._attempt is not None
        return self._commit(self._attempt)

    def _beside(self, step: Attempt, record: AttemptRecord) -> BlockingAttempt:
        attempt = BlockingAttempt(self._pool, step, self._rpc, record)
        with self._changed:
            self._racing += (attempt,)
            if self._status is not None:  # cancelled meanwhile
                attempt.end()
        return attempt

    def _commit(self, attempt: BlockingAttempt) -> Status | None:
        """The rest of the one attempt that the application gets to see."""
        if isinstance(self._request, Requests):
            self._request.commit()
        status = attempt.status
        if status is not None and not status.ok:
            return replace(status, trailing=self._rpc.headers(status.trailing))
        with self._changed:
            self._head = self._rpc.headers(attempt.initial)
            self._committed = True
            self._changed.notify_all()
        if not self._unary:
            # Its end is heard of whether or not the application reads that far.
            attempt.call.add_done_callback(_told(weakref.ref(self), attempt))
            return None
        response = attempt.read()
        if response is not None:
            self._rpc.response_bytes = len(response)
            if attempt.read() is not None:
                return Status(grpc.StatusCode.INTERNAL, "more than one response to a call that has one")
        status = attempt.final()
        if status.ok and response is None:
            return Status(grpc.StatusCode.INTERNAL, "no response to a call that has one")
        self._response = response
        return status

    def _mirror(self, call: Call) -> None:
        """Once, and only where all of the request is here and the answer is one message."""
        mirrors, request, self._mirrors = self._mirrors, self._request, None
        if mirrors is None or not isinstance(request, bytes):
            return
        runtime, pool, asked = self._runtime, self._pool, self._rpc.asked

        def perform(copy: Completion) -> None:
            MeshCall(runtime, pool, CopyRpc(runtime, copy, asked), request, unary=True).perform()

        mirrors.start(runtime, call, self._rpc.observation, perform)

    def _play(self, attempt: BlockingAttempt) -> bytes | Iterator[bytes]:
        request = self._request
        if isinstance(request, bytes):
            return request
        return self._watched(request, attempt)

    def _watched(self, request: Requests, attempt: BlockingAttempt) -> Iterator[bytes]:
        for message in request.play(lambda: attempt.over or self._status is not None):
            if not request.outgoing.keeping:
                self._rpc.request.replayable = False
            yield message

    def _iterator_failed(self, error: Exception) -> None:
        logger.error("the request iterator of %s failed", self._rpc.request.path, exc_info=error)
        self.cancel()

    def _resolved(self) -> Snapshot:
        target = self._rpc.request.target
        snapshot = self._runtime.snapshot()
        if target not in snapshot.listeners:
            snapshot = self._runtime.resolve(target, self._rpc.remaining()).result()
            if target not in snapshot.listeners:
                raise NotReadyError(f"the mesh has no answer about {target}")
        return snapshot

    def _sleep(self, seconds: float) -> None:
        """Shorter if the call is cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None, seconds)

    def _end_attempt(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            attempt.end()
            if isinstance(self._request, Requests):
                self._request.wake()
        for attempt in self._racing:
            attempt.end()

    def _finish(self, status: Status) -> bool:
        with self._changed:
            if self._status is not None:
                return False
            self._status = status
            callbacks, self._callbacks = self._callbacks, []
            if isinstance(self._request, Requests):
                self._rpc.request_bytes = self._request.outgoing.total_bytes
            self._rpc.end(status)
            self._changed.notify_all()
        self._end_attempt()
        for callback in callbacks:
            _run(callback)
        return True

    @property
    def proxyless(self) -> CallRecord | None:
        """What the mesh did about this call; None before it decided anything."""
        return self._rpc.record

    # ---- grpc.Call

    def is_active(self) -> bool:
        return self._status is None

    def time_remaining(self) -> Any:
        return self._rpc.remaining()

    def cancel(self) -> bool:
        return self._finish(CANCELLED)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._changed:
            if self._status is None:
                self._callbacks.append(callback)
                return True
        return False

    def initial_metadata(self) -> Metadata:
        while not self._known():
            with self._changed:
                self._changed.wait_for(lambda: self._known() or self._under_way() is not None)
                attempt = self._under_way()
            if attempt is not None and (found := self._early_head(attempt)) is not None:
                return found
        return self._head or ()

    def _known(self) -> bool:
        return self._head is not None or self._status is not None

    def _under_way(self) -> BlockingAttempt | None:
        attempt = self._attempt
        return attempt if attempt is not None and attempt.call is not None else None

    def _early_head(self, attempt: BlockingAttempt) -> Metadata | None:
        """Initial metadata that came before any message; None if they were those of an attempt that has failed."""
        found = tuple((key, value) for key, value in attempt.call.initial_metadata() or ())
        with self._changed:
            if not found:
                self._changed.wait_for(lambda: self._known() or self._attempt is not attempt, _TRAILERS_ONLY_GRACE)
            if self._known() or self._attempt is not attempt:
                return None
            self._rpc.request.replayable = False  # the server answers, so there is no other attempt
            return self._rpc.headers(found)

    def trailing_metadata(self) -> Any:
        return self._ended().trailing

    def code(self) -> grpc.StatusCode:
        return self._ended().code

    def details(self) -> str:
        return self._ended().details

    def debug_error_string(self) -> str:
        return str(self._ended())

    def _ended(self, timeout: float | None = None) -> Status:
        with self._changed:
            if not self._changed.wait_for(lambda: self._status is not None, timeout):
                raise grpc.FutureTimeoutError
            assert self._status is not None
            return self._status

    # ---- grpc.Future

    def cancelled(self) -> bool:
        return self._status is not None and self._status.local

    def running(self) -> bool:
        return self._status is None

    def done(self) -> bool:
        return self._status is not None

    def result(self, timeout: float | None = None) -> Any:
        status = self._ended(timeout)
        if status.ok:
            return self._message(self._response) if self._response is not None else None
        if status.local:
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Exception | None:
        status = self._ended(timeout)
        if status.local:
            raise grpc.FutureCancelledError
        return None if status.ok else self

    def traceback(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: callback(self)):
            _run(lambda: callback(self))

    def response(self) -> Any:
        """The one response, once ``perform`` has returned; raises this call if it failed."""
        if not self._ended().ok:
            raise self
        assert self._response is not None
        return self._message(self._response)

    # ---- an iterator of responses

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._committed or self._status is not None)
        attempt = self._attempt
        message = attempt.read() if attempt is not None and self._committed and not self.cancelled() else None
        if message is None:
            if self._ended().ok:
                raise StopIteration
            raise self
        self._rpc.response_bytes += len(message)
        return self._message(message)

    def _message(self, raw: bytes) -> Any:
        if self._deserialize is None:
            return raw
        try:
            return self._deserialize(raw)
        except Exception as error:
            self._finish(CANCELLED)
            self._status = Status(grpc.StatusCode.INTERNAL, f"Exception deserializing response! {error}")
            raise self from error

    def __repr__(self) -> str:
        state = str(self._status) if self._status is not None else "under way"
        return f"<{type(self).__name__} of {self._rpc.request.path}: {state}>"

    __str__ = __repr__

    def __del__(self) -> None:
        if getattr(self, "_status", CANCELLED) is None:
            forgotten.end_later(self.cancel)


def _told(call: "weakref.ref[MeshCall]", attempt: BlockingAttempt) -> Callable[[Any], None]:
    """Weak: a call that the application has forgotten must be collected, which cancels it."""

    def ended(_: Any) -> None:
        if (found := call()) is not None:
            found._finish(attempt.final())

    return ended


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback of a call failed")

"""The mesh under one call of an ``aio`` stub: the engine's loop, with asyncio for hands."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

import grpc

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt, Delay, Failed, Outcome, Respond, Step
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.model.snapshot import Snapshot
from proxyless.transport.completion import Completion
from proxyless.transport.grpc_client.aio_attempt import AioAttempt
from proxyless.transport.grpc_client.metadata import Metadata
from proxyless.transport.grpc_client.outgoing import Outgoing
from proxyless.transport.grpc_client.rpc import FIRST_WAIT, LONGEST_WAIT, CopyRpc, Rpc
from proxyless.transport.grpc_client.status import CANCELLED, Status, is_not_connected, of_reply, unavailable
from proxyless.transport.grpc_client.wire.attempt import WireAttempt
from proxyless.transport.hedging import Begun, race
from proxyless.transport.mirrors import AsyncMirrors
from proxyless.transport.runtime import Runtime

logger = logging.getLogger("proxyless.grpc")

AnyAttempt = AioAttempt | WireAttempt


class Attempts(Protocol):
    """Makes the attempt of a step. whole: of a call with one request and one response."""

    def __call__(self, step: Attempt, rpc: Rpc, record: AttemptRecord, *, whole: bool) -> AnyAttempt: ...


class AioRpc:
    """One call in bytes. Futures of its head and its status; performed by a task, or by who awaits a unary one first.

    request: the one message, None for a stream (``write`` then ``done_writing``). unary: there is one response, which
    is kept in ``response``; else ``read`` them. mirrors: takes copies, if any are to be made.
    """

    def __init__(
        self,
        runtime: Runtime,
        attempts: Attempts,
        rpc: Rpc,
        request: bytes | None,
        *,
        unary: bool,
        mirrors: AsyncMirrors | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._runtime = runtime
        self._attempts = attempts
        self.rpc = rpc
        self._request = request
        self._unary = unary
        self._mirrors = mirrors if unary else None
        self.outgoing = Outgoing()
        self._movers: list[asyncio.Future[None]] = []
        self._enders: list[asyncio.Future[None]] = []
        self._wants_head = asyncio.Event()
        self._attempt: AnyAttempt | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._sent = 0
        self.response: Any = grpc.aio.EOF
        self.head: asyncio.Future[Metadata] = loop.create_future()
        self.committed: asyncio.Future[AnyAttempt | None] = loop.create_future()
        self.started: asyncio.Future[None] = loop.create_future()
        self.status: asyncio.Future[Status] = loop.create_future()
        if request is not None:
            rpc.request_bytes = len(request)
            rpc.request.hedgeable = True
        self.loop = loop
        # What was decided before there is a task; and the task, unless whoever waits for the first attempt does it all.
        self._decided: tuple[Call, Step | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = self._awaited = False
        if not self._at_once():
            self._spawn()

    # ---- what the application does

    def cancel(self) -> bool:
        if self.status.done():
            return False
        self._finish(CANCELLED)
        if self._task is not None:
            self._task.cancel()
        else:
            self._end_attempt()
        return True

    def when_done(self, callback: Callable[[], None]) -> None:
        if self.status.done():
            callback()
        else:
            self._callbacks.append(callback)

    async def write(self, message: bytes) -> None:
        """Returns once it is on its way; what a call that has ended is given is lost."""
        outgoing = self.outgoing
        outgoing.add(message)
        mine = outgoing.end
        if not outgoing.keeping:
            self.rpc.request.replayable = False
        self._wake()
        while self._sent < mine and not self.status.done():
            await self._moves()

    def done_writing(self) -> None:
        self.outgoing.ended = True
        self._wake()

    async def ended(self) -> Status:
        """Whoever gives up waiting leaves the call alone."""
        if not self.status.done():
            await self._wait(self._enders)
        return self.status.result()

    async def initial_metadata(self) -> Metadata:
        self._wants_head.set()
        return await asyncio.shield(self.head)

    async def read(self) -> Any:
        """The next message in bytes, or ``grpc.aio.EOF``."""
        committed = self.committed
        attempt = committed.result() if committed.done() else await asyncio.shield(committed)
        if attempt is None:
            return grpc.aio.EOF
        message = await attempt.read()
        if message is grpc.aio.EOF:
            await self.ended()
        else:
            self.rpc.response_bytes += len(message)
        return message

    async def wait_connected(self) -> Status | None:
        """None once an attempt has its connection; the status, if it ended before."""
        while not self.status.done():
            await asyncio.shield(self.started)
            attempt = self._attempt
            if attempt is None or attempt.call is None:
                await self._moves()
                continue
            with contextlib.suppress(grpc.RpcError):
                await attempt.call.wait_for_connection()
                return None
            await asyncio.sleep(0)
        status = self.status.result()
        return None if status.ok else status

    async def result(self) -> Status:
        """``ended`` for the first who waits for a unary call: a first attempt that settles it needs no task then."""
        attempt = self._attempt
        if self._task is not None or self._awaited or attempt is None or self.status.done():
            return await self.ended()
        self._awaited = True
        try:
            await self._run(functools.partial(self._first, attempt))
        except BaseException:
            self.cancel()
            raise
        return await self.ended()

    # ---- the loop

    def _at_once(self) -> bool:
        """Send a unary call now, if nothing needs to be waited for; False if a task is to go on. Else one does once the
        attempt has ended, if nobody waits for it.
        """
        request, snapshot = self._request, self._runtime.snapshot()
        if request is None or not self._unary or self.rpc.request.target not in snapshot.listeners:
            return False
        try:
            call = self.rpc.begin(snapshot)
            step = call.next_step()
            self._decided = call, step
            if not isinstance(step, Attempt) or step.hedged:
                return False
            self._attempt = attempt = self._attempts(step, self.rpc, call.record.attempts[-1], whole=True)
            self._begun = attempt.start_known(request)
        except Exception:
            self._end_attempt()
            return False  # the task will meet it again, and says so
        if self._begun:
            if call.mirrored:
                self._mirror(call)
            self.started.set_result(None)
            if not isinstance(attempt, WireAttempt):
                return False  # grpcio's ends only for somebody who reads
            attempt.add_done_callback(self._unless_awaited)
        return self._begun

    def _unless_awaited(self, _: Any) -> None:
        if self.status.done():
            self._end_attempt()
        elif not self._awaited:
            self._spawn()

    def _spawn(self) -> None:
        self._task = self.loop.create_task(self._run(self._perform))

    async def _first(self, attempt: AnyAttempt) -> Status | None:
        """None if a task goes on."""
        assert self._decided is not None
        call, _ = self._decided
        self._begun = False
        call.report(await attempt.first(self._wants_head))
        step = call.next_step()
        if step is None:
            return await self._commit(attempt)
        self._decided = call, step
        self._spawn()
        return None

    async def _run(self, perform: "Callable[[], Coroutine[Any, Any, Status | None]]") -> None:
        try:
            status = await perform()
            if status is None:
                return
        except asyncio.CancelledError:
            status = CANCELLED
        except ProxylessError as error:
            status = unavailable(str(error))
        except Exception as error:  # a programming error must end the call, not leave it waiting
            logger.exception("a call failed inside the mesh")
            status = Status(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            self._stop_pumping()
        self._finish(status)
        self._end_attempt()

    async def _perform(self) -> Status:
        wait = FIRST_WAIT
        while True:
            why = "no connection"
            try:
                call, step = await self._decide()
            except NotReadyError as error:
                if not self.rpc.asked.wait_for_ready:
                    raise
                why = str(error)
            else:
                ended = await self._round(call, step)
                if ended is not None:
                    return ended
            remaining = self.rpc.remaining()
            if remaining is not None and remaining <= wait:
                await asyncio.sleep(remaining)
                return Status(grpc.StatusCode.DEADLINE_EXCEEDED, f"Deadline Exceeded: {why}")
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _decide(self) -> tuple[Call, Step | None]:
        decided, self._decided = self._decided, None
        if decided is not None:
            return decided
        call = self.rpc.begin(await self._resolved())
        return call, call.next_step()

    async def _round(self, call: Call, step: Step | None) -> Status | None:
        """The status; None if a call that waits for a connection should ask again."""
        while step is not None:
            match step:
                case Attempt():
                    if step.hedged:
                        step = await self._race(step, call)
                        continue
                    begun, self._begun = self._begun, False
                    outcome = None if begun else await self._start(step, call)
                    assert self._attempt is not None
                    call.report(outcome or await self._attempt.first(self._wants_head))
                case Delay():
                    await asyncio.sleep(step.seconds)
                case Respond():
                    if self.rpc.asked.wait_for_ready and is_not_connected(step) and not call.out_of_time:
                        return None
                    return of_reply(step, out_of_time=call.out_of_time)
            step = call.next_step()
        assert self._attempt is not None
        return await self._commit(self._attempt)

    async def _start(self, step: Attempt, call: Call) -> Failed | None:
        self._stop_pumping()
        self._end_attempt()
        if call.mirrored:
            self._mirror(call)
        whole = self._unary and self._request is not None
        self._attempt = attempt = self._attempts(step, self.rpc, call.record.attempts[-1], whole=whole)
        failed = await attempt.start(self._request)
        if failed is None:
            if self._request is None:
                self._pumping = self.loop.create_task(self._pump(attempt.call))
            if not self.started.done():
                self.started.set_result(None)
            self._wake()
        return failed

    async def _race(self, step: Attempt, call: Call) -> Respond | None:
        """What to answer, None if an attempt did."""
        self._end_attempt()
        if call.mirrored:
            self._mirror(call)

        async def perform(attempt: AnyAttempt) -> Outcome:
            failed = await attempt.start(self._request)
            if failed is None and not self.started.done():
                self._attempt = attempt  # whoever asks for a connection waits for this one's
                self.started.set_result(None)
            return failed or await attempt.first(self._wants_head)

        def begin(step: Attempt, record: AttemptRecord) -> Begun[AnyAttempt]:
            attempt = self._attempts(step, self.rpc, record, whole=False)  # its head is waited for
            return attempt, perform(attempt)

        decided = await race(call, step, begin, lambda attempt: attempt.end())
        if isinstance(decided, Respond):
            return decided
        self._attempt = decided
        return None

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.end()

    async def _commit(self, attempt: AnyAttempt) -> Status:
        """The rest of the one attempt that the application gets to see."""
        self.outgoing.keeping = False
        self.outgoing.sent(self._sent)
        if attempt.status is not None and not attempt.status.ok:
            return replace(attempt.status, trailing=self.rpc.headers(attempt.status.trailing))
        self.head.set_result(self.rpc.headers(attempt.initial))
        if not self._unary:
            self.committed.set_result(attempt)
        else:
            self.response = await attempt.read()
            if self.response is not grpc.aio.EOF:
                self.rpc.response_bytes += len(self.response)
                if await attempt.read() is not grpc.aio.EOF:
                    return Status(grpc.StatusCode.INTERNAL, "more than one response to a call that has one")
        status = await attempt.final()
        if self._unary and status.ok and self.response is grpc.aio.EOF:
            return Status(grpc.StatusCode.INTERNAL, "no response to a call that has one")
        return status

    def _mirror(self, call: Call) -> None:
        """Once, and only where all of the request is here and the answer is one message."""
        mirrors, request, self._mirrors = self._mirrors, self._request, None
        if mirrors is None or request is None:
            return
        runtime, attempts, asked = self._runtime, self._attempts, self.rpc.asked

        async def perform(copy: Completion) -> None:
            rpc = AioRpc(runtime, attempts, CopyRpc(runtime, copy, asked), request, unary=True)
            try:
                await rpc.status
            finally:
                rpc.cancel()

        mirrors.start(runtime, call, self.rpc.observation, perform)

    async def _resolved(self) -> Snapshot:
        target = self.rpc.request.target
        snapshot = self._runtime.snapshot()
        if target not in snapshot.listeners:
            snapshot = await asyncio.wrap_future(self._runtime.resolve(target, self.rpc.remaining()))
            if target not in snapshot.listeners:
                raise NotReadyError(f"the mesh has no answer about {target}")
        return snapshot

    async def _pump(self, call: Any) -> None:
        """Writes the request messages to one attempt. What goes wrong, its reading side tells."""
        outgoing, number = self.outgoing, 0
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                while number < outgoing.end:
                    await call.write(outgoing.get(number))
                    number += 1
                    self._sent = max(self._sent, number)
                    outgoing.sent(number)
                    self._wake()
                if outgoing.ended:
                    await call.done_writing()
                    return
                await self._moves()

    def _stop_pumping(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None

    def _finish(self, status: Status) -> None:
        if self.status.done():
            return
        if self._request is None:
            self.rpc.request_bytes = self.outgoing.total_bytes
        self.rpc.end(status)
        self.status.set_result(status)
        if not self.head.done():
            self.head.set_result(())
        if not self.committed.done():
            self.committed.set_result(None)
        if not self.started.done():
            self.started.set_result(None)
        _release(self._enders)
        self._wake()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.loop.call_soon(callback)

    def _wake(self) -> None:
        movers, self._movers = self._movers, []
        _release(movers)

    async def _moves(self) -> None:
        await self._wait(self._movers)

    async def _wait(self, waiters: "list[asyncio.Future[None]]") -> None:
        waiter: asyncio.Future[None] = self.loop.create_future()
        waiters.append(waiter)
        await waiter


def _release(waiters: "list[asyncio.Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


async def feed(rpc: AioRpc, requests: Any, serialize: Callable[[Any], bytes]) -> None:
    """Writes what an application's iterable gives. If that fails the call is cancelled, as in grpcio."""
    try:
        if isinstance(requests, AsyncIterable) or hasattr(requests, "__aiter__"):
            async for request in requests:
                if rpc.status.done():
                    return
                await rpc.write(serialize(request))
        else:
            for request in requests:
                if rpc.status.done():
                    return
                await rpc.write(serialize(request))
        rpc.done_writing()
    except Exception:
        logger.exception("the request iterator of %s failed", rpc.rpc.request.path)
        rpc.cancel()

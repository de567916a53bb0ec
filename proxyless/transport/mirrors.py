"""Copies of requests on their way to where their route mirrors them: nobody waits for one, and there is a bound.

Source of the semantics: Envoy's RouteAction.request_mirror_policies. What is decided is decided in ``Call.copies``.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from proxyless.engine.call import Call
from proxyless.telemetry.observation import ClientObservation
from proxyless.transport.completion import Completion
from proxyless.transport.pool import fork
from proxyless.transport.runtime import Runtime

logger = logging.getLogger("proxyless.mirror")

# Copies of one client that are under way or wait for it, and threads of a blocking one. More copies are dropped.
MOST, THREADS = 64, 8
# So many bytes of a copy's answer are read and thrown away; a longer one ends its connection.
LONGEST = 1024 * 1024
# Seconds that a client which closes leaves to its copies, and that a thread waits for another.
_GRACE, _IDLE = 1.0, 5.0

Job = Callable[[], None]


class AsyncMirrors:
    """The copies of one client, in any number of event loops."""

    def __init__(self) -> None:
        self.forget()
        fork.watch(self)

    def forget(self) -> tuple[()]:
        """See ``pool.fork``: what the parent's loops have under way is not ours."""
        self._under_way: set[asyncio.Task[None]] = set()
        return ()

    def start(
        self,
        runtime: Runtime,
        call: Call,
        seen: ClientObservation,
        perform: Callable[[Completion], Coroutine[Any, Any, object]],
    ) -> None:
        """perform: sends a copy and reads its answer to the end."""
        for copy in _begun(runtime, call, seen):
            if len(self._under_way) >= MOST:
                _drop(copy)
                continue
            task = asyncio.get_running_loop().create_task(_performed(copy, perform))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """This loop's have a second to end."""
        here = asyncio.get_running_loop()
        if mine := {task for task in list(self._under_way) if task.get_loop() is here}:
            _, late = await asyncio.wait(mine, timeout=_GRACE)
            for task in late:
                task.cancel()


class BlockingMirrors:
    """The copies of one client, in a few threads that come and go with them."""

    def __init__(self) -> None:
        self._reset()
        fork.watch(self)

    def start(
        self, runtime: Runtime, call: Call, seen: ClientObservation, perform: Callable[[Completion], object]
    ) -> None:
        """perform: as above."""
        for copy in _begun(runtime, call, seen):
            with self._changed:
                if self._under_way >= MOST or not self._has_hands():
                    _drop(copy)
                    continue
                self._under_way += 1
                self._jobs.append(_job(copy, perform))
                self._changed.notify_all()

    def close(self) -> None:
        """They have a second to end; later ones end with the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, _GRACE)

    def forget(self) -> tuple[()]:
        """See ``pool.fork``: threads do not survive it."""
        self._reset()
        return ()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._under_way = self._threads = self._idle = 0

    def _has_hands(self) -> bool:
        """For one job more. A process that ends, or has too many threads, gets no new one: that is not the caller's."""
        if self._idle <= len(self._jobs) and self._threads < THREADS:
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._work, name="proxyless-mirror", daemon=True).start()
                self._threads += 1
        return self._threads > 0

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: bool(self._jobs), _IDLE)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None


def _begun(runtime: Runtime, call: Call, seen: ClientObservation) -> list[Completion]:
    found = []
    for copy in call.copies():
        started = time.monotonic()
        observation = runtime.telemetry.begin_copy(copy.request, seen, traced=copy.traced)
        copy.call.record.policy = time.monotonic() - started
        found.append(Completion(copy.call, observation))
    return found


def _drop(copy: Completion) -> None:
    answer = copy.call.drop(f"not mirrored: {MOST} copies are under way, or there is no thread for another")
    copy.grpc_status = next((value for name, value in answer.headers if name == "grpc-status"), "")
    copy.end()


async def _performed(copy: Completion, perform: Callable[[Completion], Coroutine[Any, Any, object]]) -> None:
    try:
        await perform(copy)
    except Exception as error:  # whatever it is, it is nobody's
        logger.debug("a copy failed: %s: %s", type(error).__name__, error)
        copy.end(error)
    except BaseException as error:
        copy.end(error)
        raise
    else:
        copy.end()


def _job(copy: Completion, perform: Callable[[Completion], object]) -> Job:
    def job() -> None:
        try:
            perform(copy)
        except Exception as error:  # whatever it is, it is nobody's
            logger.debug("a copy failed: %s: %s", type(error).__name__, error)
            copy.end(error)
        else:
            copy.end()

    return job

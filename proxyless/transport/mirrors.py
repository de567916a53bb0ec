"""Copies of requests on their way to where their route mirrors them: nobody waits for one, and there is a bound.

Source of the semantics: Envoy's RouteAction.request_mirror_policies. What is decided is decided in ``Call.copies``.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from proxyless.engine.call import Call
from proxyless.telemetry.observation import ClientObservation
from proxyless.transport.completion import Completion
from proxyless.transport.pool import fork
from proxyless.transport.runtime import Runtime
from proxyless.transport.workers import Job, Workers

logger = logging.getLogger("proxyless.mirror")

# Copies of one client that are under way or wait for it, and threads of a blocking one. More copies are dropped.
MOST, THREADS = 64, 8
# So many bytes of a copy's answer are read and thrown away; a longer one ends its connection.
LONGEST = 1024 * 1024
# Seconds that a client which closes leaves to its copies.
_GRACE = 1.0


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
    """The copies of one client, in a few threads."""

    def __init__(self) -> None:
        self._workers = Workers("proxyless-mirror", THREADS)

    def start(
        self, runtime: Runtime, call: Call, seen: ClientObservation, perform: Callable[[Completion], object]
    ) -> None:
        """perform: as above."""
        for copy in _begun(runtime, call, seen):
            if not self._workers.start(_job(copy, perform), MOST):
                _drop(copy)

    def close(self) -> None:
        """They have a second to end."""
        self._workers.wait(_GRACE)


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

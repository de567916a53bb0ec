"""The attempts of a hedged call, under way together. Who wins is decided in ``engine.hedging``."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxyless.engine.call import Call
from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt, Outcome, Respond, Step, Wait

T = TypeVar("T")
Begun = tuple[T, Coroutine[Any, Any, Outcome]]


async def race(
    call: Call, first: Attempt, begin: Callable[[Attempt, AttemptRecord], Begun[T]], drop: Callable[[T], None]
) -> T | Respond:
    """The attempt that answered, or what to answer instead.

    begin: an attempt, and what brings its outcome; that gets a task of its own. drop: of an attempt that nobody wants,
    once that has ended; of all of them if this is cancelled or an attempt raises.
    """
    record, clock = call.record, time.monotonic
    under_way: dict[asyncio.Task[Outcome], tuple[int, T]] = {}
    step: Step | None = first
    try:
        while True:
            ended: asyncio.Task[Outcome] | None = None
            match step:
                case Attempt():
                    attempt, performing = begin(step, record.attempts[-1])
                    under_way[asyncio.get_running_loop().create_task(performing)] = step.number, attempt
                case Wait() if under_way:
                    done, _ = await asyncio.wait(under_way, timeout=step.seconds, return_when=asyncio.FIRST_COMPLETED)
                    if done:
                        ended = min(done, key=lambda one: under_way[one][0])
                        call.report(ended.result(), under_way[ended][0])
                case Wait():
                    await asyncio.sleep(step.seconds or 0.0)
                case Respond():
                    return step
            deciding = clock()
            step = call.next_step()
            record.policy += clock() - deciding
            if ended is not None:
                _, attempt = under_way.pop(ended)
                if step is None:
                    return attempt
                drop(attempt)
    finally:
        for task, (_, attempt) in under_way.items():
            task.cancel()
            task.add_done_callback(_dropping(attempt, drop))


def _dropping(attempt: T, drop: Callable[[T], None]) -> Callable[["asyncio.Task[Outcome]"], None]:
    def ended(task: "asyncio.Task[Outcome]") -> None:
        if not task.cancelled():
            task.exception()  # nobody waits for it
        drop(attempt)

    return ended

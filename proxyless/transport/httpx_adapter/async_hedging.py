"""The attempts of a hedged call, under way together: a task for each."""

import asyncio
import time
from collections.abc import Callable

from proxyless.engine.call import Call
from proxyless.engine.steps import Attempt, Outcome, Respond, Step, Wait
from proxyless.transport.httpx_adapter.async_attempt import AsyncExchange


async def race(
    call: Call, first: Attempt, exchange: AsyncExchange, another: Callable[[], AsyncExchange]
) -> tuple[AsyncExchange, Respond | None]:
    """The exchange whose attempt answered, or what to answer instead. exchange: for the first attempt."""
    record, clock = call.record, time.monotonic
    under_way: dict[asyncio.Task[Outcome], tuple[int, AsyncExchange]] = {}
    step: Step | None = first
    try:
        while step is not None:
            ended: AsyncExchange | None = None
            match step:
                case Attempt():
                    task = asyncio.ensure_future(exchange.attempt(step, record.attempts[-1]))
                    under_way[task] = step.number, exchange
                    exchange = another()
                case Wait() if under_way:
                    done, _ = await asyncio.wait(under_way, timeout=step.seconds, return_when=asyncio.FIRST_COMPLETED)
                    for task in sorted(done, key=lambda one: under_way[one][0])[:1]:
                        number, ended = under_way.pop(task)
                        call.report(task.result(), number)
                case Wait():
                    await asyncio.sleep(step.seconds or 0.0)
                case Respond():
                    return exchange, step
            deciding = clock()
            step = call.next_step()
            record.policy += clock() - deciding
            if ended is not None:
                if step is None:
                    return ended, None
                ended.release()
        raise AssertionError("a call ends with an answer")
    finally:
        for task, (_, loser) in under_way.items():
            task.cancel()
            task.add_done_callback(_closing(loser))


def _closing(exchange: AsyncExchange) -> Callable[["asyncio.Task[Outcome]"], None]:
    def close(task: "asyncio.Task[Outcome]") -> None:
        if not task.cancelled():
            task.exception()  # nobody waits for it
        exchange.abort()

    return close

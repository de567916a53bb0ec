"""A task goes on within the callback that brings what it waits for, and is cancelled as at a future."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from inbound_support import LOOPS

from proxyless.transport.arrival import Arrival

Scenario = Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, None]]


def _pure(loop: asyncio.AbstractEventLoop, coro: Any, **how: Any) -> Any:
    return asyncio.tasks._PyTask(coro, loop=loop, **how)  # type: ignore[attr-defined]


def _loop(kind: str) -> asyncio.AbstractEventLoop:
    loop = LOOPS[kind.partition(" ")[0]]()
    loop.set_debug(kind.endswith("debug"))
    if kind.endswith("pure Python"):
        loop.set_task_factory(_pure)
    elif kind.endswith("eager"):
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


KINDS = ["asyncio", "asyncio debug", "asyncio pure Python", "uvloop", "uvloop debug"]
if hasattr(asyncio, "eager_task_factory"):
    KINDS += ["asyncio eager"]


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario on a loop of each kind; what the loop complains of is a failure."""

    def run(scenario: Scenario) -> None:
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=lambda: _loop(request.param)) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))

            async def bounded() -> None:
                await asyncio.wait_for(scenario(loop), 60)

            runner.run(bounded())
        assert complaints == []

    return run


class Waiting:
    """A task that waits for an arrival, and what happened in which order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, prepare: Callable[[], object] = lambda: None) -> None:
        self.events: list[object] = []
        self.arrival = Arrival(loop)
        self.task = loop.create_task(self._wait(prepare))

    async def _wait(self, prepare: Callable[[], object]) -> None:
        prepare()
        try:
            self.events.append(await self.arrival)
        except BaseException as error:
            self.events.append(error)
            raise

    async def there(self) -> "Waiting":
        while not self.arrival._callback and not self.task.done():
            await asyncio.sleep(0)
        return self

    def noting(self, act: Callable[[], object]) -> Callable[[], None]:
        def noted() -> None:
            self.events.append("before")
            act()
            self.events.append("after")

        return noted


async def _called(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """In a callback of the loop, which is none of a task."""
    called: asyncio.Future[None] = loop.create_future()

    def call() -> None:
        try:
            callback()
        finally:
            called.set_result(None)

    loop.call_soon(call)
    await called


@pytest.mark.parametrize(
    ("act", "events"),
    [
        (lambda arrival: arrival.now(), ["before", True, "after"]),
        (lambda arrival: arrival.soon(True), ["before", "after", True]),
        (lambda arrival: arrival.soon(False), ["before", "after", False]),
        # The first of several counts.
        (lambda arrival: (arrival.now(), arrival.now(), arrival.soon(False)), ["before", True, "after"]),
        (lambda arrival: (arrival.soon(False), arrival.now()), ["before", "after", False]),
        (lambda arrival: (arrival.soon(True), arrival.soon(False)), ["before", "after", True]),
    ],
)
def test_the_order_of_events(
    play: Callable[[Scenario], None], act: Callable[[Arrival], object], events: list[object]
) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waiting = await Waiting(loop).there()
        await _called(loop, waiting.noting(lambda: act(waiting.arrival)))
        await waiting.task
        assert waiting.events == events
        assert waiting.arrival.done()

    play(scenario)


def test_a_task_is_not_left_for_the_other_one(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waiting = await Waiting(loop).there()
        waiting.noting(waiting.arrival.now)()  # we are a task
        assert asyncio.current_task() is not waiting.task
        await waiting.task
        assert waiting.events == ["before", "after", True]

    play(scenario)


@pytest.mark.parametrize("came", [True, False])
def test_what_has_come_is_not_waited_for(play: Callable[[Scenario], None], came: bool) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        turned: list[bool] = []
        arrival = Arrival(loop)
        arrival.soon(came)
        loop.call_soon(turned.append, True)
        assert await arrival is came
        assert not turned

        arrival = Arrival(loop)
        await _called(loop, arrival.now)  # nobody was there
        assert await arrival is True

    play(scenario)


def test_it_has_no_result_before(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        arrival = Arrival(loop)
        assert not arrival.done()
        assert arrival.get_loop() is loop
        with pytest.raises(asyncio.InvalidStateError):
            arrival.result()

    play(scenario)


def test_given_up_by_a_timer(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waiting = Waiting(loop)
        loop.call_later(0.001, waiting.arrival.soon, False)
        await waiting.task
        assert waiting.events == [False]

    play(scenario)


@pytest.mark.parametrize(
    "act",
    [
        lambda waiting: waiting.task.cancel("why"),
        lambda waiting: (waiting.task.cancel("why"), waiting.arrival.now()),
        lambda waiting: (waiting.task.cancel("why"), waiting.arrival.soon(True)),
        lambda waiting: (waiting.task.cancel("why"), waiting.task.cancel("again")),
        # As with a future: what has come, and the task has not seen, is not seen any more.
        lambda waiting: (waiting.arrival.soon(True), waiting.task.cancel("why")),
        lambda waiting: (waiting.arrival.soon(False), waiting.task.cancel("why")),
    ],
)
@pytest.mark.parametrize("inside", ["a callback", "a task"])
def test_cancelled(play: Callable[[Scenario], None], act: Callable[[Waiting], object], inside: str) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waiting = await Waiting(loop).there()
        if inside == "a task":
            act(waiting)
        else:
            await _called(loop, lambda: act(waiting))
        with pytest.raises(asyncio.CancelledError):
            await waiting.task
        assert waiting.task.cancelled()
        (error,) = waiting.events
        assert isinstance(error, asyncio.CancelledError)
        assert error.args[0] in ("why", "again")
        # Later news meets nobody.
        waiting.arrival.now()
        waiting.arrival.soon(False)
        assert not waiting.arrival.cancel()
        await asyncio.sleep(0)
        assert len(waiting.events) == 1

    play(scenario)


def test_cancelled_by_itself_before_it_waits(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        def cancel() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("why")

        waiting = Waiting(loop, cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting.task
        (error,) = waiting.events
        assert isinstance(error, asyncio.CancelledError) and error.args == ("why",)

    play(scenario)


def test_cancelled_before_anybody_waits(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        arrival = Arrival(loop)
        assert arrival.cancel("why")
        with pytest.raises(asyncio.CancelledError) as raised:
            await arrival
        assert raised.value.args == ("why",)
        assert arrival.done()

    play(scenario)


def test_cancelled_by_the_task_that_goes_on(play: Callable[[Scenario], None]) -> None:
    """Within one callback: the second has been cancelled by the first when its turn comes."""

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        second = await Waiting(loop).there()
        first = Arrival(loop)

        async def cancel() -> None:
            assert await first
            second.task.cancel()

        task = loop.create_task(cancel())
        await asyncio.sleep(0)
        await _called(loop, lambda: (first.now(), second.arrival.now()))
        await task
        with pytest.raises(asyncio.CancelledError):
            await second.task

    play(scenario)


async def _asyncio_timeout(wait: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await wait()


async def _wait_for(wait: Callable[[], Awaitable[object]]) -> None:
    async def waits() -> None:
        await wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waits(), 0.001)


async def _anyio_deadline(wait: Callable[[], Awaitable[object]]) -> None:
    with anyio.move_on_after(0.001) as scope:
        await wait()
    assert scope.cancelled_caught


async def _anyio_group(wait: Callable[[], Awaitable[object]]) -> None:
    async def waits() -> None:
        await wait()

    async with anyio.create_task_group() as group:
        group.start_soon(waits)
        await asyncio.sleep(0)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("patience", [_asyncio_timeout, _wait_for, _anyio_deadline, _anyio_group])
def test_patience_of_others_ends_it(
    play: Callable[[Scenario], None], patience: Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]
) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        await patience(lambda: Arrival(loop))  # type: ignore[arg-type, return-value]
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    play(scenario)


def test_a_failure_of_the_task_is_its_own(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        arrival = Arrival(loop)

        async def fails() -> None:
            await arrival
            raise ValueError("mine")

        task = loop.create_task(fails())
        await asyncio.sleep(0)
        await _called(loop, arrival.now)
        with pytest.raises(ValueError, match="mine"):
            await task

    play(scenario)


def test_another_loops_task_cannot_wait_for_it(play: Callable[[Scenario], None]) -> None:
    other = asyncio.new_event_loop()
    try:

        async def scenario(_: asyncio.AbstractEventLoop) -> None:
            with pytest.raises(RuntimeError, match="different loop"):
                await Arrival(other)

        play(scenario)
    finally:
        other.close()


def test_many_tasks(play: Callable[[Scenario], None]) -> None:
    """Half are called by one callback, each of which calls another from within its task."""

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        seen: list[int] = []
        arrivals = [Arrival(loop) for _ in range(200)]

        async def wait(number: int) -> None:
            assert await arrivals[number]
            assert asyncio.current_task() is tasks[number]
            seen.append(number)
            if number < 100:
                arrivals[100 + number].now()
            assert asyncio.current_task() is tasks[number]

        tasks = [loop.create_task(wait(number)) for number in range(200)]
        await asyncio.sleep(0)

        def call() -> None:
            for arrival in arrivals[:100]:
                assert asyncio.current_task() is None
                arrival.now()
            assert seen == list(range(100))

        await _called(loop, call)
        await asyncio.gather(*tasks)
        assert seen == list(range(200))

    play(scenario)


def test_a_task_waits_again_within_the_callback(play: Callable[[Scenario], None]) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waiting: list[Arrival] = []
        seen: list[int] = []

        async def wait() -> None:
            for number in range(50):
                waiting.append(Arrival(loop))
                assert await waiting[-1]
                seen.append(number)

        task = loop.create_task(wait())
        await asyncio.sleep(0)

        def call() -> None:
            for number in range(50):
                waiting[-1].now()
                assert seen[-1] == number

        await _called(loop, call)
        await task

    play(scenario)


def test_each_keeps_its_context(play: Callable[[Scenario], None]) -> None:
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        arrival = Arrival(loop)
        seen: list[str] = []

        async def wait() -> None:
            place.set("the task")
            assert await arrival
            seen.append(place.get())
            place.set("the task, later")
            await asyncio.sleep(0)
            seen.append(place.get())

        task = loop.create_task(wait())
        await asyncio.sleep(0)

        def call() -> None:
            place.set("the callback")
            arrival.now()
            seen.append(place.get())

        await _called(loop, call)
        await task
        assert seen == ["the task", "the callback", "the task, later"]
        assert place.get() == "nowhere"

    play(scenario)

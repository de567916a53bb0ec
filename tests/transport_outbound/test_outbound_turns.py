"""A task that waits alone goes on within the callback that brought its answer; where many wait they take turns."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from inbound_support import LOOPS

from proxyless.transport.arrival import Waiters
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.errors import DeadlineExceeded
from proxyless.transport.http1.framing import Framing

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
HELD = "the callback goes on"


class Wire:
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class Asking:
    """Tasks that ask on connections of one loop, and what happened in which order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waiters = Waiters()
        self.events: list[object] = []
        self.connections: list[AsyncConnection] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, deadline: float | None = None) -> None:
        wire: Any = Wire()
        connection = AsyncConnection(self.loop, self.waiters)
        connection.connection_made(wire)
        connection.start("GET", b"", b"", Framing("", 0), keep_alive=True, write_timeout=None)
        number = len(self.tasks)

        async def wait() -> None:
            await connection.read_head(deadline, None)
            self.events.append(number)

        self.connections.append(connection)
        self.tasks.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)

    async def answer(self, *numbers: int) -> None:
        """In one callback, as one poll of the loop would."""
        answered = self.loop.create_future()

        def call() -> None:
            for number in numbers:
                self.connections[number].data_received(ANSWER)
            self.events.append(HELD)
            answered.set_result(None)

        self.loop.call_soon(call)
        await answered
        await asyncio.gather(*(self.tasks[number] for number in numbers))


def play(kind: str, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_alone_at_once_and_with_others_in_turn(kind: str) -> None:
    async def scenario() -> None:
        asking = Asking()
        await asking.ask()
        await asking.answer(0)
        assert asking.events == [0, HELD]
        for _ in range(3):
            await asking.ask()
        await asking.answer(1, 2)
        assert asking.events[2:] == [HELD, 1, 2]
        await asking.answer(3)  # alone again
        assert asking.events[5:] == [3, HELD]

    play(kind, scenario)


@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_who_was_given_up_is_not_waited_for(kind: str) -> None:
    async def scenario() -> None:
        asking = Asking()
        for deadline in (None, asking.loop.time(), None, None):
            await asking.ask(deadline)
        asking.tasks[0].cancel()
        asking.connections[2].connection_lost(ConnectionResetError())
        ended = await asyncio.gather(*asking.tasks[:3], return_exceptions=True)
        assert [type(error) for error in ended[:2]] == [asyncio.CancelledError, DeadlineExceeded]
        assert isinstance(ended[2], Exception)
        assert asking.waiters.count == 1
        await asking.answer(3)
        assert asking.events == [3, HELD]
        assert asking.waiters.count == 0

    play(kind, scenario)

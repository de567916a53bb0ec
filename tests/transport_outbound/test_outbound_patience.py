"""One timer a connection: set again when it goes off too early, and never late for who waits less."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxyless.transport.arrival import Waiters
from proxyless.transport.http1 import names
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.errors import DeadlineExceeded, ReadTimedOut
from proxyless.transport.http1.framing import Framing


class Timer:
    def __init__(self, at: float, look: Callable[[], None]) -> None:
        self.at = at
        self.look = look
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualClock:
    """The running loop's, from now on turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        loop: Any = asyncio.get_running_loop()
        loop.time, loop.call_at = self.time, self.call_at

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, look: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, look))
        return self.timers[-1]

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at <= to]:
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = first.at
            first.look()
        self.now = to

    @property
    def alive(self) -> list[float]:
        return [timer.at for timer in self.timers if not timer.cancelled]


class Wire:
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


def connected() -> tuple[AsyncConnection, VirtualClock]:
    clock = VirtualClock()
    connection = AsyncConnection(asyncio.get_running_loop(), Waiters())
    wire: Any = Wire()
    connection.connection_made(wire)
    return connection, clock


async def asked(connection: AsyncConnection, deadline: float | None, patience: float | None) -> "asyncio.Task[Any]":
    connection.start("GET", b"", b"", Framing("", 0), keep_alive=True, write_timeout=None)
    task = asyncio.create_task(connection.read_head(deadline, patience))
    await asyncio.sleep(0)
    return task


async def answered(connection: AsyncConnection, task: "asyncio.Task[Any]") -> None:
    connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await task).status == 204
    assert connection.finish()


def test_requests_on_one_connection_share_its_timer() -> None:
    async def main() -> None:
        connection, loop = connected()
        for now in (0.0, 1.0, 2.0):
            loop.advance(now)
            await answered(connection, await asked(connection, None, 5.0))
        assert loop.alive == [5.0]
        # It goes off for the first request, and is set again for the one that waits.
        task = await asked(connection, None, 5.0)
        loop.advance(6.5)
        await asyncio.sleep(0)
        assert not task.done()
        assert loop.alive == [7.0]
        loop.advance(7.0)
        with pytest.raises(ReadTimedOut):
            await task
        connection.close()
        assert loop.alive == []

    asyncio.run(main())


def test_who_waits_less_is_not_kept_waiting_by_an_older_timer() -> None:
    async def main() -> None:
        connection, loop = connected()
        await answered(connection, await asked(connection, None, 30.0))
        task = await asked(connection, 1.0, 30.0)
        assert loop.alive == [1.0]
        loop.advance(1.0)
        with pytest.raises(DeadlineExceeded):
            await task

    asyncio.run(main())


def test_who_waits_without_limit_is_not_ended_by_an_older_timer() -> None:
    async def main() -> None:
        connection, loop = connected()
        await answered(connection, await asked(connection, None, 5.0))
        task = await asked(connection, None, None)
        loop.advance(100.0)
        await asyncio.sleep(0)
        assert not task.done()
        await answered(connection, task)
        assert loop.alive == []

    asyncio.run(main())


def test_a_lost_connection_keeps_no_timer() -> None:
    async def main() -> None:
        connection, loop = connected()
        await answered(connection, await asked(connection, None, 5.0))
        connection.connection_lost(None)
        assert loop.alive == []

    asyncio.run(main())


def test_what_is_remembered_of_names_is_bounded() -> None:
    for number in range(3000):
        assert names.lower(b"X-%d" % number) == (f"x-{number}", b"x-%d" % number)
    assert len(names._known) <= 1024
    assert names.lower(b"X" * 1000) == ("x" * 1000, b"x" * 1000)
    assert b"X" * 1000 not in names._known
    assert names.lower(b"\xc0") == ("\xe0", b"\xe0")

"""When the head of an answer leaves: with its body if that follows in the same step of the task, else before."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Any

import pytest
from test_inbound_hostile import Client, hello, settle

Scope = dict[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"hi"}
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Writes(Client):
    """What was written, write by write."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.writes: list[bytes] = []
        write = self.wire.write

        def kept(data: bytes | bytearray | memoryview) -> None:
            self.writes.append(bytes(data))
            write(data)

        self.wire.write = kept  # type: ignore[method-assign]


def tried(app: Any, then: Callable[[Writes], Awaitable[None]]) -> Writes:
    async def main() -> Writes:
        client = Writes(app)
        client.send(REQUEST)
        await settle()
        await then(client)
        await client.end()
        return client

    return asyncio.run(main())


async def nothing_more(_: Writes) -> None: ...


async def turns(scope: Scope, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await hello(scope, receive, send)


async def in_a_task(scope: Scope, receive: Any, send: Any) -> None:
    await asyncio.create_task(hello(scope, receive, send))


class Promise:
    """An answer that is no coroutine."""

    def __init__(self, scope: Scope, receive: Any, send: Any) -> None:
        self._answering = hello(scope, receive, send)

    def __await__(self) -> Generator[Any, None, None]:
        return self._answering.__await__()


def a_task(scope: Scope, receive: Any, send: Any) -> "asyncio.Task[None]":
    return asyncio.ensure_future(hello(scope, receive, send))


@pytest.mark.parametrize("app", [hello, turns, in_a_task, Promise, a_task])
def test_head_and_body_of_one_step_are_one_write(app: Any) -> None:
    client = tried(app, nothing_more)
    assert len(client.writes) == 1
    assert client.writes[0].endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("before", [0, 3], ids=["in the first step", "in a later one"])
@pytest.mark.parametrize("within", [False, True], ids=["itself", "in a task"])
def test_a_head_does_not_wait_for_an_application_that_waits(before: int, within: bool) -> None:
    proceed = asyncio.Event()

    async def answer(send: Any) -> None:
        for _ in range(before):
            await asyncio.sleep(0)
        await send(START)
        await proceed.wait()
        await send(BODY)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await (asyncio.create_task(answer(send)) if within else answer(send))

    async def then(client: Writes) -> None:
        assert len(client.writes) == 1
        assert client.writes[0].endswith(b"\r\n\r\n")
        proceed.set()
        await settle()
        assert client.writes[1:] == [b"hi"]

    tried(app, then)


@pytest.mark.parametrize("stops", [False, True], ids=["goes on", "ends"])
def test_an_application_that_is_cancelled_where_it_first_waits(stops: bool) -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            if stops:
                raise
            await asyncio.sleep(0)
            await hello(scope, receive, send)

    async def then(client: Writes) -> None:
        (task,) = client.state.tasks
        task.cancel()
        await settle()

    client = tried(app, then)
    assert told == ["cancelled"]
    status = b"HTTP/1.1 500" if stops else b"HTTP/1.1 200"
    assert client.wire.written.startswith(status)


@pytest.mark.parametrize("after", [0, 2], ids=["at once", "later"])
@pytest.mark.parametrize("begun", [False, True], ids=["before its answer", "after its head"])
def test_an_application_that_fails(after: int, begun: bool) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if begun:
            await send(START)
        for _ in range(after):
            await asyncio.sleep(0)
        raise LookupError("a bug")

    client = tried(app, nothing_more)
    # A head that has left can only be cut off; one that has not is replaced.
    expected = b"HTTP/1.1 200" if begun and after else b"HTTP/1.1 500"
    assert client.wire.written.startswith(expected)
    assert client.wire.closing


SEEN: ContextVar[str] = ContextVar("seen", default="")


def test_a_request_has_its_task_and_its_context() -> None:
    tasks: list[Any] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        assert SEEN.get() == ""
        SEEN.set("this request's")
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        assert tasks[-1] is asyncio.current_task()
        assert SEEN.get() == "this request's"
        await hello(scope, receive, send)

    async def then(client: Writes) -> None:
        client.send(REQUEST)
        await settle()

    client = tried(app, then)
    assert client.wire.written.count(b"HTTP/1.1 200") == 2
    assert len(set(tasks)) == 2

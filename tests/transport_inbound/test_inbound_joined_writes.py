"""What is written in one turn of the loop leaves as one piece, in order, and nothing is forgotten at the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxyless.transport.inbound.joined_writes import MAX_HELD, JoinedWrites

BIG = b"b" * (MAX_HELD + 1)


class Wire:
    """A transport that records."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def write_eof(self) -> None:
        self.said.append("eof")

    def close(self) -> None:
        self.closing = True
        self.said.append("close")

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: object) -> None:
        self.said.append("protocol")

    def get_write_buffer_size(self) -> int:
        return 0


def one(joined: JoinedWrites) -> None:
    joined.write(b"head ")
    joined.writelines([b"bo", b"dy"])
    assert joined.get_write_buffer_size() == 9


def big(joined: JoinedWrites) -> None:
    joined.write(b"head")
    joined.write(BIG)
    joined.write(b"tail")


def closed(joined: JoinedWrites) -> None:
    joined.write(b"last")
    joined.close()


def ended(joined: JoinedWrites) -> None:
    joined.write(b"last")
    joined.write_eof()


def upgraded(joined: JoinedWrites) -> None:
    joined.write(b"101")
    joined.set_protocol(asyncio.Protocol())


def aborted(joined: JoinedWrites) -> None:
    joined.write(b"never")
    joined.abort()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (one, [b"head body"]),
        (big, [b"head", BIG, b"tail"]),
        (closed, [b"last", "close"]),
        (ended, [b"last", "eof"]),
        (upgraded, [b"101", "protocol"]),
        (aborted, []),
    ],
)
def test_what_leaves(does: Callable[[JoinedWrites], None], said: list[Any]) -> None:
    async def scenario() -> None:
        wire = Wire()
        does(JoinedWrites(wire, asyncio.get_running_loop()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.said == said

    asyncio.run(scenario())


def test_turns_of_the_loop_are_not_joined() -> None:
    async def scenario() -> None:
        wire = Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())  # type: ignore[arg-type]
        for part in (b"a", b"b"):
            joined.write(part)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert wire.said == [b"a", b"b"]

    asyncio.run(scenario())

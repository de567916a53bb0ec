"""One request through each client, in the way its own documentation shows."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from benchmarks.requests.application import PIECE, pieces
from benchmarks.requests.raw import RawClient
from benchmarks.requests.work import Work

Send = Callable[[Work], Awaitable[None]]
SendBlocking = Callable[[Work], None]


def _body(work: Work) -> Any:
    """None, bytes, or a stream for what no application would hold in memory at once."""
    if work.method != "POST" or not work.size:
        return None
    return b"x" * work.size if work.size <= PIECE else _stream(work.size)


async def _stream(size: int) -> AsyncIterator[bytes]:
    for piece in pieces(size):
        yield piece


def _blocking_body(work: Work) -> bytes | Iterator[bytes] | None:
    if work.method != "POST" or not work.size:
        return None
    return b"x" * work.size if work.size <= PIECE else pieces(work.size)


def _streamed(work: Work) -> bool:
    return work.method == "GET" and (work.size or 0) > PIECE


def httpx_sender(client: Any, base: str, headers: dict[str, str]) -> Send:
    """For httpx and httpx2."""

    async def send(work: Work) -> None:
        url = base + work.path
        if _streamed(work):
            async with client.stream(work.method, url, headers=headers) as answer:
                async for _ in answer.aiter_raw():
                    pass
        else:
            answer = await client.request(work.method, url, headers=headers, content=_body(work))
        if answer.status_code != 200:
            raise RuntimeError(f"{url} answered {answer.status_code}: {dict(answer.headers)}")

    return send


def httpx_blocking_sender(client: Any, base: str, headers: dict[str, str]) -> SendBlocking:
    def send(work: Work) -> None:
        url = base + work.path
        if _streamed(work):
            with client.stream(work.method, url, headers=headers) as answer:
                for _ in answer.iter_raw():
                    pass
        else:
            answer = client.request(work.method, url, headers=headers, content=_blocking_body(work))
        if answer.status_code != 200:
            raise RuntimeError(f"{url} answered {answer.status_code}: {dict(answer.headers)}")

    return send


def aiohttp_sender(session: Any, base: str) -> Send:
    async def send(work: Work) -> None:
        async with session.request(work.method, base + work.path, data=_body(work)) as answer:
            if _streamed(work):
                async for _ in answer.content.iter_any():
                    pass
            else:
                await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{work.path} answered {answer.status}")

    return send


def raw_sender(host: str, port: int, context: ssl.SSLContext | None) -> Send:
    client = RawClient(host, port, context)

    async def send(work: Work) -> None:
        await client.request(work.method, work.path, _body(work) if work.method == "POST" and work.size else b"")

    return send

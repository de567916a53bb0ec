"""The floor: one asyncio protocol over httptools that does nothing but send a request and see its answer end."""

import asyncio
import ssl
from typing import Any

import httptools


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: Any = None
        self.answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed"))

    async def exchange(self, request: bytes) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self.answer


class RawClient:
    """Keeps as many connections as were ever needed at a time."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._address = (host, port)
        self._context = context
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str, body: bytes) -> None:
        connection = self._idle.pop() if self._idle else await self._connect()
        head = f"{method} {path} HTTP/1.1\r\nhost: hello\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        await connection.exchange(head + body)
        self._idle.append(connection)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        name = "localhost" if self._context else None
        _, connection = await loop.create_connection(
            _Connection, *self._address, ssl=self._context, server_hostname=name
        )
        return connection

"""The body of a response on its way to an async application."""

from typing import TYPE_CHECKING, Any, Self

from proxyless.transport.http1.errors import WireError
from proxyless.transport.httpx_adapter import trace as events

if TYPE_CHECKING:
    from proxyless.transport.completion import Completion
    from proxyless.transport.httpx_adapter.async_attempt import AsyncExchange
    from proxyless.transport.httpx_adapter.library import Library


class AsyncBody:
    """However it ends (read to the end, closed early, broken, forgotten), it ends the call and the connection's use."""

    def __init__(
        self,
        library: "Library",
        request: Any,
        exchange: "AsyncExchange",
        completion: "Completion",
    ) -> None:
        self._library = library
        self._request = request
        self._exchange = exchange
        self._completion = completion
        self._deadline = completion.call.deadline
        self._trace = exchange.trace
        self._begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        connection = self._exchange.connection
        if connection is None:
            raise StopAsyncIteration
        try:
            if self._trace is not None and not self._begun:
                self._begun = True
                await self._trace.start(events.CONTENT)
            chunk = connection.ready_chunk()
            if chunk is None:
                chunk = await connection.read_chunk(self._deadline, self._exchange.limits.read)
        except WireError as error:
            raised = self._library.error(error, self._request)
            self._end(raised)
            if self._trace is not None:
                await self._trace.failed(raised)
            raise raised from error
        except BaseException as error:  # a cancellation, or the application's own request body failed
            self._end(error)
            if self._trace is not None:
                await self._trace.failed(error)
            raise
        if chunk:
            self._completion.response_bytes += len(chunk)
            return chunk
        if self._trace is not None:
            await self._trace.done()
            await self.aclose()
        else:
            self._end(None)
        raise StopAsyncIteration

    def whole(self) -> bytes | None:
        """All of it, if it has arrived; then ``aclose`` it. None otherwise, and for who is told of each step."""
        connection = self._exchange.connection
        if connection is None or self._trace is not None or not connection.reader.complete:
            return None
        data = connection.ready_chunk() or b""
        self._completion.response_bytes += len(data)
        return data

    async def aclose(self) -> None:
        trace = self._trace if self._exchange.connection is not None else None
        if trace is not None:
            try:
                await trace.start(events.CLOSED)
            finally:
                self._end(None)
            await trace.done()
        else:
            self._end(None)

    def __del__(self) -> None:
        exchange: AsyncExchange | None = getattr(self, "_exchange", None)
        if exchange is None or exchange.connection is None:
            return
        connection, exchange.connection = exchange.connection, None
        # Forgotten by the application. This may be any thread, and within any lock; the connection belongs to its loop.
        if connection.loop.is_closed():
            self._completion.end()
        else:
            connection.loop.call_soon_threadsafe(self._completion.end)
            connection.loop.call_soon_threadsafe(connection.close)

    def _end(self, error: BaseException | None) -> None:
        connection = self._exchange.connection
        if connection is None:
            return
        self._completion.request_bytes = connection.request_bytes
        if error is None:
            self._exchange.release()
        else:
            self._exchange.abort()
        self._completion.end(error)

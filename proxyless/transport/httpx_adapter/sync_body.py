"""The body of a response on its way to a thread that waits for it."""

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from proxyless.transport import forgotten
from proxyless.transport.http1.errors import WireError
from proxyless.transport.httpx_adapter import trace as events

if TYPE_CHECKING:
    from proxyless.transport.completion import Completion
    from proxyless.transport.httpx_adapter.library import Library
    from proxyless.transport.httpx_adapter.sync_attempt import SyncExchange


class SyncBody:
    """However it ends (read to the end, closed early, broken, forgotten), it ends the call and the connection's use."""

    def __init__(
        self,
        library: "Library",
        request: Any,
        exchange: "SyncExchange",
        completion: "Completion",
    ) -> None:
        forgotten.prepare()
        self._library = library
        self._request = request
        self._exchange = exchange
        self._completion = completion
        self._deadline = completion.call.deadline
        self._trace = exchange.trace
        self._begun = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        connection = self._exchange.connection
        if connection is None:
            raise StopIteration
        try:
            if self._trace is not None and not self._begun:
                self._begun = True
                self._trace.start(events.CONTENT)
            chunk = connection.read_chunk(self._deadline, self._exchange.limits.read)
        except WireError as error:
            raised = self._library.error(error, self._request)
            self._end(raised)
            if self._trace is not None:
                self._trace.failed(raised)
            raise raised from error
        except BaseException as error:  # KeyboardInterrupt, for one
            self._end(error)
            if self._trace is not None:
                self._trace.failed(error)
            raise
        if chunk:
            self._completion.response_bytes += len(chunk)
            return chunk
        if self._trace is not None:
            self._trace.done()
            self.close()
        else:
            self._end(None)
        raise StopIteration

    def close(self) -> None:
        trace = self._trace if self._exchange.connection is not None else None
        if trace is not None:
            try:
                trace.start(events.CLOSED)
            finally:
                self._end(None)
            trace.done()
        else:
            self._end(None)

    def __del__(self) -> None:
        exchange: SyncExchange | None = getattr(self, "_exchange", None)
        if exchange is None or exchange.connection is None:
            return
        connection, exchange.connection = exchange.connection, None
        forgotten.end_later(partial(_end, connection, self._completion))

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


def _end(connection: Any, completion: "Completion") -> None:
    completion.end()
    connection.close()

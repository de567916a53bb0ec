"""One attempt: a connection, the request on it, the response's head."""

import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed
from proxyless.transport.http1.aio import AsyncConnection
from proxyless.transport.http1.errors import WireError
from proxyless.transport.http1.framing import framing_of
from proxyless.transport.http1.head import serialise
from proxyless.transport.httpx_adapter.convert import limits_of
from proxyless.transport.httpx_adapter.outcome import RETRIABLE, failed
from proxyless.transport.pool.aio import AsyncPool
from proxyless.transport.pool.connect import Timings
from proxyless.transport.pool.store import Bucket
from proxyless.transport.tls import upstream_tls

# httpcore's trace extension: told the events of a request by name.
Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


class AsyncExchange:
    """The I/O of one call, what its attempts share. connection: of the answered attempt, until it is released."""

    __slots__ = ("_bucket", "_content", "_limits", "_pool", "_request", "_scheme", "_trace", "connection", "touched")

    def __init__(self, pool: AsyncPool, request: Any, scheme: str, content: bytes | None) -> None:
        """request: of httpx or httpx2. content: its body if that is in memory."""
        self._pool = pool
        self._request = request
        self._scheme = scheme
        self._content = content
        self._limits = limits_of(request)
        self._trace: Trace | None = request.extensions.get("trace")
        self._bucket: Bucket[AsyncConnection] | None = None
        self.connection: AsyncConnection | None = None
        self.touched = False  # the application's stream was read from

    async def attempt(self, step: Attempt, record: AttemptRecord) -> Answered | Failed:
        """Raises WireError for what is the application's to see; whatever it raises, the connection is closed."""
        started = time.monotonic()
        deadline = None if step.timeout is None else started + step.timeout
        body: bytes | AsyncIterable[bytes] = self._request.stream if self._content is None else self._content
        framing = framing_of(step.headers, self._content)
        head, keep_alive = serialise(step.method, step.path, step.authority, step.headers, framing)
        connection: AsyncConnection | None = None
        sent = False
        try:
            connection = await self._connection(step, record, deadline)
            queued = time.monotonic()
            if self._trace is not None:
                await self._trace("http11.send_request_headers.started", {"request": None})
            connection.start(step.method, head, body, framing, keep_alive=keep_alive, write_timeout=self._limits.write)
            sent = True
            self.touched = self._content is None
            written = time.monotonic()
            record.send = written - queued
            if self._trace is not None:
                await self._trace("http11.send_request_headers.complete", {"return_value": None})
                await self._trace("http11.receive_response_headers.started", {"request": None})
            answer = await connection.read_head(deadline, self._limits.read)
            record.wait = time.monotonic() - written
            if self._trace is not None:
                value = (b"HTTP/" + answer.version.encode(), answer.status, b"", answer.headers)
                await self._trace("http11.receive_response_headers.complete", {"return_value": value})
        except RETRIABLE as error:
            if connection is not None:
                connection.close()
            assert isinstance(error, WireError)
            return failed(error, request_sent=sent, body_consumed=self.touched)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self.connection = connection
        return Answered(answer.status, answer.headers)

    def release(self) -> None:
        """Nobody wants the response of the last attempt: keep its connection if it is at its end, else close it."""
        connection, self.connection = self.connection, None
        if connection is not None and self._bucket is not None:
            self._pool.release(self._bucket, connection)

    def abort(self) -> None:
        """Close the connection of the last attempt, if it is still open."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    async def _connection(self, step: Attempt, record: AttemptRecord, deadline: float | None) -> AsyncConnection:
        endpoint, cluster, pool = step.endpoint, step.cluster, self._pool
        tls = upstream_tls(endpoint, self._scheme, self._request.url.host)
        self._bucket = bucket = pool.store.bucket(endpoint, tls, cluster)
        connection = pool.take(bucket)
        if connection is not None:
            record.reused = True
        else:
            record.reused = False
            timeout, timings = cluster.connect_timeout, Timings()
            if self._limits.connect is not None:
                timeout = min(timeout, self._limits.connect)
            if self._trace is not None:
                where = {"host": endpoint.address, "port": endpoint.port, "timeout": timeout}
                await self._trace("connection.connect_tcp.started", where)
            try:
                connection = await pool.connect(endpoint, tls, timings, timeout, deadline)
            finally:
                record.connect, record.tls = timings.connect, timings.tls
            if self._trace is not None:
                try:
                    await self._trace("connection.connect_tcp.complete", {"return_value": None})
                    if tls is not None:
                        await self._trace("connection.start_tls.complete", {"return_value": None})
                except BaseException:
                    connection.close()
                    raise
        record.peer = connection.peer
        return connection

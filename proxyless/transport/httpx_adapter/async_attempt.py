"""One attempt: a connection, the request on it, the response's head."""

import time
from collections.abc import AsyncIterable
from typing import Any

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed
from proxyless.model.cluster import Protocol
from proxyless.transport.hedging import Begun
from proxyless.transport.http1.errors import WireError
from proxyless.transport.http1.framing import expects_continue, framing_of
from proxyless.transport.http1.head import serialise
from proxyless.transport.http2.aio import AsyncStream
from proxyless.transport.http2.head import request_head
from proxyless.transport.httpx_adapter import trace as events
from proxyless.transport.httpx_adapter.convert import limits_of
from proxyless.transport.httpx_adapter.library import library_of
from proxyless.transport.httpx_adapter.network_stream import AsyncNetworkStream
from proxyless.transport.httpx_adapter.outcome import RETRIABLE, failed
from proxyless.transport.httpx_adapter.trace import AsyncTrace
from proxyless.transport.pool.aio import AsyncBucket, AsyncPool, AsyncUse
from proxyless.transport.pool.connect import Timings, Wait
from proxyless.transport.tls import upstream_tls


class AsyncExchange:
    """The I/O of one call, what its attempts share. connection: of the answered attempt, until it is released."""

    __slots__ = ("_bucket", "_content", "_pool", "_request", "_scheme", "connection", "limits", "touched", "trace")

    def __init__(self, pool: AsyncPool, request: Any, scheme: str, content: bytes | None) -> None:
        """request: of httpx or httpx2. content: its body if that is in memory."""
        self._pool = pool
        self._request = request
        self._scheme = scheme
        self._content = content
        self.limits = limits_of(request)
        tell = request.extensions.get("trace")
        self.trace = None if tell is None else AsyncTrace(tell, request)
        self._bucket: AsyncBucket | None = None
        self.connection: AsyncUse | None = None
        self.touched = False  # the application's stream was read from

    async def attempt(self, step: Attempt, record: AttemptRecord) -> Answered | Failed:
        """Raises WireError for what is the application's to see; whatever it raises, the connection is closed."""
        started = time.monotonic()
        deadline = None if step.timeout is None else started + step.timeout
        body: bytes | AsyncIterable[bytes] = self._request.stream if self._content is None else self._content
        framing = framing_of(step.headers, self._content)
        expect = framing.length != 0 and expects_continue(step.headers)
        trace = self.trace
        head, keep_alive, upgrade = serialise(step.method, step.path, step.authority, step.headers, framing)
        connection: AsyncUse | None = None
        sent = False
        try:
            connection = self._reuse(
                step, record, http1=upgrade != "" or step.method == "CONNECT"
            ) or await self._connect(record, started, deadline)
            queued = time.monotonic()
            if record.reused:
                record.queue = queued - started
            if isinstance(connection, AsyncStream):
                fields = request_head(
                    method=step.method,
                    scheme=self._scheme,
                    authority=step.authority,
                    path=step.path,
                    headers=step.headers,
                    framing=framing,
                )
                connection.start(step.method, fields, body, framing, write_timeout=self.limits.write)
                if trace is not None:
                    await trace.opened(connection.id, fresh=not record.reused)
            else:
                if trace is not None:
                    trace.on_http1()
                    await trace.start(events.HEADERS)
                connection.start(
                    step.method,
                    head,
                    body,
                    framing,
                    keep_alive=keep_alive,
                    write_timeout=self.limits.write,
                    upgrade=upgrade,
                    expect=expect,
                )
            sent = True
            self.touched = self._content is None
            written = time.monotonic()
            if trace is not None:
                await trace.sent()
            answer = await connection.read_head(deadline, self.limits.read)
            written = connection.sent_at or written
            record.send, record.wait = written - queued, time.monotonic() - written
            if trace is not None:
                await trace.done(events.received(answer))
        except RETRIABLE as error:
            if connection is not None:
                connection.close()
            assert isinstance(error, WireError)
            if trace is not None:
                await trace.failed(error)
            return failed(error, request_sent=sent, body_consumed=self.touched)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if trace is not None:
                await trace.failed(error)
            raise
        self.connection = connection
        return Answered(answer.status, answer.headers)

    def another(self, step: Attempt, record: AttemptRecord) -> Begun["AsyncExchange"]:
        """For an attempt beside others of the call."""
        made = AsyncExchange(self._pool, self._request, self._scheme, self._content)
        return made, made.attempt(step, record)

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

    def _reuse(self, step: Attempt, record: AttemptRecord, *, http1: bool) -> AsyncUse | None:
        """What can be used at once. No coroutine: most requests need nothing more."""
        endpoint = step.endpoint
        tls = endpoint.tls or upstream_tls(endpoint, self._scheme, self._request.url.host)
        self._bucket = self._pool.store.bucket(endpoint, tls, step.cluster, Protocol.HTTP1 if http1 else None)
        connection = self._pool.take(self._bucket)
        if connection is not None:
            record.reused, record.peer = True, connection.peer
        return connection

    async def _connect(self, record: AttemptRecord, started: float, deadline: float | None) -> AsyncUse:
        """Nothing can be used at once: make a connection, or wait for one."""
        bucket = self._bucket
        assert bucket is not None
        record.reused = False
        record.queue = time.monotonic() - started
        endpoint, timings, trace = bucket.endpoint, Timings(), self.trace
        timeout = bucket.cluster.connect_timeout
        if self.limits.connect is not None:
            timeout = min(timeout, self.limits.connect)
        if trace is not None:
            timings.on_tcp = trace.tcp_connected
            await trace.start(events.CONNECT, events.where(endpoint.address, endpoint.port, timeout))
        try:
            connection = await self._pool.acquire(bucket, timings, Wait(timeout, deadline, self.limits.pool))
            record.reused = timings.reused
        finally:
            record.resolve, record.connect, record.tls = timings.resolve, timings.connect, timings.tls
        if trace is not None and (bucket.tls is not None or timings.reused):
            try:
                await trace.done(AsyncNetworkStream(library_of(self._request).name, connection))
            except BaseException:
                connection.close()
                raise
        record.peer = connection.peer
        return connection

"""One attempt: a connection, the request on it, the response's head."""

import time
from collections.abc import Iterable
from typing import Any

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Answered, Attempt, Failed
from proxyless.model.cluster import Protocol
from proxyless.transport.http1.framing import expects_continue, framing_of
from proxyless.transport.http1.head import serialise
from proxyless.transport.http2.blocking import BlockingStream
from proxyless.transport.http2.head import request_head
from proxyless.transport.httpx_adapter import trace as events
from proxyless.transport.httpx_adapter.convert import limits_of
from proxyless.transport.httpx_adapter.library import library_of
from proxyless.transport.httpx_adapter.network_stream import NetworkStream
from proxyless.transport.httpx_adapter.outcome import RETRIABLE, failed
from proxyless.transport.httpx_adapter.trace import SyncTrace
from proxyless.transport.pool.blocking import BlockingBucket, BlockingPool, BlockingUse
from proxyless.transport.pool.connect import Timings, Wait
from proxyless.transport.tls import upstream_tls


class SyncExchange:
    """The I/O of one call, what its attempts share. connection: of the last attempt, until it is released or broken."""

    __slots__ = (
        "_bucket", "_content", "_pool", "_request", "_scheme", "_written", "connection", "limits", "touched", "trace",
    )  # fmt: skip

    def __init__(self, pool: BlockingPool, request: Any, scheme: str, content: bytes | None) -> None:
        """request: of httpx or httpx2. content: its body if that is in memory."""
        self._pool = pool
        self._request = request
        self._scheme = scheme
        self._content = content
        self.limits = limits_of(request)
        tell = request.extensions.get("trace")
        self.trace = None if tell is None else SyncTrace(tell, request)
        self._bucket: BlockingBucket | None = None
        self.connection: BlockingUse | None = None
        self.touched = False  # the application's stream was read from

    def attempt(self, step: Attempt, record: AttemptRecord) -> Answered | Failed:
        """Raises WireError for what is the application's to see; whatever it raises, the connection is closed."""
        started = time.monotonic()
        deadline = None if step.timeout is None else started + step.timeout
        try:
            self._send(step, record, started, deadline)
            return self._answer(record, deadline)
        except BaseException as error:
            return self._broken(error)

    def _send(self, step: Attempt, record: AttemptRecord, started: float, deadline: float | None) -> None:
        body: bytes | Iterable[bytes] = self._request.stream if self._content is None else self._content
        framing = framing_of(step.headers, self._content)
        expect = framing.length != 0 and expects_continue(step.headers)
        trace = self.trace
        head, keep_alive, upgrade = serialise(step.method, step.path, step.authority, step.headers, framing)
        connection = self.connection = self._connection(
            step, record, started, deadline, http1=upgrade != "" or step.method == "CONNECT"
        )
        queued = time.monotonic()
        if record.reused:
            record.queue = queued - started
        self.touched = self._content is None
        if isinstance(connection, BlockingStream):
            fields = request_head(
                method=step.method,
                scheme=self._scheme,
                authority=step.authority,
                path=step.path,
                headers=step.headers,
                framing=framing,
            )
            connection.start(step.method, fields, body, framing, write_timeout=self.limits.write, deadline=deadline)
            if trace is not None:
                trace.opened(connection.id, fresh=not record.reused)
        else:
            if trace is not None:
                trace.on_http1()
                trace.start(events.HEADERS)
            connection.start(
                step.method,
                head,
                body,
                framing,
                keep_alive=keep_alive,
                write_timeout=self.limits.write,
                deadline=deadline,
                upgrade=upgrade,
                expect=expect,
            )
        self._written = time.monotonic()
        record.send = self._written - queued
        if trace is not None:
            trace.sent()

    def _answer(self, record: AttemptRecord, deadline: float | None) -> Answered:
        connection = self.connection
        assert connection is not None
        answer = connection.read_head(deadline, self.limits.read)
        record.wait = time.monotonic() - self._written
        if self.trace is not None:
            self.trace.done(events.received(answer))
        return Answered(answer.status, answer.headers)

    def _broken(self, error: BaseException) -> Failed:
        """For the engine; what is not its business is raised again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        if self.trace is not None:
            self.trace.failed(error)
        if not isinstance(error, RETRIABLE):
            raise error
        return failed(error, request_sent=connection is not None and connection.sent, body_consumed=self.touched)

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

    def _connection(
        self, step: Attempt, record: AttemptRecord, started: float, deadline: float | None, *, http1: bool
    ) -> BlockingUse:
        endpoint, cluster, pool = step.endpoint, step.cluster, self._pool
        tls = endpoint.tls or upstream_tls(endpoint, self._scheme, self._request.url.host)
        bucket, connection = pool.checkout(endpoint, tls, cluster, Protocol.HTTP1 if http1 else None)
        self._bucket = bucket
        if connection is not None:
            record.reused = True
        else:
            record.reused = False
            record.queue = time.monotonic() - started
            timeout, timings, trace = cluster.connect_timeout, Timings(), self.trace
            if self.limits.connect is not None:
                timeout = min(timeout, self.limits.connect)
            if trace is not None:
                timings.on_tcp = trace.tcp_connected
                trace.start(events.CONNECT, events.where(endpoint.address, endpoint.port, timeout))
            try:
                connection = pool.acquire(bucket, timings, Wait(timeout, deadline, self.limits.pool))
                record.reused = timings.reused
            finally:
                record.resolve, record.connect, record.tls = timings.resolve, timings.connect, timings.tls
            if trace is not None and (tls is not None or timings.reused):
                try:
                    trace.done(NetworkStream(library_of(self._request).name, connection))
                except BaseException:
                    connection.close()
                    raise
        record.peer = connection.peer
        return connection

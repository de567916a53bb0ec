"""One request being observed, from its first byte to its last: what ``begin_client`` and ``begin_server`` return."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from proxyless.engine.request import Request
from proxyless.engine.steps import Flag
from proxyless.model.load_report import LoadReport
from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry.context import RequestContext
from proxyless.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from proxyless.engine.record import CallRecord
    from proxyless.telemetry.rpc_tracing import RpcSpan
    from proxyless.telemetry.telemetry import Telemetry
    from proxyless.telemetry.tracing import Span


# Named tuples: a frozen dataclass costs a call per field, and each request makes several of these.
class Ending(NamedTuple):
    """How a request ended. The fields are documented at the ``end`` methods that fill them."""

    status: int
    flags: tuple[Flag, ...] = ()
    request_bytes: int = 0
    response_bytes: int = 0
    reason: str = ""
    error: str = ""
    grpc_status: str = ""


class Connection(NamedTuple):
    """What a request came in on. peer: the authenticated caller; principal: the same as text, "" without one.

    remote, local: ``host:port`` of both ends.
    """

    peer: SpiffeId | None = None
    tls: bool = False
    remote: str = ""
    local: str = ""
    principal: str = ""


class ClientObservation:
    """A call that this workload makes. Call ``end`` once the response body has ended; later calls do nothing."""

    __slots__ = ("_ended", "_telemetry", "request", "request_id", "rpc", "span", "started", "trace")

    def __init__(
        self,
        telemetry: Telemetry,
        request: Request,
        trace: TraceContext,
        request_id: str,
        span: Span | RpcSpan | None,
    ) -> None:
        self._telemetry = telemetry
        self._ended = False
        self.rpc = False
        self.request = request
        self.trace = trace
        self.request_id = request_id
        self.span = span
        self.started = time.monotonic()

    def watch(self) -> bool:
        """It is an application's gRPC call. Whether somebody wants to hear of each of its attempts."""
        self.rpc = True
        return self.span is not None or self._telemetry.grpc is not None

    def attempt(self, number: int, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """An attempt of a gRPC call begins, with these headers; it gets those that are returned."""
        return self._telemetry.attempt(self, number, headers)

    def attempts_over(self, record: CallRecord) -> None:
        """None of these attempts was the answer, and a call of the engine's with its own attempts follows."""
        self._telemetry.attempts_over(self, record)

    def end(
        self,
        record: CallRecord,
        *,
        request_bytes: int = 0,
        response_bytes: int = 0,
        error: str = "",
        grpc_status: str = "",
    ) -> None:
        """request_bytes, response_bytes: body sizes. error: why the application got an exception instead of a response.

        grpc_status: the number from the trailers, "" when the call is not gRPC.
        """
        if not self._ended:
            self._ended = True
            ending = Ending(
                record.status or 0,
                tuple(record.flags),
                request_bytes,
                response_bytes,
                record.reason,
                error,
                grpc_status,
            )
            self._telemetry.end_client(self, record, ending)


class ServerObservation:
    """A request that this workload serves. ``context`` is what calls made from it continue.

    method: of a gRPC server, for gRPC's own metrics.
    """

    __slots__ = ("_ended", "_telemetry", "connection", "context", "head", "method", "span", "started")

    def __init__(  # noqa: PLR0917  positions are cheaper than names, for every request
        self,
        telemetry: Telemetry,
        head: Request,
        connection: Connection,
        context: RequestContext,
        span: Span | RpcSpan | None,
        method: str = "",
    ) -> None:
        self._telemetry = telemetry
        self._ended = False
        self.head = head
        self.method = method
        self.connection = connection
        self.context = context
        self.span = span
        self.started = time.monotonic()

    def load(self) -> LoadReport | None:
        """What the answer tells the caller of this server's load; None, as it mostly is, for nothing."""
        recorded, recorder = self.context.metrics, self._telemetry.server_metrics
        return None if recorded is None and not recorder.with_calls else recorder.of_call(recorded)

    def end(  # noqa: PLR0917  positions are cheaper than names, for every request
        self,
        status: int,
        flags: tuple[Flag, ...] = (),
        request_bytes: int = 0,
        response_bytes: int = 0,
        reason: str = "",
        error: str = "",
        grpc_status: str = "",
    ) -> None:
        """status: 0 when the caller went before any response. request_bytes, response_bytes: body sizes.

        reason: why the mesh itself answered, "" when the application did. error: the application's exception, by name.
        """
        if not self._ended:
            self._ended = True
            self._telemetry.end_server(self, status, flags, request_bytes, response_bytes, reason, error, grpc_status)

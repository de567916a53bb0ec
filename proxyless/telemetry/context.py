"""What a request that is being handled carries into the calls made from it, without a line of user code.

A sidecar cannot know which outgoing call belongs to which incoming request; a ``ContextVar`` can. It follows
``await``, tasks and ``asyncio.to_thread``; the WSGI side sets it in the worker's thread.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from proxyless.telemetry.load_recorders import CallMetricRecorder


class RequestContext:
    """trace: the server's span of this request. request_id: ``x-request-id``. deadline: monotonic seconds after which
    the caller no longer waits, None for no limit. peer: the authenticated caller, None over plaintext. metrics: what
    the application recorded of its load, None while it recorded nothing.
    """

    __slots__ = ("deadline", "metrics", "peer", "request_id", "trace")

    def __init__(
        self, trace: TraceContext, request_id: str, deadline: float | None = None, peer: SpiffeId | None = None
    ) -> None:
        self.trace = trace
        self.request_id = request_id
        self.deadline = deadline
        self.peer = peer
        self.metrics: CallMetricRecorder | None = None


current: ContextVar[RequestContext | None] = ContextVar("proxyless_request_context", default=None)

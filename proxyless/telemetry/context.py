"""What a request that is being handled carries into the calls made from it, without a line of user code.

A sidecar cannot know which outgoing call belongs to which incoming request; a ``ContextVar`` can. It follows
``await``, tasks and ``asyncio.to_thread``; the WSGI side sets it in the worker's thread.
"""

from contextvars import ContextVar

from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry.trace_context import TraceContext


class RequestContext:
    """trace: the server's span of this request. request_id: ``x-request-id``. deadline: monotonic seconds after which
    the caller no longer waits, None for no limit. peer: the authenticated caller, None over plaintext.
    """

    __slots__ = ("deadline", "peer", "request_id", "trace")

    def __init__(
        self, trace: TraceContext, request_id: str, deadline: float | None = None, peer: SpiffeId | None = None
    ) -> None:
        self.trace = trace
        self.request_id = request_id
        self.deadline = deadline
        self.peer = peer


current: ContextVar[RequestContext | None] = ContextVar("proxyless_request_context", default=None)

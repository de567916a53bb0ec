"""What a failure on the wire means for the engine."""

from proxyless.engine.steps import Failed, FailureKind
from proxyless.transport.http1.errors import (
    ConnectFailed,
    ConnectionEnded,
    DeadlineExceeded,
    PeerRefusedTls,
    PoolOverflow,
    RemoteProtocolError,
    StreamAborted,
    StreamRefused,
    WireError,
)

# The engine's business. Anything else is the application's: its own timeouts, its own mistakes.
RETRIABLE = (
    ConnectFailed,
    ConnectionEnded,
    DeadlineExceeded,
    PoolOverflow,
    RemoteProtocolError,
    StreamAborted,
    StreamRefused,
)


def failed(error: WireError, *, request_sent: bool, body_consumed: bool) -> Failed:
    """request_sent: some of the request reached the socket. body_consumed: the application's stream was read from."""
    if isinstance(error, PeerRefusedTls):
        # The peer never saw the request: its TLS ended before it would have read it.
        return Failed(FailureKind.CONNECT, str(error), request_sent=False, body_consumed=body_consumed)
    if isinstance(error, ConnectFailed):
        kind = FailureKind.CONNECT
    elif isinstance(error, DeadlineExceeded):
        kind = FailureKind.TIMEOUT
    elif isinstance(error, StreamRefused):
        kind = FailureKind.REFUSED_STREAM
    elif isinstance(error, PoolOverflow):
        kind = FailureKind.OVERFLOW
    else:
        kind = FailureKind.RESET
    return Failed(kind, str(error), request_sent=request_sent, body_consumed=body_consumed)


def plain_failed(error: Exception) -> Failed:
    """For an exception of the plain library, by which a passthrough call ended."""
    kinds = {base.__name__ for base in type(error).__mro__}
    detail = f"{type(error).__name__}: {error}"
    if kinds & {"ConnectError", "ConnectTimeout"}:
        return Failed(FailureKind.CONNECT, detail)
    kind = FailureKind.TIMEOUT if "TimeoutException" in kinds else FailureKind.RESET
    return Failed(kind, detail, request_sent=True, body_consumed=True)

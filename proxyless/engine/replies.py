"""The mesh's own answers, in Envoy's words. Source: Envoy's router, fault filter and sendLocalReply."""

import re
from urllib.parse import quote

from proxyless.engine.request import Request
from proxyless.engine.steps import Failed, FailureKind, Flag, Respond

Headers = tuple[tuple[str, str], ...]

NO_HEALTHY_UPSTREAM = b"no healthy upstream"
FAULT_ABORT = b"fault filter abort"
TIMED_OUT = b"upstream request timeout"
DROPPED = b"drop overload"
DROPPED_ALL = b"unconditional drop overload"

_TEXT: Headers = (("content-type", "text/plain"),)
OVERLOADED: Headers = (("x-envoy-overloaded", "true"),)
_RESET_REASON = {
    FailureKind.CONNECT: "remote connection failure",
    FailureKind.RESET: "connection termination",
    FailureKind.REFUSED_STREAM: "remote refused stream reset",
    FailureKind.OVERFLOW: "overflow",
}
FAILURE_FLAG = {
    FailureKind.CONNECT: Flag.UPSTREAM_CONNECTION_FAILURE,
    FailureKind.RESET: Flag.UPSTREAM_CONNECTION_TERMINATION,
    FailureKind.REFUSED_STREAM: Flag.UPSTREAM_REMOTE_RESET,
    FailureKind.TIMEOUT: Flag.UPSTREAM_REQUEST_TIMEOUT,
    FailureKind.OVERFLOW: Flag.UPSTREAM_OVERFLOW,
}
# Envoy's Grpc::Utility::httpToGrpcStatus.
_GRPC_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
# Envoy names at most so much of a path.
_LONGEST_PATH = 256
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


def printable(text: str) -> str:
    """Text that is safe as a header's value: printable ASCII on one line, at most 300 characters."""
    return _NOT_PRINTABLE.sub(" ", text)[:300].strip()


def is_grpc(request: Request) -> bool:
    """Envoy's Grpc::Common::isGrpcRequestHeaders: ``application/grpc`` or ``application/grpc+...``."""
    content_type = request.header("content-type")
    return content_type is not None and (
        content_type == "application/grpc" or content_type.startswith("application/grpc+")
    )


def grpc_status(http_status: int) -> int:
    """The gRPC status that an HTTP status stands for."""
    return _GRPC_STATUS.get(http_status, 2)


def original_url(request: Request) -> str:
    """What a 401 names as its realm: Envoy's buildOriginalUri, safe within quotes."""
    url = f"{request.scheme}://{request.authority}{request.path[:_LONGEST_PATH]}"
    return url.replace("\\", "%5C").replace('"', "%22")


def respond(
    request: Request,
    status: int,
    body: bytes,
    reason: str,
    flags: tuple[Flag, ...],
    *,
    headers: Headers = (),
    grpc_status: int | None = None,
) -> Respond:
    """An answer with a text body; to a gRPC request a trailers-only response, as Envoy's sendLocalReply makes it."""
    if is_grpc(request):
        code = _GRPC_STATUS.get(status, 2) if grpc_status is None else grpc_status
        grpc: Headers = (("content-type", "application/grpc"), ("grpc-status", str(code)))
        if body:
            grpc += (("grpc-message", quote(body, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")),)
        return Respond(200, headers + grpc, b"", printable(reason), flags)
    return Respond(status, headers + (_TEXT if body else ()), body, printable(reason), flags)


def failure_body(failed: Failed, retried: bool) -> bytes:
    """The text Envoy answers with when no attempt brought a response head."""
    again = "retried and the latest " if retried else ""
    cause = _RESET_REASON.get(failed.kind, "local reset")
    return f"upstream connect error or disconnect/reset before headers. {again}reset reason: {cause}".encode()

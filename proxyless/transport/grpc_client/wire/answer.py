"""What a server's header lists mean (PROTOCOL-HTTP2.md, "Responses"; http-grpc-status-mapping.md)."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import grpc

from proxyless.transport.grpc_client.metadata import TRANSPORTS, Metadata, metadata
from proxyless.transport.grpc_client.status import CODES, Status
from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.grpc_wire.header_blocks import Lines

_HTTP = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
_RESET: dict[int, grpc.StatusCode] = {
    Code.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    Code.CANCEL: grpc.StatusCode.CANCELLED,
    Code.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}
NO_STATUS = Status(grpc.StatusCode.UNKNOWN, "No status received")
# Lists that are remembered, and bytes of one: a server chooses them.
_MOST_KEPT, _LONGEST_KEPT = 256, 1024
_Meaning = TypeVar("_Meaning")


def _remembered(meaning: Callable[[Lines], _Meaning]) -> Callable[[Lines], _Meaning]:
    """Most answers begin and end as others did. The size of a list is asked for only where it is new."""
    kept: dict[Lines, _Meaning] = {}

    def found(lines: Lines) -> _Meaning:
        if (known := kept.get(lines)) is not None:
            return known
        made = meaning(lines)
        if sum([len(name) + len(value) for name, value in lines]) <= _LONGEST_KEPT:
            if len(kept) >= _MOST_KEPT:
                kept.clear()
            kept[lines] = made
        return made

    return found


class Head(NamedTuple):
    """Of a response. lines: what the engine sees; initial: what the application does.

    problem: why it is none of gRPC, None where it is.
    """

    problem: Status | None
    encoding: str
    lines: tuple[tuple[str, str], ...]
    initial: Metadata


@_remembered
def head(lines: Lines) -> Head:
    http, content, encoding, status = b"", b"", "identity", False
    for name, value in lines:
        if name == b":status":
            http = value
        elif name == b"content-type":
            content = value
        elif name == b"grpc-encoding":
            encoding = _text(value)
        elif name == b"grpc-status":
            status = True
    problem = None
    if not status:
        if http != b"200":
            problem = _of_http(http)
        elif content and not content.startswith(b"application/grpc"):
            problem = Status(grpc.StatusCode.UNKNOWN, f"invalid content-type: {_text(content)[:100]}")
    found = _ours(lines)
    return Head(problem, encoding, found, metadata(found))


@_remembered
def status_of(lines: Lines) -> Status:
    """Of trailers, or of a response that is nothing else."""
    number, message, http, content = None, "", b"200", b""
    for name, value in lines:
        if name == b"grpc-status":
            number = value
        elif name == b"grpc-message":
            message = unquote(_text(value))
        elif name == b":status":
            http = value
        elif name == b"content-type":
            content = value
    if number is None:
        if http != b"200":
            return _of_http(http)
        return head(lines).problem or NO_STATUS if content else NO_STATUS
    code = CODES.get(int(number), None) if number.isdigit() and len(number) < 4 else None
    return Status(code or grpc.StatusCode.UNKNOWN, message, metadata(_ours(lines)))


def of_reset(code: int, why: str) -> Status:
    """PROTOCOL-HTTP2.md, "Errors"."""
    return Status(_RESET.get(code, grpc.StatusCode.INTERNAL), f"RST_STREAM with error code {code}: {why}")


def _of_http(status: bytes) -> Status:
    number = int(status) if status.isdigit() and len(status) < 4 else 0
    return Status(
        _HTTP.get(number, grpc.StatusCode.UNKNOWN), f"Received http2 header with status: {_text(status)[:20]}"
    )


def _ours(lines: Lines) -> tuple[tuple[str, str], ...]:
    """Without what is the transport's."""
    found = [(name.decode("latin-1"), _text(value)) for name, value in lines if not name.startswith(b":")]
    return tuple(line for line in found if line[0] not in TRANSPORTS)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")

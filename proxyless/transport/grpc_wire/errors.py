"""How an HTTP/2 connection or one of its streams goes wrong (RFC 9113 sections 5.4 and 7)."""

from enum import IntEnum

from proxyless.model.errors import ProxylessError


class Code(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def name_of(code: int) -> str:
    return Code(code).name if code in Code._value2member_map_ else f"error code {code}"


class ConnectionFault(ProxylessError):
    """The peer broke the protocol: the connection ends with this code. The text is ours, never the peer's."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class HeadTooLarge(ProxylessError):
    """A header list of more bytes than we take; the connection itself is well."""


class HeadMalformed(ProxylessError):
    """A header list with a line that HTTP/2 does not allow (RFC 9113 section 8.2); the connection itself is well."""

"""How an exchange can end badly. The adapters make outcomes for the engine of these, or httpx's exceptions."""

from proxyless.model.errors import ProxylessError


class WireError(ProxylessError):
    """An exchange could not be completed; its connection is not usable any more."""


class ConnectFailed(WireError):
    """No connection: refused, unreachable, too slow, or the peer's TLS or identity was refused."""


class LocalProtocolError(WireError):
    """What we were asked to send is not valid HTTP; nothing of it was sent, or the connection was given up."""


class UnsupportedProtocol(WireError):
    """The URL's scheme is not one of HTTP; nothing was sent."""


class RemoteProtocolError(WireError):
    """The peer sent something that is not valid HTTP, or more than we read."""


class ConnectionEnded(WireError):
    """The connection ended before the response did. clean: by an orderly close (EOF), not by a reset."""

    def __init__(self, message: str, *, clean: bool) -> None:
        super().__init__(message)
        self.clean = clean


class PeerRefusedTls(ConnectionEnded):
    """The peer rejected our certificate after our side of the TLS 1.3 handshake; it has not read the request."""


class StreamRefused(WireError):
    """The HTTP/2 peer has not processed the request and never will (REFUSED_STREAM, GOAWAY): it may be sent again."""


class StreamAborted(WireError):
    """The HTTP/2 peer reset the request's stream; it may have processed the request."""


class PoolOverflow(WireError):
    """More requests wait for a connection than the cluster's limit allows."""


class PoolTimedOut(WireError):
    """The application's own limit for waiting until a connection is free."""


class DeadlineExceeded(WireError):
    """The time that the engine gave this attempt or call ran out."""


class ReadTimedOut(WireError):
    """The application's own read timeout."""


class WriteTimedOut(WireError):
    """The application's own write timeout."""

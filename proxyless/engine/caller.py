"""Who asks: what a server of ours knows of the connection that a request came on."""

from dataclasses import dataclass

from proxyless.model.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of the connection that a request came on.

    tls: None when the server that accepted it does not say. peer: proved in a handshake that we verified, else None.
    local, remote: ``host:port``, "" when the server does not say. server_name: SNI in lower
    case, "" when none was asked for, None when not known.
    """

    tls: bool | None = None
    peer: SpiffeId | None = None
    local: str = ""
    remote: str = ""
    server_name: str | None = None

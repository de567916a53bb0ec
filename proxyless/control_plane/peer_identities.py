"""Who is on the other end of a connection that the TLS front passed on to the gRPC server."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from proxyless.identity.verify import PeerCertificate
from proxyless.model.spiffe import SpiffeId

# How gRPC writes the address of a loopback peer: ServicerContext.peer().
_LOOPBACK = "ipv4:127.0.0.1:"


@dataclass(frozen=True, slots=True)
class Caller:
    """certificate: the verified one, None if none was presented. address: the IP address it connects from."""

    certificate: PeerCertificate | None
    address: str


class PeerIdentities:
    """The callers behind the TLS front, by the local port of the front's connection to the gRPC server.

    Belongs to one event loop. Ask when an RPC begins: the answer goes away with the connection.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._callers: dict[int, Caller] = {}

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._callers)

    def register(self, port: int, caller: Caller) -> None:
        """To be called before the first byte is passed on."""
        self._callers[port] = caller

    def unregister(self, port: int) -> None:
        """To be called before the socket is closed: once it is, the port may become somebody else's."""
        self._callers.pop(port, None)

    def lookup(self, peer: str) -> SpiffeId | None:
        """The verified SPIFFE ID of ``context.peer()``; None for a plaintext or anonymous caller.

        None as well once the certificate has expired, however long the connection lives.
        """
        caller = self.caller(peer)
        if caller is None or caller.certificate is None or self._clock() >= caller.certificate.not_after:
            return None
        return caller.certificate.spiffe_id

    def ends_in(self, peer: str) -> float | None:
        """Seconds until the certificate of ``context.peer()`` expires, None if it presented none."""
        caller = self.caller(peer)
        if caller is None or caller.certificate is None:
            return None
        return max(0.0, caller.certificate.not_after - self._clock())

    def caller(self, peer: str) -> Caller | None:
        """What is known of ``context.peer()``; None unless it came through the TLS front."""
        port = peer.removeprefix(_LOOPBACK)
        if port == peer or not port.isascii() or not port.isdigit():
            return None
        return self._callers.get(int(port))

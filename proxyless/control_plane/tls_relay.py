"""One connection through the TLS front: its TLS side, and its gRPC side."""

import asyncio
import functools
import logging
import ssl
from dataclasses import dataclass, field

from proxyless.control_plane.peer_identities import Caller, PeerIdentities
from proxyless.identity.control_plane import BUNDLE_ALPN, GRPC_ALPN
from proxyless.identity.source import IdentitySource
from proxyless.identity.verify import peer_certificate
from proxyless.model.errors import IdentityError
from proxyless.relay.relay import Inner, Outer

logger = logging.getLogger("proxyless.tls_front")

# Without a certificate all there is to do is to get one, which takes a moment: of those who stay the oldest goes.
MAX_ANONYMOUS = 256


@dataclass(frozen=True, slots=True)
class Inside:
    """What all connections of a front share. port: the gRPC server's, on 127.0.0.1. open: the connections there are.

    anonymous: those of them without a certificate, oldest first.
    """

    source: IdentitySource
    peers: PeerIdentities
    port: int
    open: "set[Downstream]" = field(default_factory=set)
    anonymous: "dict[Downstream, None]" = field(default_factory=dict)


class Downstream(Outer):
    """The TLS side of one connection."""

    def __init__(self, inside: Inside) -> None:
        super().__init__()
        self._inside = inside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._inside.open.add(self)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        address = (transport.get_extra_info("peername") or ("",))[0]  # empty: the peer is gone already
        alpn = tls.selected_alpn_protocol()
        try:
            certificate = tls.getpeercert(True)
            found = peer_certificate(certificate) if certificate else None
            expected = self._inside.source.bundle
            if found is not None and (expected is None or found.spiffe_id.trust_domain != expected.trust_domain):
                raise IdentityError(f"{found.spiffe_id} is of another trust domain")
        except IdentityError as error:
            logger.warning("refused a connection from %s: %s", address, error)
            self.transport.abort()
            return
        if found is None:
            if len(self._inside.anonymous) >= MAX_ANONYMOUS:
                oldest = next(iter(self._inside.anonymous))
                del self._inside.anonymous[oldest]
                oldest.end()
            self._inside.anonymous[self] = None
        if alpn == BUNDLE_ALPN and self._inside.source.bundle is not None:
            self.transport.write(self._inside.source.bundle.roots_pem)
            self.transport.close()
        elif alpn == GRPC_ALPN and address:
            self.relay(functools.partial(self._upstream, Caller(found, address)))
        else:
            self.transport.abort()

    async def _upstream(self, caller: Caller) -> "Upstream":
        _, upstream = await asyncio.get_running_loop().create_connection(
            lambda: Upstream(self._inside.peers, caller, self.transport), "127.0.0.1", self._inside.port
        )
        return upstream

    def unreachable(self, error: OSError) -> None:
        logger.error("cannot reach the gRPC server: %s", error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inside.open.discard(self)
        self._inside.anonymous.pop(self, None)
        super().connection_lost(exc)


class Upstream(Inner):
    """The connection to the gRPC server that belongs to one ``Downstream``."""

    def __init__(self, peers: PeerIdentities, caller: Caller, downstream: asyncio.Transport) -> None:
        super().__init__(downstream)
        self._peers = peers
        self._caller = caller
        self._port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._port = transport.get_extra_info("sockname")[1]
        self._peers.register(self._port, self._caller)

    def end(self) -> None:
        self._peers.unregister(self._port)
        super().end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.unregister(self._port)  # asyncio closes the socket after this call
        super().connection_lost(exc)

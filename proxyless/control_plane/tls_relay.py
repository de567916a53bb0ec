"""One connection through the TLS front: its TLS side, its gRPC side, and bytes between them with back-pressure."""

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from typing import cast

from proxyless.control_plane.peer_identities import Caller, PeerIdentities
from proxyless.identity.control_plane import BUNDLE_ALPN, GRPC_ALPN
from proxyless.identity.source import IdentitySource
from proxyless.identity.verify import peer_certificate
from proxyless.model.errors import IdentityError

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


class Downstream(asyncio.Protocol):
    """The TLS side of one connection."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._transport: asyncio.Transport | None = None
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
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
            self._transport.abort()
            return
        if found is None:
            if len(self._inside.anonymous) >= MAX_ANONYMOUS:
                oldest = next(iter(self._inside.anonymous))
                del self._inside.anonymous[oldest]
                oldest.end()
            self._inside.anonymous[self] = None
        if alpn == BUNDLE_ALPN and self._inside.source.bundle is not None:
            self._transport.write(self._inside.source.bundle.roots_pem)
            self._transport.close()
        elif alpn == GRPC_ALPN and address:
            self._transport.pause_reading()
            self._connecting = asyncio.create_task(self._connect(Caller(found, address)))
        else:
            self._transport.abort()

    async def _connect(self, caller: Caller) -> None:
        transport = self._transport
        assert transport is not None
        try:
            _, self._upstream = await asyncio.get_running_loop().create_connection(
                lambda: Upstream(self._inside.peers, caller, transport), "127.0.0.1", self._inside.port
            )
        except OSError as error:
            logger.error("cannot reach the gRPC server: %s", error)
            transport.abort()
        else:
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._upstream is not None:
            self._upstream.transport.write(data)

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inside.open.discard(self)
        self._inside.anonymous.pop(self, None)
        self.closed.set()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.end()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Upstream(asyncio.Protocol):
    """The connection to the gRPC server that belongs to one ``Downstream``."""

    def __init__(self, peers: PeerIdentities, caller: Caller, downstream: asyncio.Transport) -> None:
        self._peers = peers
        self._caller = caller
        self._downstream = downstream
        self._port = 0
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._port = transport.get_extra_info("sockname")[1]
        self._peers.register(self._port, self._caller)

    def data_received(self, data: bytes) -> None:
        self._downstream.write(data)

    def pause_writing(self) -> None:
        self._downstream.pause_reading()

    def resume_writing(self) -> None:
        self._downstream.resume_reading()

    def end(self) -> None:
        self._peers.unregister(self._port)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.unregister(self._port)  # asyncio closes the socket after this call
        self._downstream.close()

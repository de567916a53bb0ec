"""TLS in front of the gRPC server, which in Python can only demand client certificates or not ask for them.

The front asks: a workload without a certificate must reach the CA with its token, one with a certificate must be
known by it. It ends TLS, remembers who is calling (``PeerIdentities``), and copies bytes to the gRPC server's private
loopback port. ALPN ``proxyless-bundle/1`` instead gets the trust bundle, for workloads that will check it against
their token's hashes.
"""

import asyncio
import logging
import socket
import ssl

from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.control_plane.sockets import listen
from proxyless.control_plane.tls_relay import Downstream, Inside
from proxyless.identity.contexts import present, trust
from proxyless.identity.control_plane import BUNDLE_ALPN, GRPC_ALPN
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import IdentityError, NotReadyError

logger = logging.getLogger("proxyless.tls_front")

_SHUTDOWN_TIMEOUT = 5.0
_ACCEPT_PAUSE = 0.1  # seconds, when the process is out of file descriptors


class TlsFront:
    """source: the control plane's own certificate and bundle; the current one serves each new connection.

    inner_port: of the gRPC server on 127.0.0.1. handshake_timeout: seconds. max_connections: more are closed at once.
    max_handshakes: beyond it the oldest that is under way goes; it is the likeliest to never end.
    """

    def __init__(
        self,
        source: IdentitySource,
        peers: PeerIdentities,
        inner_port: int,
        *,
        handshake_timeout: float = 10.0,
        max_connections: int = 10_000,
        max_handshakes: int = 1024,
    ) -> None:
        self._inside = Inside(source, peers, inner_port)
        self._handshake_timeout = handshake_timeout
        self._max_connections = max_connections
        self._max_handshakes = max_handshakes
        self._context: tuple[int, ssl.SSLContext] | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: dict[asyncio.Task[None], None] = {}

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address with the port that was chosen if ``port`` is 0.

        Raises ConfigurationError when the address cannot be used, NotReadyError before the source has a certificate.
        """
        self._current_context()
        self._listener = listener = listen(host, port, "--xds-tls-address")
        self._accepting = asyncio.create_task(self._accept(listener))
        address = listener.getsockname()
        return address[0], address[1]

    async def close(self) -> None:
        """Stop listening and end every connection."""
        tasks = [task for task in (self._accepting, *self._handshakes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        connections = list(self._inside.open)
        for connection in connections:
            connection.end()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                logger.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._inside.open) + len(self._handshakes) >= self._max_connections:
                logger.warning("closing a new connection: there are %d already", self._max_connections)
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(self._handshakes) >= self._max_handshakes:
                next(iter(self._handshakes)).cancel()
            task = asyncio.create_task(self._handshake(connection))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _handshake(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Downstream(self._inside),
                connection,
                ssl=self._current_context(),
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except (OSError, NotReadyError, IdentityError) as error:  # OSError: ssl.SSLError and TimeoutError too
            logger.info("a TLS handshake failed: %s", error)
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _current_context(self) -> ssl.SSLContext:
        generation = self._inside.source.generation
        if self._context is None or self._context[0] != generation:
            self._context = generation, _context(self._inside.source)
        return self._context[1]


def _context(source: IdentitySource) -> ssl.SSLContext:
    svid, bundle = source.svid, source.bundle
    if svid is None or bundle is None:
        raise NotReadyError("the control plane has no certificate of its own yet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Envoy's and gRPC's own minimum
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed session would skip the verification of the client's certificate
    context.options |= ssl.OP_NO_TICKET
    trust(context, bundle)
    present(context, svid)
    context.set_alpn_protocols([GRPC_ALPN, BUNDLE_ALPN])
    return context

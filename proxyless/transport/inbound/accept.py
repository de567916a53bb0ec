"""TLS and plaintext on one port: accept, look at the first byte, then speak what the client speaks.

0x16 begins every TLS connection and no HTTP request (RFC 8446 section 5.1). The port's mode and the certificate are the
ones of that moment, so a change of either reaches the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from proxyless.model.errors import NotReadyError
from proxyless.model.inbound import MutualTls
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.tls_handshake import secure

log = logging.getLogger("proxyless.inbound")

_TLS_HANDSHAKE = b"\x16"
# Seconds a client may take for its first byte; Istio waits for ever, which lets anybody hold a socket for nothing.
PEEK_TIMEOUT = 60.0
HANDSHAKE_TIMEOUT = 10.0
# Connections that are not yet established. Beyond this the oldest goes: it is the likeliest to never become one.
MAX_PENDING = 1024
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RETRY = 0.2

ProtocolFactory = Callable[[], asyncio.Protocol]


class AcceptLoop:
    """Serves one listening socket until ``close``. Has the two methods of ``asyncio.Server`` that uvicorn uses.

    relieve: called when the process has no descriptor left, to close connections that can be spared. alpn: the protocol
    that the connections of ``factory`` speak.
    """

    def __init__(
        self,
        listening: socket.socket,
        factory: ProtocolFactory,
        runtime: InboundRuntime,
        relieve: Callable[[], object] = lambda: None,
        *,
        alpn: str = "http/1.1",
    ) -> None:
        self._alpn = alpn
        self._listening = listening
        self._factory = factory
        self._runtime = runtime
        self._relieve = relieve
        self._pending: dict[asyncio.Task[None], None] = {}
        self.port: int = listening.getsockname()[1]
        listening.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"accept-{self.port}")

    def stop_accepting(self) -> None:
        """Take what the kernel has accepted already, then nothing more: a request may be on its way on each of them."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                self._begin(loop, self._listening.accept()[0])
        self._task.cancel()

    @property
    def establishing(self) -> bool:
        """Whether a handshake, or the first byte of a connection, is still to come."""
        return bool(self._pending)

    def close(self) -> None:
        """Accept nothing more. Handshakes under way are given up, established connections are not touched."""
        self._task.cancel()
        for task in list(self._pending):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._task, *self._pending, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        starving = False
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listening)
                except OSError as error:
                    if error.errno not in _OUT_OF_RESOURCES:
                        log.debug("port %d: accept: %s", self.port, error)
                        await asyncio.sleep(0)
                        continue
                    if not starving:
                        log.warning("port %d: cannot accept connections: %s", self.port, error.strerror)
                    starving = True
                    self._relieve()
                    await asyncio.sleep(_RETRY)
                    continue
                starving = False
                self._begin(loop, connection)
        finally:
            self._listening.close()

    def _begin(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        if len(self._pending) >= MAX_PENDING:
            next(iter(self._pending)).cancel()
        task = loop.create_task(self._establish(connection))
        self._pending[task] = None
        task.add_done_callback(lambda done: self._pending.pop(done, None))

    async def _establish(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        handed_over = False
        try:
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = await self._context(connection)
            handed_over = True
            if context is None:
                await loop.connect_accepted_socket(self._factory, connection)
            else:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                    await secure(loop, connection, context, self._factory, server_side=True)
        except (_Closed, NotReadyError, TimeoutError, ssl.SSLError, OSError) as error:
            log.info("port %d: connection refused: %s", self.port, error or type(error).__name__)
        finally:
            # Once handed over, the loop closes it: doing so twice could close somebody else's descriptor.
            if not handed_over:
                connection.close()

    async def _context(self, connection: socket.socket) -> ssl.SSLContext | None:
        """The TLS context to serve the connection with, None for plaintext. Raises _Closed if it must not be served."""
        if self._mode() is MutualTls.DISABLE:
            return None
        try:
            first = await asyncio.wait_for(_peek(connection), PEEK_TIMEOUT)
        except TimeoutError:
            raise _Closed("the client sent nothing") from None
        if not first:
            raise _Closed("the client closed it")
        # The mode now, not that of before the wait.
        mode = self._mode()
        if mode is MutualTls.DISABLE:
            return None
        if first == _TLS_HANDSHAKE:
            return self._runtime.identity.server_context(mode, self._alpn)
        if mode is MutualTls.STRICT:
            raise _Closed("plaintext, and the port requires mutual TLS (STRICT)")
        return None

    def _mode(self) -> MutualTls:
        listener = self._runtime.snapshot().inbound.get(self.port)
        return MutualTls.PERMISSIVE if listener is None else listener.mutual_tls


class _Closed(Exception):
    """Why a connection is not served."""


async def _peek(connection: socket.socket) -> bytes:
    """The first byte without taking it; b"" if the client closed instead. Works the same on asyncio and uvloop."""
    loop = asyncio.get_running_loop()
    descriptor = connection.fileno()
    while True:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return connection.recv(1, socket.MSG_PEEK)
        readable = loop.create_future()
        loop.add_reader(descriptor, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(descriptor)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

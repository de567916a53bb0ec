"""The TLS handshake of a connection of an event loop, at either end."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from proxyless.transport.tls import wrapped
from proxyless.transport.tls_transport import TlsTransport

P = TypeVar("P", bound=asyncio.Protocol)


async def secure(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    context: ssl.SSLContext,
    factory: Callable[[], P],
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> tuple[asyncio.Transport, P]:
    """The handshake, then ``connection_made`` of ``factory()``, as ``loop.create_connection`` and its like do.

    sock: connected and non-blocking. It is the transport's from here on, and closed if this raises OSError (which an
    ``ssl.SSLError`` is) or is cancelled. There is no timeout in here.
    """
    if not (server_side or isinstance(loop, asyncio.SelectorEventLoop)):
        # uvloop's own TLS is as fast for a client, and Windows' loop watches no descriptors.
        return await loop.create_connection(factory, sock=sock, ssl=context, server_hostname=server_hostname or "")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        secured = wrapped(context, sock, server_hostname or None, server_side=server_side)
    except BaseException:
        sock.close()
        raise
    try:
        await _handshake(loop, secured)
        transport, protocol = TlsTransport(loop, secured, context), factory()
        transport.begin(protocol)
    except BaseException:
        secured.close()
        raise
    return transport, protocol


async def _handshake(loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket) -> None:
    descriptor = secured.fileno()
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            watch, forget = loop.add_reader, loop.remove_reader
        except ssl.SSLWantWriteError:
            watch, forget = loop.add_writer, loop.remove_writer
        else:
            return
        ready = loop.create_future()
        watch(descriptor, _wake, ready)
        try:
            await ready
        finally:
            forget(descriptor)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

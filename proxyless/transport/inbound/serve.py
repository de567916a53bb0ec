"""Serves one application on mesh ports until a signal: what ``proxyless serve`` does once it knows what to serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError
from proxyless.transport.inbound.application import Loaded
from proxyless.transport.inbound.asgi import MeshASGI
from proxyless.transport.inbound.metrics_endpoint import MetricsEndpoint
from proxyless.transport.inbound.runtime import InboundRuntime
from proxyless.transport.inbound.server import DRAIN_DELAY, MeshServer

_BACKLOG = 2048
# Seconds an idle connection is kept: Envoy's HTTP idle timeout. Shorter than a client's pool keeps it, a request would
# meet a closing connection.
_IDLE_TIMEOUT = 3600
_WSGI_THREADS = 40


@dataclass(frozen=True, slots=True)
class Listening:
    """host: the address, also where a name was given. ports: name to the number actually bound.

    metrics: where Prometheus text is served, None if nowhere.
    """

    host: str
    ports: Mapping[str, int]
    metrics: tuple[str, int] | None


async def serve(
    loaded: Loaded,
    runtime: InboundRuntime,
    *,
    ports: Mapping[str, int],
    host: str = "127.0.0.1",
    metrics_port: int | None = 0,
    on_listening: Callable[[Listening], Awaitable[None]] | None = None,
    on_draining: Callable[[], Awaitable[None]] | None = None,
    on_signal: Callable[[], object] = lambda: None,
    drain_delay: float = DRAIN_DELAY,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve ``loaded`` on every port until SIGTERM, SIGINT or ``stop``, then drain and return, within 10 seconds.

    ports: name ("" for an unnamed one) to number, 0 for any free one. metrics_port: on loopback; 0 for any free one,
    None for none. on_listening: awaited when the ports are bound and the application has started, before the first
    request is served; the place to register and to wait for what the ports require. on_draining: awaited when the end
    begins, while requests are still served; the place to announce it. drain_delay: seconds clients have to hear of it.
    Raises ConfigurationError for a port that cannot be bound, ApplicationFailed if the application does not start, and
    what ``on_listening`` raises.
    """
    with contextlib.ExitStack() as bound:
        sockets = {name: bound.enter_context(bind(host, port)) for name, port in ports.items()}
        server = MeshServer(
            _config(loaded, runtime),
            runtime,
            on_draining=on_draining,
            on_signal=on_signal,
            drain_delay=drain_delay,
        )
        async with contextlib.AsyncExitStack() as running:
            metrics: tuple[str, int] | None = None
            if metrics_port is not None:
                listening = bound.enter_context(bind("127.0.0.1", metrics_port, remedy="choose another --metrics-port"))
                endpoint = MetricsEndpoint(
                    listening, runtime.telemetry, lambda: server.started and not server.should_exit
                )
                await running.enter_async_context(endpoint)
                metrics = endpoint.address
            if on_listening is not None:
                addresses = {name: one.getsockname()[:2] for name, one in sockets.items()}
                address = next(iter(addresses.values()))[0]
                numbers = {name: number for name, (_, number) in addresses.items()}
                server.on_listening = functools.partial(on_listening, Listening(address, numbers, metrics))
            if stop is not None:
                running.callback(asyncio.create_task(_stop(server, stop)).cancel)
            await server.serve(list(sockets.values()))


async def _stop(server: MeshServer, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


def _config(loaded: Loaded, runtime: InboundRuntime) -> Any:
    from uvicorn.config import Config

    if loaded.asgi:
        app = MeshASGI(loaded.app, runtime)
    else:
        from a2wsgi import WSGIMiddleware

        app = MeshASGI(WSGIMiddleware(loaded.app, workers=_WSGI_THREADS), runtime, drop_underscores=True)
    return Config(
        app,
        interface="asgi3",
        # The application's logging is its own, and the access log is telemetry's.
        log_config=None,
        access_log=False,
        # X-Forwarded-For must not change who the connection's peer is.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE_TIMEOUT,
    )


def bind(
    host: str, port: int, *, remedy: str = "choose another --port or --host", reuse_port: bool = False
) -> socket.socket:
    """A listening socket; raises ConfigurationError naming the address and the remedy."""
    where = join_address(host, port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {where}: {error.strerror}; it must be an address of this machine"
        ) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and host == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"cannot listen on {where}: {error.strerror}; {remedy}") from None
    return listening

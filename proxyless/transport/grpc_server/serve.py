"""Serves gRPC services on mesh ports until a signal: what ``proxyless serve --grpc`` does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proxyless.transport.grpc_server import load_reports
from proxyless.transport.grpc_server.load_reports import add_open_rca
from proxyless.transport.grpc_server.server import GrpcRuntime, MeshGrpcServer
from proxyless.transport.grpc_server.servicers import Register
from proxyless.transport.inbound.metrics_endpoint import MetricsEndpoint
from proxyless.transport.inbound.serve import Listening, bind
from proxyless.transport.inbound.server import SHUTDOWN_BUDGET

# Seconds of the budget that ending the process needs.
_MARGIN = 1.0


async def serve_grpc(
    services: Sequence[Register],
    runtime: GrpcRuntime,
    *,
    ports: Mapping[str, int],
    host: str,
    metrics_port: int | None = 0,
    on_serving: Callable[[Listening], object] = lambda _: None,
    on_signal: Callable[[], object] = lambda: None,
) -> None:
    """Serve on every port until SIGTERM or SIGINT, then drain and return within 10 s. A second signal ends at once.

    ports: name ("" for an unnamed one, which is registered as ``grpc``) to number, 0 for any free one. metrics_port: on
    loopback; 0 for any free one, None for none. on_serving: called once it is registered and serves. Health
    (grpc.health.v1), load reports (OpenRcaService) and reflection are added. Raises ConfigurationError for a port that
    cannot be bound.
    """
    loop = asyncio.get_running_loop()
    server = MeshGrpcServer(runtime)
    for add in services:
        add(server)
    names = tuple(server.services)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    add_open_rca(server, runtime.telemetry.server_metrics)
    own = (health.SERVICE_NAME, load_reports.SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection((*names, *own), server)
    signals = asyncio.Queue[None]()
    serving = False

    def asked() -> None:
        on_signal()
        signals.put_nowait(None)

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, asked)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        for name, number in ports.items():
            server.add_mesh_port(host, number, name or "grpc")
        metrics: tuple[str, int] | None = None
        if metrics_port is not None:
            listening = stack.enter_context(bind("127.0.0.1", metrics_port, remedy="choose another --metrics-port"))
            endpoint = MetricsEndpoint(listening, runtime.telemetry, lambda: serving)
            metrics = (await stack.enter_async_context(endpoint)).address
        if not await _unless_asked(server.start(), signals):
            return
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        serving = True
        on_serving(Listening(host, server.ports, metrics))
        await signals.get()
        serving = False
        await checks.enter_graceful_shutdown()
        if not await _unless_asked(server.stop(SHUTDOWN_BUDGET - _MARGIN), signals):
            await server.stop(None)


async def _unless_asked(work: Coroutine[Any, Any, None], signals: asyncio.Queue[None]) -> bool:
    """Whether ``work`` came to its end before the next signal; if not, it is cancelled."""
    working, asked = asyncio.create_task(work), asyncio.create_task(signals.get())
    try:
        await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
    finally:
        asked.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return False

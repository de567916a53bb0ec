"""The gRPC health service, ``grpc.health.v1.Health``: serving once the control plane is ready. Open to every caller.

The message classes are grpcio-health-checking's: a process that has them cannot load grpclib's copy of them beside.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVICE = "grpc.health.v1.Health"

Context = grpc.aio.ServicerContext[Any, Any]


class HealthService:
    """services: the names that can be asked for; the empty name is the whole server. Belongs to one event loop."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services) | {"", SERVICE}
        self._serving = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool) -> None:
        """From now on; those who watch are told."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        methods: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, read, write),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _check(self, request: Any, context: Context) -> Any:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        return self._answer(request.service)

    async def _watch(self, request: Any, context: Context) -> None:
        told = None
        while True:
            changed = self._changed
            answer = self._answer(request.service)
            if answer != told:
                await context.write(answer)
                told = answer
            await changed.wait()

    def _answer(self, service: str) -> Any:
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        status = HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status)

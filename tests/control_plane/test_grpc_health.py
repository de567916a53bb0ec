"""Health changes reach those who watch."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from running_control_plane import DEADLINE

from proxyless.control_plane.grpc_health import SERVICE, HealthService
from proxyless.control_plane.grpc_server import start_grpc_server


def test_who_watches_is_told_of_each_change_once() -> None:
    async def scenario() -> None:
        health = HealthService(["some.Service"])
        server, port = await start_grpc_server([health.handler()], "127.0.0.1", 0, "port")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                watch = channel.unary_stream(
                    f"/{SERVICE}/Watch",
                    request_serializer=HealthCheckRequest.SerializeToString,
                    response_deserializer=HealthCheckResponse.FromString,
                )(HealthCheckRequest(service="some.Service"))

                async def told() -> Any:
                    return (await asyncio.wait_for(watch.read(), DEADLINE)).status

                assert await told() == HealthCheckResponse.NOT_SERVING
                health.set(serving=True)
                assert await told() == HealthCheckResponse.SERVING
                health.set(serving=True)
                health.set(serving=False)
                assert await told() == HealthCheckResponse.NOT_SERVING
                watch.cancel()
        finally:
            await server.stop(grace=None)

    asyncio.run(scenario())

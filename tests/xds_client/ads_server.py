"""A real ADS server (grpc.aio) on loopback that a test scripts. It records what it is asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import Message
from xds_resources import packed

from proxyless.xds_client.kinds import Kind

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class AdsServer:
    """State of the world, per type: a response to each request that changes the names, and to each ``serve``."""

    def __init__(self) -> None:
        self.resources: dict[Kind, dict[str, Message]] = {kind: {} for kind in Kind}
        self.requests: list[discovery_pb2.DiscoveryRequest] = []
        self.version = 0
        self.port = 0
        self.streams = 0
        self._changed: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None
        self.silent: set[Kind] = set()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"StreamAggregatedResources": handler}),)
        )
        bound = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        assert bound
        self.port = bound
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def serve(self, *messages: Any) -> None:
        """Add or replace resources, and push them."""
        for message in messages:
            kind = next(kind for kind in Kind if kind.type_url.endswith(f"/{message.DESCRIPTOR.full_name}"))
            self.resources[kind][message.cluster_name if kind is Kind.ENDPOINT else message.name] = message
        self.push()

    def remove(self, kind: Kind, name: str) -> None:
        del self.resources[kind][name]
        self.push()

    def push(self) -> None:
        self.version += 1
        for changed in self._changed:
            changed.set()

    def nacks(self) -> list[str]:
        return [request.error_detail.message for request in self.requests if request.HasField("error_detail")]

    async def _stream(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        self.streams += 1
        changed = asyncio.Event()
        self._changed.add(changed)
        names: dict[str, tuple[str, ...]] = {}
        outbox: asyncio.Queue[str] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                self.requests.append(request)
                asked = tuple(request.resource_names)
                if names.get(request.type_url) != asked:
                    names[request.type_url] = asked
                    outbox.put_nowait(request.type_url)

        async def watch() -> None:
            while True:
                await changed.wait()
                changed.clear()
                for type_url in names:
                    outbox.put_nowait(type_url)

        tasks = [asyncio.create_task(read()), asyncio.create_task(watch())]
        nonce = 0
        try:
            while True:
                type_url = await outbox.get()
                kind = Kind(type_url)
                if kind in self.silent:
                    continue
                nonce += 1
                found = self.resources[kind]
                yield discovery_pb2.DiscoveryResponse(
                    type_url=type_url,
                    version_info=str(self.version),
                    nonce=str(nonce),
                    resources=[packed(found[name]) for name in names[type_url] if name in found],
                )
        finally:
            self._changed.discard(changed)
            for task in tasks:
                task.cancel()


@contextlib.asynccontextmanager
async def ads_server() -> AsyncIterator[AdsServer]:
    server = AdsServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], Any], what: str, deadline: float = 10.0) -> None:
    """Wait until a condition holds, or fail naming it."""
    end = asyncio.get_running_loop().time() + deadline
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {deadline:g} s: {what}"
        await asyncio.sleep(0.005)

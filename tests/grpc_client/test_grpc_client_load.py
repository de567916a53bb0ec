"""Channels balance by the load that servers tell with the end of each call."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest
from grpc_client_support import PATIENCE, TARGET, Backend, FakeRuntime, cluster, world

from proxyless.model.cluster import LoadBalancer, LoadWeighting
from proxyless.model.load_report import BINARY, HEADER, LoadReport
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel
from proxyless.transport.grpc_server.load_reports import message


class Loaded(Backend):
    """Says its load with the end of each call."""

    load = 0.0
    key = BINARY

    def _who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        report = LoadReport(self.load, qps=10)
        value = report.header() if self.key == HEADER else message(report).SerializeToString()
        context.set_trailing_metadata(((self.key, value),))
        return super()._who(request, context)

    def _many(self, request: bytes, context: grpc.ServicerContext) -> Iterable[bytes]:
        yield self._who(request, context)


@pytest.fixture
def servers() -> Iterator[list[Loaded]]:
    made = [Loaded("idle"), Loaded("busy")]
    made[0].load, made[1].load = 0.1, 0.3
    yield made
    for one in made:
        one.stop().wait(30)


def who_answers(runtime: FakeRuntime, api: str, kind: str, count: int) -> Counter[bytes]:
    async def aio() -> Counter[bytes]:
        async with AioMeshChannel(runtime, TARGET, ()) as channel:
            method: Any
            if kind == "unary_unary":
                method = channel.unary_unary("/test.Echo/Who")
                return Counter([await method(b"", timeout=PATIENCE) for _ in range(count)])
            method = channel.unary_stream("/test.Echo/Many")
            return Counter([name for _ in range(count) async for name in method(b"", timeout=PATIENCE)])

    if api == "aio":
        return asyncio.run(aio())
    with MeshChannel(runtime, TARGET, ()) as channel:
        if kind == "unary_unary":
            one: Any = channel.unary_unary("/test.Echo/Who")
            return Counter(one(b"", timeout=PATIENCE) for _ in range(count))
        many: Any = channel.unary_stream("/test.Echo/Many")
        return Counter(name for _ in range(count) for name in many(b"", timeout=PATIENCE))


# grpcio, with which sync channels call, keeps the binary form from its applications, and so from us.
@pytest.mark.parametrize(("api", "key"), [("aio", BINARY), ("aio", HEADER), ("sync", HEADER)])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_the_idle_server_gets_more(servers: list[Loaded], api: str, key: str, kind: str) -> None:
    for one in servers:
        one.key = key
    what = cluster(
        *(one.port for one in servers),
        load_balancer=LoadBalancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN,
        load_weighting=LoadWeighting(blackout_period=0, update_period=0),
    )
    runtime = FakeRuntime(world([what]))
    assert who_answers(runtime, api, kind, 2) == {b"idle": 1, b"busy": 1}  # until they have told
    assert who_answers(runtime, api, kind, 80)[b"idle"] == pytest.approx(60, abs=2)

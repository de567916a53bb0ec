"""Load reports (ORCA) of gRPC servers: with each RPC's end, and as a stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_support import GrpcTestRuntime, plaintext
from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest

import proxyless
from proxyless.transport.grpc_server.foreign import ForeignInterceptor
from proxyless.transport.grpc_server.load_reports import METHOD, SERVICE, add_open_rca
from proxyless.transport.grpc_server.server import MeshGrpcServer

KEY = "endpoint-load-metrics-bin"


def record(request: bytes) -> None:
    if request != b"nothing":
        proxyless.call_metrics().record_request_cost_metric("rows", len(request)).record_qps_metric(12.5)


class Costs:
    async def call(self, request: bytes, context: Any) -> bytes:
        record(request)
        return request

    async def own(self, request: bytes, context: Any) -> bytes:
        record(request)
        context.set_trailing_metadata((("own", "x"),))
        return request

    async def abort(self, request: bytes, context: Any) -> bytes:
        record(request)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no", (("own", "x"),))

    async def fail(self, request: bytes, context: Any) -> bytes:
        record(request)
        raise RuntimeError("broken")

    async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        record(request)

    async def sum(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for request in requests:
            record(request)
        return b""


class SyncCosts:
    def call(self, request: bytes, context: Any) -> bytes:
        record(request)
        return request

    def own(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("own", "x"),))
        record(request)
        return request

    def abort(self, request: bytes, context: Any) -> bytes:
        record(request)
        context.set_trailing_metadata((("own", "x"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no")
        return b""

    def fail(self, request: bytes, context: Any) -> bytes:
        record(request)
        raise RuntimeError("broken")

    def list(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield request
        record(request)

    def sum(self, requests: Iterator[bytes], context: Any) -> bytes:
        for request in requests:
            record(request)
        return b""


def handler(costs: Any) -> Any:
    unary = {
        name: grpc.unary_unary_rpc_method_handler(getattr(costs, name)) for name in ("call", "own", "abort", "fail")
    }
    streams = {
        "list": grpc.unary_stream_rpc_method_handler(costs.list),
        "sum": grpc.stream_unary_rpc_method_handler(costs.sum),
    }
    return grpc.method_handlers_generic_handler("test.Costs", {**unary, **streams})


@contextlib.asynccontextmanager
async def running(runtime: GrpcTestRuntime, server: str) -> AsyncIterator[int]:
    """server: coroutines or functions in a server of ours, or functions in grpcio's."""
    if server == "foreign":
        foreign = grpc.server(ThreadPoolExecutor(2), interceptors=[ForeignInterceptor(runtime, None)])
        foreign.add_generic_rpc_handlers((handler(SyncCosts()),))
        port = foreign.add_insecure_port("127.0.0.1:0")
        foreign.start()
        try:
            yield port
        finally:
            await asyncio.to_thread(foreign.stop(None).wait)
        return
    ours = MeshGrpcServer(runtime, ThreadPoolExecutor(2))
    ours.add_generic_rpc_handlers((handler(Costs() if server == "coroutines" else SyncCosts()),))
    port = ours.add_insecure_port("127.0.0.1:0")
    await ours.start()
    try:
        yield port
    finally:
        await ours.stop(None)


class Plain(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: Any) -> bytes:
        return message

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


async def trailers(channel: Channel, method: str, request: bytes) -> dict[str, list[Any]]:
    """By grpclib: grpcio keeps this metadata from its applications."""
    with contextlib.suppress(GRPCError):
        async with channel.request(f"/test.Costs/{method}", Cardinality.UNARY_STREAM, bytes, bytes, timeout=60) as call:
            await call.send_message(request, end=True)
            while await call.recv_message() is not None:
                pass
    assert call.trailing_metadata is not None
    return {key: call.trailing_metadata.getall(key) for key in call.trailing_metadata}


@pytest.mark.parametrize("server", ["coroutines", "functions", "foreign"])
def test_what_an_rpc_records_is_in_its_trailers(runtime: GrpcTestRuntime, server: str) -> None:
    async def main() -> None:
        async with running(runtime, server) as port, Channel("127.0.0.1", port, codec=Plain()) as channel:
            for method in ("call", "own", "abort", "fail", "list", "sum"):
                found = await trailers(channel, method, b"four")
                (line,) = found[KEY]
                report = OrcaLoadReport.FromString(line)
                assert (dict(report.request_cost), report.rps_fractional) == ({"rows": 4}, 12.5), method
                assert 0 < report.mem_utilization < 1  # measured
                assert found.get("own") == (["x"] if method in ("own", "abort") else None)
                # Nothing recorded, nothing told.
                assert KEY not in await trailers(channel, method, b"nothing")
            runtime.telemetry.server_metrics.report_with_calls()
            assert KEY in await trailers(channel, "call", b"nothing")

    asyncio.run(main())


def test_the_stream_of_reports(runtime: GrpcTestRuntime) -> None:
    async def main() -> None:
        server = MeshGrpcServer(runtime)
        recorder = runtime.telemetry.server_metrics
        add_open_rca(server, recorder, 0.01)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with plaintext(port) as channel:
                stream: Any = channel.unary_stream(
                    f"/{SERVICE}/{METHOD}", OrcaLoadReportRequest.SerializeToString, OrcaLoadReport.FromString
                )
                call = stream(OrcaLoadReportRequest(report_interval=Duration(nanos=1)), timeout=60)
                first = await call.read()
                assert 0 < first.mem_utilization < 1
                recorder.set_application_utilization_metric(0.25)
                recorder.set_utilization_metric("queue", 0.5)
                while not (report := await call.read()).utilization:
                    pass
                assert (report.application_utilization, dict(report.utilization)) == (0.25, {"queue": 0.5})
                # Who asks for less often gets it less often, and a server that stops waits for nobody.
                seldom = stream(OrcaLoadReportRequest(report_interval=Duration(seconds=86_400)), timeout=60)
                assert (await seldom.read()).application_utilization == 0.25
                await server.stop(60)
                assert await seldom.read() is grpc.aio.EOF
                assert await seldom.code() is grpc.StatusCode.OK
        finally:
            await server.stop(None)

    asyncio.run(main())

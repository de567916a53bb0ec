"""Load reports of gRPC servers (ORCA, gRFC A51): in an RPC's trailing metadata, and as a stream of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

from proxyless.model.load_report import MAPS, NUMBERS, LoadReport
from proxyless.telemetry.load_recorders import ServerMetricRecorder

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.server import MeshGrpcServer

SERVICE: str = orca_pb2.DESCRIPTOR.services_by_name["OpenRcaService"].full_name
METHOD = "StreamCoreMetrics"
# Seconds between reports at least, whatever is asked for (gRFC A51).
MIN_INTERVAL = 30.0


def message(report: LoadReport) -> Any:
    """The report as its protobuf message."""
    made = orca_load_report_pb2.OrcaLoadReport()
    for name, ours in NUMBERS.items():
        if value := getattr(report, ours):
            setattr(made, name, value)
    for name in MAPS:
        getattr(made, name).update(getattr(report, name))
    return made


class OpenRcaService:
    """``xds.service.orca.v3.OpenRcaService``: a report at once, then one each interval, until the caller goes.

    report: makes one. min_interval: seconds; who asks for less, or for nothing, gets this.
    """

    def __init__(self, report: Callable[[], LoadReport], min_interval: float = MIN_INTERVAL) -> None:
        self._report = report
        self._min_interval = min_interval
        self._stopped = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        method = grpc.unary_stream_rpc_method_handler(
            self._stream,
            request_deserializer=orca_pb2.OrcaLoadReportRequest.FromString,
            response_serializer=orca_load_report_pb2.OrcaLoadReport.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def stop(self) -> None:
        """End the streams: a server that drains would wait for them."""
        self._stopped.set()

    async def _stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        asked = request.report_interval
        interval = max(self._min_interval, asked.seconds + asked.nanos / 1e9)
        while not self._stopped.is_set():
            # Of what a request costs this says nothing: it is about the server (gRFC A51, "Rationale").
            yield message(self._report())
            try:
                async with asyncio.timeout(interval):
                    await self._stopped.wait()
            except TimeoutError:
                continue


def add_open_rca(server: MeshGrpcServer, recorder: ServerMetricRecorder, min_interval: float = MIN_INTERVAL) -> None:
    """Have ``server`` tell the load to who asks for it, until it stops."""
    service = OpenRcaService(recorder.report, min_interval)
    server.add_generic_rpc_handlers((service.handler(),))
    server.on_stop.append(service.stop)

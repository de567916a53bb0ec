"""The gRPC side of load reports: ``envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats``."""

import asyncio
import logging
from typing import Any

import grpc
from envoy.service.load_stats.v3 import lrs_pb2
from google.protobuf.message import DecodeError

from proxyless.control_plane.grpc_caller import identity_of, while_certified
from proxyless.control_plane.load_reports.totals import LoadTotals
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.model.errors import IdentityError

logger = logging.getLogger("proxyless.load_reports")

SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
METHOD = "StreamLoadStats"
# What a client that can be asked for all of its clusters says in its node; Envoy and gRPC do.
ALL_CLUSTERS = "envoy.lrs.supports_send_all_clusters"
INTERVAL = 10.0
MAX_STREAMS = 10_000
_FIRST_REQUEST_TIMEOUT = 30.0

Context = grpc.aio.ServicerContext[Any, Any]


class LoadReportingService:
    """Asks each client once for all of its clusters, and adds up what it reports.

    peers: who is behind the TLS front; None for the plaintext port, as for AdsService. interval: seconds between two
    reports of a client.
    """

    def __init__(self, totals: LoadTotals, peers: PeerIdentities | None, *, interval: float = INTERVAL) -> None:
        self._totals = totals
        self._peers = peers
        self._streams = 0
        self._answer = lrs_pb2.LoadStatsResponse(send_all_clusters=True)
        self._answer.load_reporting_interval.FromMilliseconds(round(interval * 1000))

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=lrs_pb2.LoadStatsRequest.FromString,
            response_serializer=lrs_pb2.LoadStatsResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def _stream(self, requests: Any, context: Context) -> None:
        if self._streams >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{MAX_STREAMS} clients report their load already")
        self._streams += 1
        try:
            identity = identity_of(self._peers, context)
            async with while_certified(self._peers, context, identity):
                await self._collect(context)
        except IdentityError as error:
            logger.warning("refused a stream of load reports: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request arrived on the stream")
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "that is no LoadStatsRequest")
        finally:
            self._streams -= 1

    async def _collect(self, context: Context) -> None:
        async with asyncio.timeout(_FIRST_REQUEST_TIMEOUT):
            first = await context.read()
        if first is grpc.aio.EOF:
            return
        if ALL_CLUSTERS not in first.node.client_features:
            text = f"load is reported for all clusters at once: the node needs the client feature {ALL_CLUSTERS}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        await context.write(self._answer)
        if first.cluster_stats:
            self._totals.add(first.cluster_stats)
        while (request := await context.read()) is not grpc.aio.EOF:
            self._totals.add(request.cluster_stats)

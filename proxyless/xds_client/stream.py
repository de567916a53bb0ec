"""The ADS stream on the wire: grpclib around DiscoveryRequest and DiscoveryResponse."""

import struct
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpclib.client import Channel, Stream, StreamStreamMethod
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from proxyless.model.errors import ProxylessError
from proxyless.xds_client.protocol import Request, Response

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
# A mesh of ten thousand endpoints takes some megabytes.
MAX_MESSAGE = 64 << 20
_PREFIX = struct.Struct("!BI")
_INVALID_ARGUMENT = 3

AdsStream = Stream[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse]


class StreamError(ProxylessError):
    """The stream cannot go on; the client reconnects."""


def channel_configuration() -> Configuration:
    """For the channel to the control plane: keepalive of 30 s and 10 s, as Istio's, so that a dead peer is noticed."""
    return Configuration(
        _keepalive_time=30.0,
        _keepalive_timeout=10.0,
        _keepalive_permit_without_calls=True,
        _http2_max_pings_without_data=0,
        _http2_min_sent_ping_interval_without_data=20.0,
    )


def open_stream(channel: Channel) -> AdsStream:
    method: StreamStreamMethod[Any, Any] = StreamStreamMethod(
        channel, METHOD, discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse
    )
    return method.open()


async def receive(stream: AdsStream) -> Response | None:
    """The next response, None at the end of the stream. Raises GRPCError when it ends with an error.

    grpclib itself would read a message of any size into memory.
    """
    if stream.initial_metadata is None:
        await stream.recv_initial_metadata()
    wire = stream._stream
    with stream._wrapper:
        prefix = await wire.recv_data(_PREFIX.size)
        if prefix:
            compressed, length = _PREFIX.unpack(prefix)
            if compressed or length > MAX_MESSAGE:
                what = "compressed" if compressed else f"{length} bytes large, more than {MAX_MESSAGE}"
                raise StreamError(f"the control plane sent a response that is {what}")
            data = await wire.recv_data(length) if length else b""
    if not prefix:
        # The status is in the trailers, which grpclib gives only to who has ended his side.
        await stream.end()
        await stream.recv_trailing_metadata()
        return None
    try:
        message = discovery_pb2.DiscoveryResponse.FromString(data)
    except DecodeError as error:
        raise StreamError(f"the control plane sent what is not a DiscoveryResponse: {error}") from error
    return Response(message.type_url, message.version_info, message.nonce, tuple(message.resources))


def to_message(request: Request, node: base_pb2.Node) -> discovery_pb2.DiscoveryRequest:
    return discovery_pb2.DiscoveryRequest(
        type_url=request.kind.type_url,
        resource_names=request.names,
        version_info=request.version,
        response_nonce=request.nonce,
        node=node if request.first else None,
        error_detail=status_pb2.Status(code=_INVALID_ARGUMENT, message=request.error) if request.error else None,
    )


def describe(error: BaseException) -> str:
    """What went wrong with a connection, for people: never a traceback, never empty."""
    if isinstance(error, GRPCError):
        status = error.status.name if isinstance(error.status, Status) else str(error.status)
        return f"{status}: {error.message or 'no message'}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__

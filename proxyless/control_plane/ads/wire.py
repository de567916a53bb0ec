"""The two variants of ADS as protobuf: what a request tells the state machine, and how a response looks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from proxyless.control_plane.ads.delta_stream import DeltaStream
from proxyless.control_plane.ads.delta_subscription import resource_version
from proxyless.control_plane.ads.state import SubscriptionState, Update
from proxyless.control_plane.ads.stream import Stream

CONTROL_PLANE_ID = "proxyless"
MAX_ERROR_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """One method of the service. receive: gives a request to a stream; response: what to write for an update."""

    method: str
    request: Any
    response: Any
    stream: Callable[[], Stream | DeltaStream]
    receive: Callable[[Any, Any], SubscriptionState]
    respond: Callable[[Update], Any]


def error_text(request: Any) -> str | None:
    """Why a client refuses a response, None if it does not."""
    if not request.HasField("error_detail"):
        return None
    return request.error_detail.message[:MAX_ERROR_TEXT] or "no reason given"


def _receive(stream: Stream, request: discovery_pb2.DiscoveryRequest) -> SubscriptionState:
    return stream.receive(
        request.type_url, request.resource_names, request.version_info, request.response_nonce, error_text(request)
    )


def _respond(update: Update) -> discovery_pb2.DiscoveryResponse:
    return discovery_pb2.DiscoveryResponse(
        version_info=update.version,
        type_url=update.type_url,
        nonce=update.nonce,
        resources=[AnyMessage(type_url=update.type_url, value=body) for body in update.resources.values()],
        control_plane={"identifier": CONTROL_PLANE_ID},
    )


def _receive_delta(stream: DeltaStream, request: discovery_pb2.DeltaDiscoveryRequest) -> SubscriptionState:
    return stream.receive(
        request.type_url,
        request.resource_names_subscribe,
        request.resource_names_unsubscribe,
        known=request.initial_resource_versions,
        nonce=request.response_nonce,
        error=error_text(request),
    )


def _respond_delta(update: Update) -> discovery_pb2.DeltaDiscoveryResponse:
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=update.version,
        type_url=update.type_url,
        nonce=update.nonce,
        resources=[
            discovery_pb2.Resource(
                name=name,
                version=resource_version(body),
                resource=AnyMessage(type_url=update.type_url, value=body),
            )
            for name, body in update.resources.items()
        ],
        removed_resources=update.removed,
        control_plane={"identifier": CONTROL_PLANE_ID},
    )


STATE_OF_THE_WORLD = Variant(
    "StreamAggregatedResources",
    discovery_pb2.DiscoveryRequest,
    discovery_pb2.DiscoveryResponse,
    Stream,
    _receive,
    _respond,
)
DELTA = Variant(
    "DeltaAggregatedResources",
    discovery_pb2.DeltaDiscoveryRequest,
    discovery_pb2.DeltaDiscoveryResponse,
    DeltaStream,
    _receive_delta,
    _respond_delta,
)

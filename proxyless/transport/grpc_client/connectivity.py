"""The state of many connections as one. Source: gRPC's "Load Balancing in gRPC", round_robin's aggregation."""

from collections.abc import Sequence

import grpc

_BEST_FIRST = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
)


def combined(states: Sequence[grpc.ChannelConnectivity]) -> grpc.ChannelConnectivity:
    """IDLE without any."""
    return next((state for state in _BEST_FIRST if state in states), grpc.ChannelConnectivity.IDLE)

"""Channels for gRPC stubs: calls go through the mesh's routes, endpoints, TLS and telemetry. Imports grpcio."""

from proxyless.transport.grpc_client.aio_channel import AioMeshChannel
from proxyless.transport.grpc_client.blocking_channel import MeshChannel

__all__ = ["AioMeshChannel", "MeshChannel"]

"""Transports for httpx and httpx2 clients: requests go through the mesh's routes, endpoints, TLS and telemetry."""

from proxyless.transport.httpx_adapter.async_transport import AsyncMeshTransport
from proxyless.transport.httpx_adapter.bases import with_bases
from proxyless.transport.httpx_adapter.sync_transport import MeshTransport

__all__ = ["AsyncMeshTransport", "MeshTransport", "with_bases"]

"""Raw xDS clients for measuring a control plane: they ask as Envoy and gRPC do, accept everything and use nothing."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

_TYPE = "type.googleapis.com/envoy.config."
LISTENER, ROUTE = f"{_TYPE}listener.v3.Listener", f"{_TYPE}route.v3.RouteConfiguration"
CLUSTER, ENDPOINT = f"{_TYPE}cluster.v3.Cluster", f"{_TYPE}endpoint.v3.ClusterLoadAssignment"
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/{}AggregatedResources"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class Probe:
    """Waits until every one of ``clients`` was sent, and has acknowledged, a response with these bytes in it."""

    def __init__(self, marker: str, type_url: str, clients: Iterable["XdsClient"]) -> None:
        self.marker, self.type_url = marker.encode(), type_url
        self.missing = set(clients)
        self.done = asyncio.Event()
        self.last = 0.0

    def acknowledged(self, client: "XdsClient", type_url: str, message: bytes) -> None:
        if type_url == self.type_url and client in self.missing and self.marker in message:
            self.missing.discard(client)
            self.last = time.perf_counter()
            if not self.missing:
                self.done.set()


class XdsClient:
    """One connection, one aggregated stream. hosts: the services it watches, qualified; port 80 of each.

    kind: ``grpc`` asks for a listener for each host and what follows from it; ``envoy`` for all clusters, their
    endpoints and the routes of its proxy port.
    """

    def __init__(self, name: str, namespace: str, app: str, hosts: Sequence[str], *, kind: str, delta: bool) -> None:
        self.name, self.hosts, self.kind, self.delta = name, hosts, kind, delta
        self.synced = asyncio.Event()
        self.probe: Probe | None = None
        self.received = self.responses = 0
        self._node: dict[str, Any] = {
            "id": name,
            "cluster": f"{app}.{namespace}",
            "user_agent_name": {"grpc": "gRPC C-core", "envoy": "envoy"}.get(kind, kind),
            "metadata": {"NAMESPACE": namespace, "LABELS": {"app": app}},
        }
        self._names: dict[str, list[str]] = {}
        self._stream: Any = None

    async def run(self, address: str) -> None:
        """Until cancelled."""
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            method = _METHOD.format("Delta" if self.delta else "Stream")
            self._stream = channel.stream_stream(method)()
            await self._ask(CLUSTER if self.kind == "envoy" else LISTENER)
            kind = discovery_pb2.DeltaDiscoveryResponse if self.delta else discovery_pb2.DiscoveryResponse
            while (message := await self._stream.read()) is not grpc.aio.EOF:
                response = kind.FromString(message)
                self.received += len(message)
                self.responses += 1
                await self._acknowledge(response)
                if self.probe is not None:
                    self.probe.acknowledged(self, response.type_url, message)
                await self._follow(response)

    async def _ask(self, type_url: str, clusters: Iterable[str] = ()) -> None:
        names = {
            LISTENER: [] if self.kind == "envoy" else [f"{host}:80" for host in self.hosts],
            ROUTE: ["http_proxy"] if self.kind == "envoy" else [f"{host}:80" for host in self.hosts],
            CLUSTER: [] if self.kind == "envoy" else [f"outbound|80||{host}" for host in self.hosts],
            ENDPOINT: list(clusters) or [f"outbound|80||{host}" for host in self.hosts],
        }[type_url]
        self._names[type_url] = names
        node = self._node if len(self._names) == 1 else None
        if self.delta:
            request: Any = discovery_pb2.DeltaDiscoveryRequest(
                node=node, type_url=type_url, resource_names_subscribe=names
            )
        else:
            request = discovery_pb2.DiscoveryRequest(node=node, type_url=type_url, resource_names=names)
        await self._stream.write(request.SerializeToString())

    async def _acknowledge(self, response: Any) -> None:
        if self.delta:
            request: Any = discovery_pb2.DeltaDiscoveryRequest(
                type_url=response.type_url, response_nonce=response.nonce
            )
        else:
            request = discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                resource_names=self._names[response.type_url],
                version_info=response.version_info,
                response_nonce=response.nonce,
            )
        await self._stream.write(request.SerializeToString())

    async def _follow(self, response: Any) -> None:
        """Ask for what the first response of a type leads to; the last one completes the picture."""
        order = [CLUSTER, ENDPOINT, LISTENER, ROUTE] if self.kind == "envoy" else [LISTENER, ROUTE, CLUSTER, ENDPOINT]
        after = order[order.index(response.type_url) + 1 :]
        if not after:
            self.synced.set()
        elif after[0] not in self._names:
            await self._ask(after[0], self._clusters(response) if after[0] == ENDPOINT else ())

    def _clusters(self, response: Any) -> list[str]:
        if self.kind != "envoy":
            return []
        from envoy.config.cluster.v3 import cluster_pb2

        packed = [one.resource if self.delta else one for one in response.resources]
        found = [cluster_pb2.Cluster.FromString(one.value) for one in packed]
        return [one.name for one in found if one.type == cluster_pb2.Cluster.EDS]

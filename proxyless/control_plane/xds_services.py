"""The gRPC services that every xDS port has."""

import grpc
from envoy.service.discovery.v3 import ads_pb2
from envoy.service.load_stats.v3 import lrs_pb2
from envoy.service.status.v3 import csds_pb2
from grpc_health.v1 import health_pb2

from proxyless.control_plane.ads.client_status import ClientStatusService
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.service import AdsService
from proxyless.control_plane.grpc_health import HealthService
from proxyless.control_plane.grpc_reflection import ReflectionService
from proxyless.control_plane.load_reports.service import LoadReportingService
from proxyless.control_plane.load_reports.totals import LoadTotals
from proxyless.control_plane.peer_identities import PeerIdentities

_FILES = tuple(module.DESCRIPTOR for module in (ads_pb2, csds_pb2, lrs_pb2, health_pb2))
NAMES = tuple(service.full_name for file in _FILES for service in file.services_by_name.values())


class XdsServices:
    """health: told by its owner when the control plane is ready. loads: what clients report."""

    def __init__(self, ads: AdsServer, admin_token: str) -> None:
        self.health = HealthService(NAMES)
        self.loads = LoadTotals()
        self._ads = ads
        self._admin_token = admin_token
        self._reflection = ReflectionService(_FILES)

    def handlers(self, peers: PeerIdentities | None) -> list[grpc.GenericRpcHandler]:
        """For one gRPC server. peers: who its callers are; None for the plaintext port."""
        return [
            AdsService(self._ads, peers).handler(),
            ClientStatusService(self._ads, peers, self._admin_token).handler(),
            LoadReportingService(self.loads, peers).handler(),
            self.health.handler(),
            self._reflection.handler(),
        ]

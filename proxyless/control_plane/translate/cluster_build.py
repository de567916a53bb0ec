"""What every part of a cluster's translation is given, and what it can find wrong."""

from dataclasses import dataclass

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.service import Service, ServicePort
from proxyless.control_plane.translate.client import ClientKind, Scope
from proxyless.control_plane.translate.cluster_name import ClusterName
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.traffic_policy import ClusterPolicy


@dataclass(frozen=True, slots=True)
class ClusterBuild:
    catalog: Catalog
    scope: Scope
    name: ClusterName
    service: Service
    port: ServicePort
    policy: ClusterPolicy
    notes: Notes

    @property
    def kind(self) -> ClientKind:
        return self.scope.kind

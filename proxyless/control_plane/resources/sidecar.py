"""Istio's Sidecar (networking.istio.io), field for field: what workloads see of the mesh, where their proxies listen.

Source: https://istio.io/latest/docs/reference/config/networking/sidecar/
"""

from collections.abc import Mapping
from enum import StrEnum

from proxyless.control_plane.resources.base import NetworkingWorkloadSelector, Spec, Text, UInt32
from proxyless.control_plane.resources.destination_rule import ConnectionPoolSettings
from proxyless.control_plane.resources.server_tls import ServerTLSSettings
from proxyless.control_plane.resources.virtual_service import Destination

UNIX = "unix://"


class SidecarPort(Spec):
    """number: 0 is a unix socket, named by ``bind``."""

    number: UInt32 = 0
    protocol: Text = ""
    name: Text = ""
    target_port: UInt32 = 0


class CaptureMode(StrEnum):
    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class IstioIngressListener(Spec):
    """default_endpoint: ``127.0.0.1:PORT``, ``unix:///PATH``; empty means the port itself, on loopback."""

    port: SidecarPort
    bind: Text = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    default_endpoint: Text = ""
    tls: ServerTLSSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None


class IstioEgressListener(Spec):
    """port: absent in the listener for everything that no other one is for. hosts: ``NAMESPACE/DNS-NAME``."""

    port: SidecarPort | None = None
    bind: Text = ""
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    hosts: tuple[Text, ...] = ()


class SidecarOutboundTrafficPolicyMode(StrEnum):
    """The first is what an empty policy means, unlike in MeshConfig (the enum's 0 in Istio's API)."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


class SidecarOutboundTrafficPolicy(Spec):
    mode: SidecarOutboundTrafficPolicyMode = SidecarOutboundTrafficPolicyMode.REGISTRY_ONLY
    egress_proxy: Destination | None = None


class SidecarSpec(Spec):
    """workload_selector: absent means the whole namespace; in the root namespace, the mesh."""

    workload_selector: NetworkingWorkloadSelector | None = None
    ingress: tuple[IstioIngressListener, ...] = ()
    egress: tuple[IstioEgressListener, ...] = ()
    inbound_connection_pool: ConnectionPoolSettings | None = None
    outbound_traffic_policy: SidecarOutboundTrafficPolicy | None = None

    @property
    def selector(self) -> Mapping[str, str]:
        """Empty: no workloads in particular."""
        return self.workload_selector.labels if self.workload_selector else {}

"""Istio's PeerAuthentication (security.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/security/peer_authentication/
"""

from collections.abc import Mapping
from enum import StrEnum

from proxyless.control_plane.resources.base import Port, Spec, WorkloadSelector


class MutualTLSMode(StrEnum):
    UNSET = "UNSET"  # inherits from the parent: port from workload, workload from namespace, namespace from mesh
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Spec):
    mode: MutualTLSMode = MutualTLSMode.UNSET


class PeerAuthenticationSpec(Spec):
    """Without selector: the namespace; in the root namespace: the mesh. port_level_mtls: by the workload's port."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: Mapping[Port, MutualTLS] = {}

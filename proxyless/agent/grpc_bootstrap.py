"""gRPC's bootstrap, with which an unmodified ``xds:///`` program in any language is a workload of this mesh.

Source: grpc.github.io, "xDS Bootstrap File Format in gRPC"; gRFC A29 (certificate providers), A36 (servers), A65 (mTLS
to the xDS server). The instance name ``default`` is the one that Istio's configuration names.
"""

import uuid
from typing import Any

from proxyless.identity.files import IdentityFiles
from proxyless.settings import Settings

# gRPC looks for renewed files this often.
_REFRESH = "60s"


def grpc_bootstrap(settings: Settings, files: IdentityFiles) -> dict[str, Any]:
    """The parsed JSON, with ``files`` for TLS to the control plane and to peers."""
    config = {
        "certificate_file": str(files.certificate),
        "private_key_file": str(files.key),
        "ca_certificate_file": str(files.roots),
        "refresh_interval": _REFRESH,
    }
    metadata: dict[str, Any] = {
        "NAMESPACE": settings.namespace,
        "SERVICE_ACCOUNT": settings.service_account,
        "LABELS": {**settings.labels, "security.istio.io/tlsMode": "istio"},
    }
    if settings.service:
        metadata["SERVICE"] = settings.service
    place = settings.locality
    node: dict[str, Any] = {
        "id": settings.node_id or f"{settings.service or 'client'}-{uuid.uuid4().hex[:10]}",
        "cluster": settings.node_cluster or f"{settings.service or 'client'}.{settings.namespace}",
        "metadata": metadata,
    }
    if place.region:
        node["locality"] = {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone}
    return {
        "xds_servers": [
            {
                "server_uri": settings.control_plane,
                "channel_creds": [{"type": "tls", "config": config}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": node,
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": config}},
        "server_listener_resource_name_template": settings.inbound_listener,
    }

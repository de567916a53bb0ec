"""The xDS node: how a client names itself in the first request of a stream (core.v3.Node), in Istio's form."""

import os
import re
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from envoy.config.core.v3 import base_pb2

from proxyless.model.cluster import Locality

USER_AGENT = "proxyless"
# gRPC's own: we take resources wrapped in discovery.v3.Resource, and do not act on the overprovisioning factor.
CLIENT_FEATURES = ("envoy.lb.does_not_support_overprovisioning", "xds.config.resource-in-sotw")


def build_node(
    *,
    address: str,
    service: str,
    namespace: str,
    service_account: str,
    labels: Mapping[str, str],
    node_id: str = "",
    cluster: str = "",
    locality: Locality | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> base_pb2.Node:
    """address: this machine's, as peers see it. node_id, cluster, locality, metadata: of the bootstrap file, if any.

    The default id is Istio's ``sidecar~IP~NAME.NAMESPACE~NAMESPACE.svc.cluster.local`` with a name unique to this
    process.
    """
    locality = locality or Locality()
    identifier = node_id or f"sidecar~{address}~{_process_name(service)}.{namespace}~{namespace}.svc.cluster.local"
    node = base_pb2.Node(
        id=identifier,
        cluster=cluster or f"{service or service_account}.{namespace}",
        locality=base_pb2.Locality(region=locality.region, zone=locality.zone, sub_zone=locality.sub_zone),
        user_agent_name=USER_AGENT,
        user_agent_version=_version(),
        client_features=list(CLIENT_FEATURES),
    )
    node.metadata.update({"GENERATOR": "grpc", **(metadata or {})})
    node.metadata.update({"NAMESPACE": namespace, "SERVICE_ACCOUNT": service_account, "LABELS": dict(labels)})
    if service:
        node.metadata.update({"SERVICE": service})
    return node


def _process_name(service: str) -> str:
    host = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower().partition(".")[0])[:63]
    return f"{service or 'client'}-{host}-{os.getpid()}"


def _version() -> str:
    try:
        return version("proxyless")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"

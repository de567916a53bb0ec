"""Envoy's bootstrap: who it is, where its control plane and its secrets come from. No secret is in it.

Source: envoy.config.bootstrap.v3, and the bootstrap of Istio's sidecars (tools/packaging/common/envoy_bootstrap.json).
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyless.envoy.tracing import COLLECTOR, Tracing
from proxyless.identity.control_plane import control_plane_id
from proxyless.model.address import split_address
from proxyless.model.cluster import Locality

# Istio's names of the secrets; the cluster's name is in the TLS contexts that the control plane sends.
IDENTITY, ROOTS, SDS_CLUSTER = "default", "ROOTCA", "sds-grpc"
_XDS_CLUSTER = "xds-grpc"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE = "type.googleapis.com/"
_NEVER = "0s"


@dataclass(frozen=True, slots=True)
class Ports:
    """outbound: on loopback. address, inbound: what callers connect to. app: the application's, on loopback.

    inbound_name: what the inbound port is called, which says what the application speaks.
    """

    outbound: int
    address: str
    inbound: int
    app: int
    inbound_name: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """How Envoy introduces itself to the control plane."""

    id: str
    service: str
    namespace: str
    service_account: str
    labels: Mapping[str, str]
    cluster: str = ""
    locality: Locality = field(default_factory=Locality)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, ports: Ports) -> dict[str, Any]:
        place = self.locality
        return {
            "id": self.id,
            "cluster": self.cluster or f"{self.service}.{self.namespace}",
            "locality": {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone},
            "metadata": {
                **self.metadata,
                "NAMESPACE": self.namespace,
                "SERVICE_ACCOUNT": self.service_account,
                "SERVICE": self.service,
                "LABELS": dict(self.labels),
                "PROXYLESS_OUTBOUND_PORT": ports.outbound,
                "PROXYLESS_INBOUND_ADDRESS": ports.address,
                "PROXYLESS_INBOUND_PORT": ports.inbound,
                "PROXYLESS_INBOUND_NAME": ports.inbound_name,
                "PROXYLESS_APP_PORT": ports.app,
            },
        }


def bootstrap(
    node: Node,
    ports: Ports,
    *,
    control_plane: str,
    trust_domain: str,
    secrets: Path,
    admin: Mapping[str, Any],
    delta: bool = True,
    tracing: Tracing | None = None,
) -> dict[str, Any]:
    """control_plane: ``host:port``, its TLS address. secrets: socket of the SDS server. admin: Envoy's Address.

    delta: incremental xDS, as Istio's sidecars have it since 1.22. One cluster that changes is sent alone, not with all
    others; of a response that is refused the good part gets through; and a reconnect brings what differs. Else state
    of the world. tracing: where spans go.
    """
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": _NEVER}
    clusters = [_sds_cluster(secrets), _xds_cluster(control_plane, trust_domain)]
    if tracing is not None:
        clusters.append(_collector_cluster(tracing))
    return {
        "node": node.to_dict(ports),
        "admin": {"address": admin},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": _XDS_CLUSTER}}],
            },
            # Ready means configured: without a word from the control plane there is nothing to serve.
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": clusters},
        "overload_manager": {"resource_monitors": [_CONNECTION_LIMIT]},
        "layered_runtime": {"layers": [{"name": "deployment", "static_layer": _RUNTIME}]},
    }


# By default Envoy refuses a regex beyond a program size of 100, such as ``x{0,200}``; Istio's limit. What the control
# plane's validation lets through (1 MiB of RE2's memory) is well below it.
_RUNTIME = {"re2.max_program_size.error_level": 32768}

# Envoy itself asks for a limit on connections, and warns without one.
_CONNECTION_LIMIT = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": f"{_TYPE}envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 50_000,
    },
}


def _sds_cluster(socket: Path) -> dict[str, Any]:
    return {
        "name": SDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _http2({}),
        "load_assignment": _one_endpoint(SDS_CLUSTER, {"pipe": {"path": str(socket)}}),
    }


def _xds_cluster(control_plane: str, trust_domain: str) -> dict[str, Any]:
    host, port = split_address(control_plane)
    name = control_plane_id(trust_domain)
    validation = {
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": str(name)}}],
    }
    return {
        "name": _XDS_CLUSTER,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        # As our own streams: a control plane that vanished without a word is noticed within 40 s.
        "typed_extension_protocol_options": _http2({"connection_keepalive": {"interval": "30s", "timeout": "10s"}}),
        "load_assignment": _one_endpoint(_XDS_CLUSTER, {"socket_address": {"address": host, "port_value": port}}),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": name.dns_name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificate_sds_secret_configs": [_secret(IDENTITY)],
                    "combined_validation_context": {
                        "default_validation_context": validation,
                        "validation_context_sds_secret_config": _secret(ROOTS),
                    },
                },
            },
        },
    }


def _collector_cluster(tracing: Tracing) -> dict[str, Any]:
    host, port = tracing.address
    return {
        "name": COLLECTOR,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "load_assignment": _one_endpoint(COLLECTOR, {"socket_address": {"address": host, "port_value": port}}),
    }


def _secret(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": _NEVER,
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": SDS_CLUSTER}}],
            },
        },
    }


def _http2(options: Mapping[str, Any]) -> dict[str, Any]:
    explicit = {"http2_protocol_options": dict(options)}
    return {_HTTP_OPTIONS: {"@type": _TYPE + _HTTP_OPTIONS, "explicit_http_config": explicit}}


def _one_endpoint(cluster: str, address: Mapping[str, Any]) -> dict[str, Any]:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

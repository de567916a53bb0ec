"""Istio's MeshConfig, as the ConfigMap ``istio`` holds it under ``data.mesh``: the mesh-wide settings.

Source: https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from proxyless.control_plane.resources.base import Spec, Text
from proxyless.control_plane.resources.destination_rule import LocalityLoadBalancerSetting


class OutboundTrafficPolicyMode(StrEnum):
    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class OutboundTrafficPolicy(Spec):
    mode: OutboundTrafficPolicyMode = OutboundTrafficPolicyMode.ALLOW_ANY


class MeshConfigSpec(Spec):
    """The fields that we read are typed; the others are known by name, so that a misspelled one is still an error.

    root_namespace: None is the control plane's own default, ``istio-system``.
    """

    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    root_namespace: Text | None = None
    trust_domain: Text | None = None

    access_log_encoding: Any = None
    access_log_file: Any = None
    access_log_format: Any = None
    ca: Any = None
    ca_certificates: Any = None
    certificates: Any = None
    config_sources: Any = None
    connect_timeout: Any = None
    default_config: Any = None
    default_destination_rule_export_to: Any = None
    default_http_retry_policy: Any = None
    default_inbound_http_retry_policy: Any = None
    default_providers: Any = None
    default_service_export_to: Any = None
    default_traffic_policy: Any = None
    default_virtual_service_export_to: Any = None
    disable_envoy_listener_log: Any = None
    discovery_selectors: Any = None
    dns_refresh_rate: Any = None
    enable_auto_mtls: Any = None
    enable_envoy_access_log_service: Any = None
    enable_prometheus_merge: Any = None
    enable_tracing: Any = None
    extension_providers: Any = None
    h2_upgrade_policy: Any = None
    hbone_idle_timeout: Any = None
    inbound_cluster_stat_name: Any = None
    inbound_traffic_policy: Any = None
    ingress_class: Any = None
    ingress_controller_mode: Any = None
    ingress_selector: Any = None
    ingress_service: Any = None
    mesh_mtls: Any = Field(default=None, alias="meshMTLS")
    outbound_cluster_stat_name: Any = None
    path_normalization: Any = None
    protocol_detection_timeout: Any = None
    proxy_http_port: Any = None
    proxy_inbound_listen_port: Any = None
    proxy_listen_port: Any = None
    service_scope_configs: Any = None
    service_settings: Any = None
    tcp_keepalive: Any = None
    thrift_config: Any = None
    tls_defaults: Any = None
    trust_domain_aliases: Any = None
    verify_certificate_at_client: Any = None

"""Kubernetes' Namespace, Service (v1) and EndpointSlice (discovery.k8s.io/v1), field for field.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/
"""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field

from proxyless.control_plane.resources.base import Boolean, Int32, IntOrString, Port, Spec, Text

# The label by which an EndpointSlice names its Service, and Istio's by which anything names its canonical service.
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class NamespaceSpec(Spec):
    finalizers: tuple[Text, ...] = ()


class ServicePort(Spec):
    """target_port: a number or the name of a port of the workload; absent means ``port``."""

    port: Port
    name: Text = ""
    protocol: Text = "TCP"
    target_port: IntOrString | None = None
    app_protocol: Text = ""
    node_port: Int32 | None = None


class ServiceType(StrEnum):
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class ClientIPConfig(Spec):
    timeout_seconds: Int32 | None = None


class SessionAffinityConfig(Spec):
    client_ip: ClientIPConfig | None = Field(default=None, alias="clientIP")


class ServiceSpec(Spec):
    """An empty selector selects nothing: the Service's endpoints are then its EndpointSlices alone."""

    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[Text, Text] = {}
    type: ServiceType = ServiceType.CLUSTER_IP
    cluster_ip: Text = Field(default="", alias="clusterIP")
    cluster_ips: tuple[Text, ...] = Field(default=(), alias="clusterIPs")
    external_ips: tuple[Text, ...] = Field(default=(), alias="externalIPs")
    external_name: Text = ""
    external_traffic_policy: Text = ""
    internal_traffic_policy: Text = ""
    health_check_node_port: Int32 | None = None
    ip_families: tuple[Text, ...] = ()
    ip_family_policy: Text = ""
    load_balancer_class: Text = ""
    load_balancer_ip: Text = Field(default="", alias="loadBalancerIP")
    load_balancer_source_ranges: tuple[Text, ...] = ()
    allocate_load_balancer_node_ports: Boolean | None = None
    publish_not_ready_addresses: Boolean = False
    session_affinity: Text = ""
    session_affinity_config: SessionAffinityConfig | None = None
    traffic_distribution: Text = ""


class AddressType(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"
    FQDN = "FQDN"


class EndpointConditions(Spec):
    """None is unknown: ready and serving then count as true, terminating as false (Kubernetes)."""

    ready: Boolean | None = None
    serving: Boolean | None = None
    terminating: Boolean | None = None


class ForZone(Spec):
    name: Text


class ForNode(Spec):
    name: Text


class EndpointHints(Spec):
    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class ObjectReference(Spec):
    api_version: Text = ""
    kind: Text = ""
    namespace: Text = ""
    name: Text = ""
    uid: Text = ""
    resource_version: Text = ""
    field_path: Text = ""


class Endpoint(Spec):
    addresses: tuple[Text, ...]
    conditions: EndpointConditions = EndpointConditions()
    hostname: Text = ""
    target_ref: ObjectReference | None = None
    deprecated_topology: Mapping[Text, Text] = {}
    node_name: Text = ""
    zone: Text = ""
    hints: EndpointHints | None = None


class EndpointPort(Spec):
    """name: that of the Service's port. port: None stands for every port."""

    name: Text = ""
    port: Port | None = None
    protocol: Text = "TCP"
    app_protocol: Text = ""


class EndpointSliceSpec(Spec):
    """These fields are at the top of the document, not under ``spec``."""

    address_type: AddressType
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

"""Istio's ServiceEntry (networking.istio.io), field for field.

Source: https://istio.io/latest/docs/reference/config/networking/service-entry/
"""

from enum import StrEnum

from proxyless.control_plane.resources.base import NetworkingWorkloadSelector, Port, Spec, Text
from proxyless.control_plane.resources.workload_entry import WorkloadEntrySpec


class Location(StrEnum):
    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServicePort(Spec):
    """target_port: absent means ``number``."""

    number: Port
    name: Text
    protocol: Text = ""
    target_port: Port | None = None


class ServiceEntrySpec(Spec):
    """export_to: absent means every namespace."""

    hosts: tuple[Text, ...] = ()
    addresses: tuple[Text, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: Location = Location.MESH_EXTERNAL
    resolution: Resolution = Resolution.NONE
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: NetworkingWorkloadSelector | None = None
    export_to: tuple[Text, ...] = ()
    subject_alt_names: tuple[Text, ...] = ()

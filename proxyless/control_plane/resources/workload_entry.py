"""Istio's WorkloadEntry (networking.istio.io), which a ServiceEntry also lists inline as ``endpoints``.

Source: https://istio.io/latest/docs/reference/config/networking/workload-entry/
"""

from collections.abc import Mapping

from proxyless.control_plane.resources.base import Port, Spec, Text, UInt32


class WorkloadEntrySpec(Spec):
    """ports: by the name of the service's port. weight: 0 is unset and means 1. locality: ``region/zone/sub-zone``."""

    address: Text = ""
    ports: Mapping[Text, Port] = {}
    labels: Mapping[Text, Text] = {}
    network: Text = ""
    locality: Text = ""
    weight: UInt32 = 0
    service_account: Text = ""

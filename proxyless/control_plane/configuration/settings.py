"""MeshConfig to the settings that ``translate`` reads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxyless.control_plane.resources.mesh_config import MeshConfigSpec, OutboundTrafficPolicyMode
from proxyless.control_plane.resources.resource import Key, Resource
from proxyless.control_plane.world import MeshSettings


def mesh_settings(resources: Mapping[Key, Resource[Any]], base: MeshSettings) -> MeshSettings:
    """``base`` with what the ConfigMap ``istio`` in the root namespace says. The trust domain is not taken from it."""
    resource = resources.get(Key("ConfigMap", base.root_namespace, "istio"))
    if resource is None or not isinstance(resource.spec, MeshConfigSpec):
        return base
    policy = resource.spec.outbound_traffic_policy
    allow_any = policy is None or policy.mode is OutboundTrafficPolicyMode.ALLOW_ANY
    root_namespace = resource.spec.root_namespace or base.root_namespace
    return replace(
        base,
        outbound_allow_any=allow_any,
        root_namespace=root_namespace,
        locality_lb=resource.spec.locality_lb_setting,
    )

"""The configuration in effect: YAML files that are watched, and resources applied over the API, made into one."""

from proxyless.control_plane.configuration.applied import Applied, Change
from proxyless.control_plane.configuration.configuration import Configuration
from proxyless.control_plane.configuration.settings import mesh_settings

__all__ = ["Applied", "Change", "Configuration", "mesh_settings"]

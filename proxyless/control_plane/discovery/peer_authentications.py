"""Which mutual TLS mode a workload's port has: PeerAuthentication's precedence."""

from collections.abc import Mapping
from typing import Any

from proxyless.control_plane.discovery.service import ServiceEndpoint, selects
from proxyless.control_plane.resources.peer_authentication import MutualTLSMode, PeerAuthenticationSpec
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.world import World
from proxyless.model.inbound import MutualTls

_MODES = {
    MutualTLSMode.DISABLE: MutualTls.DISABLE,
    MutualTLSMode.PERMISSIVE: MutualTls.PERMISSIVE,
    MutualTLSMode.STRICT: MutualTls.STRICT,
}


class PeerAuthentications:
    """Precedence (Istio): port level, then the workload's policy, the namespace's, the mesh's; PERMISSIVE if none says.

    Of several policies at one level the oldest counts. UNSET and absent take the next level's mode.
    """

    def __init__(self, world: World) -> None:
        root = world.settings.root_namespace
        self._selecting: dict[str, list[Resource[Any]]] = {}
        self._namespaces: dict[str, Resource[Any]] = {}
        self._mesh: Resource[Any] | None = None
        for resource in world.of("PeerAuthentication"):
            spec: PeerAuthenticationSpec = resource.spec
            if spec.selector is not None and spec.selector.match_labels:
                self._selecting.setdefault(resource.namespace, []).append(resource)
            elif resource.namespace == root:
                self._mesh = self._mesh or resource
            else:
                self._namespaces.setdefault(resource.namespace, resource)

        # Labels of servers that policies select by.
        self.label_keys = frozenset(
            key for found in self._selecting.values() for one in found for key in one.spec.selector.match_labels
        )

    def mode(self, namespace: str, labels: Mapping[str, str], port: int) -> MutualTls:
        """What the workload with ``labels`` in ``namespace`` asks of callers on its port ``port``."""
        workload = next(
            (
                resource
                for resource in self._selecting.get(namespace, ())
                if selects(resource.spec.selector.match_labels, labels)
            ),
            None,
        )
        # Port-level modes exist only beside a selector (Istio ignores them elsewhere).
        levels = [workload.spec.port_level_mtls.get(port)] if workload else []
        levels += [policy.spec.mtls for policy in (workload, self._namespaces.get(namespace), self._mesh) if policy]
        return next((_MODES[level.mode] for level in levels if level and level.mode in _MODES), MutualTls.PERMISSIVE)

    def origin(self, namespace: str, labels: Mapping[str, str]) -> str:
        """The most specific policy that has a say, for people; "" when the default acts."""
        policy = self.of(namespace, labels)
        return str(policy.key) if policy else ""

    def of(self, namespace: str, labels: Mapping[str, str]) -> Resource[Any] | None:
        """The most specific policy that has a say."""
        for resource in self._selecting.get(namespace, ()):
            if selects(resource.spec.selector.match_labels, labels):
                return resource
        return self._namespaces.get(namespace) or self._mesh


def serves_mutual_tls(policies: PeerAuthentications, endpoint: ServiceEndpoint) -> bool:
    """It can terminate mutual TLS, and no PeerAuthentication switches that off."""
    if not endpoint.mutual_tls or endpoint.identity is None:
        return False
    return policies.mode(endpoint.namespace, endpoint.labels, endpoint.port) is not MutualTls.DISABLE

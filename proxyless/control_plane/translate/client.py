"""Who asks: what the control plane knows of an xDS client from the Node it introduces itself with."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxyless.control_plane.discovery.localities import locality_of
from proxyless.control_plane.translate.sidecar_ports import SidecarPorts
from proxyless.control_plane.translate.sidecar_tracing import Tracing
from proxyless.model.cluster import Locality

_MAX_LABELS = 256
_MAX_TEXT = 253
_MAX_VERSION = 64
_NOWHERE = Locality()


class ClientKind(enum.Enum):
    """What a client can take: each kind is sent only resources that it accepts."""

    PROXYLESS = "proxyless"
    GRPC = "grpc"
    ENVOY = "envoy"

    # A part of every cache key: by identity, which is quicker than by name, and the same.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of a client that resources depend on, and so a part of every cache key.

    labels: sorted pairs, so that equal scopes are equal keys. locality: set only where it matters (clusters and
    endpoints of a mesh that has rules about localities), so that clients of all places share the rest. tracing: for
    listeners only, likewise.
    """

    kind: ClientKind
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    locality: Locality = _NOWHERE
    tracing: Tracing | None = None

    @property
    def label_map(self) -> dict[str, str]:
        return dict(self.labels)


_NO_PORTS = SidecarPorts()


@dataclass(frozen=True, slots=True)
class Client:
    """ports: where an Envoy sidecar listens, which is what a subscription to all listeners asks for.

    tracing: of an Envoy. version: of its software, as it says, for people.
    """

    kind: ClientKind = ClientKind.PROXYLESS
    node_id: str = ""
    namespace: str = "default"
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    locality: Locality = _NOWHERE
    ports: SidecarPorts = _NO_PORTS
    tracing: Tracing | None = None
    version: str = ""

    @property
    def scope(self) -> Scope:
        return Scope(self.kind, self.namespace, tuple(sorted(self.labels.items())))

    @property
    def local_scope(self) -> Scope:
        return replace(self.scope, locality=self.locality)

    @classmethod
    def from_node(cls, node: Any) -> "Client":
        """From an envoy.config.core.v3.Node. Istio's metadata keys NAMESPACE, LABELS, SERVICE_ACCOUNT; our SERVICE, and
        those of ``sidecar_ports`` and ``sidecar_tracing``.

        What is missing or not of the expected form takes its default: a node describes itself, it proves nothing.
        """
        metadata = node.metadata.fields if node.HasField("metadata") else {}

        def text(key: str) -> str:
            if key not in metadata or not metadata[key].HasField("string_value"):
                return ""
            value: str = metadata[key].string_value
            return value[:_MAX_TEXT]

        labels: dict[str, str] = {}
        if "LABELS" in metadata and metadata["LABELS"].HasField("struct_value"):
            fields = metadata["LABELS"].struct_value.fields
            for name in sorted(fields)[:_MAX_LABELS]:
                if fields[name].HasField("string_value"):
                    labels[name[:_MAX_TEXT]] = fields[name].string_value[:_MAX_TEXT]
        # As for registered workloads: the service is the label ``app`` unless a label says otherwise.
        if service := text("SERVICE"):
            labels.setdefault("app", service)
        place = node.locality
        told = Locality(place.region[:_MAX_TEXT], place.zone[:_MAX_TEXT], place.sub_zone[:_MAX_TEXT])
        return cls(
            kind=_kind(node.user_agent_name),
            node_id=node.id[:1024],
            namespace=text("NAMESPACE") or "default",
            service_account=text("SERVICE_ACCOUNT"),
            labels=labels,
            locality=locality_of(labels, told),
            ports=SidecarPorts.from_metadata(metadata),
            tracing=Tracing.from_metadata(metadata),
            version=_version(node),
        )


def _kind(user_agent: str) -> ClientKind:
    if user_agent == "proxyless":
        return ClientKind.PROXYLESS
    return ClientKind.GRPC if user_agent.lower().startswith("grpc") else ClientKind.ENVOY


def _version(node: Any) -> str:
    """gRPC and we say it in words, Envoy in numbers."""
    if node.user_agent_version or not node.HasField("user_agent_build_version"):
        return str(node.user_agent_version)[:_MAX_VERSION]
    number = node.user_agent_build_version.version
    return f"{number.major_number}.{number.minor_number}.{number.patch}"

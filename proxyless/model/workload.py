"""What a running process tells the control plane about itself when it registers."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from proxyless.model.errors import ConfigurationError

# The gRPC method both sides use; messages are google.protobuf.Struct, their shape is ``Workload.to_dict``.
REGISTER_METHOD = "/proxyless.registry.v1.Registry/Register"
# It becomes a host name and a part of cluster names: "*" would be a wildcard there, "|" a border.
_SERVICE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]*\Z")


class WorkloadState(enum.Enum):
    SERVING = "serving"
    DRAINING = "draining"  # finishes what it has, takes nothing new


@dataclass(frozen=True, slots=True)
class Workload:
    """A process that serves. ``ports`` maps a port's name ("" for an unnamed one) to its number; ``id`` is unique per
    process.

    mutual_tls: the process can terminate mutual TLS on its ports, so clients should use it (Istio's auto mTLS).
    """

    id: str
    namespace: str
    service: str
    service_account: str
    address: str
    ports: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    state: WorkloadState = WorkloadState.SERVING
    mutual_tls: bool = True
    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def draining(self) -> Self:
        return replace(self, state=WorkloadState.DRAINING)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "namespace": self.namespace,
            "service": self.service,
            "serviceAccount": self.service_account,
            "address": self.address,
            "ports": dict(self.ports),
            "labels": dict(self.labels),
            "state": self.state.value,
            "mutualTls": self.mutual_tls,
            "region": self.region,
            "zone": self.zone,
            "subZone": self.sub_zone,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Workload":
        """The inverse of ``to_dict``, for bytes a peer sent: raises ConfigurationError naming the field that is
        wrong.
        """

        def text(key: str, *, required: bool = True, limit: int = 253) -> str:
            value = data.get(key, "")
            # Printable: it ends up in logs, in metrics and on terminals.
            if not isinstance(value, str) or (required and not value) or len(value) > limit or not value.isprintable():
                raise ConfigurationError(f"workload field {key!r} must be a printable text of 1 to {limit} characters")
            return value

        def table(key: str) -> Mapping[str, Any]:
            value = data.get(key, {})
            if not isinstance(value, Mapping) or len(value) > 256:
                raise ConfigurationError(f"workload field {key!r} must be a mapping of at most 256 entries")
            return value

        ports: dict[str, int] = {}
        for name, port in table("ports").items():
            # JSON and Struct know only floats, among them NaN and the infinities.
            if isinstance(port, bool) or not isinstance(port, int | float) or not 0 < port < 65536 or port % 1:
                raise ConfigurationError(f"workload port {str(name)[:253]!r} must be a number from 1 to 65535")
            if len(str(name)) > 253 or not str(name).isprintable():
                raise ConfigurationError("workload port names must be printable texts of at most 253 characters")
            ports[str(name)] = int(port)
        service = text("service", required=False)
        if service and not _SERVICE.match(service):
            raise ConfigurationError(
                f"workload service {service!r} must be a name of letters, digits, '-', '_' and '.'"
            )
        labels = {str(key): str(value)[:253] for key, value in table("labels").items()}
        if not all(len(key) <= 253 and (key + value).isprintable() for key, value in labels.items()):
            raise ConfigurationError("workload field 'labels' must have printable keys of at most 253 characters")
        state = text("state")
        if state not in {member.value for member in WorkloadState}:
            raise ConfigurationError(f"workload state {state[:40]!r} must be one of: serving, draining")
        return cls(
            id=text("id"),
            namespace=text("namespace"),
            service=service,
            service_account=text("serviceAccount"),
            address=text("address"),
            ports=ports,
            labels=labels,
            state=WorkloadState(state),
            mutual_tls=data.get("mutualTls") is True,
            region=text("region", required=False),
            zone=text("zone", required=False),
            sub_zone=text("subZone", required=False),
        )

"""A service of the mesh, wherever it was declared, and one of its endpoints: what every translation starts from."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxyless.control_plane.discovery.protocol import PortProtocol
from proxyless.control_plane.discovery.visibility import EVERYWHERE, Visibility
from proxyless.control_plane.resources.rate_limit import Rate
from proxyless.model.cluster import Health, Locality
from proxyless.model.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class ServicePort:
    """target: the workload's port, by name or number; None for the port itself."""

    number: int
    name: str = ""
    protocol: PortProtocol = PortProtocol.UNSET
    target: int | str | None = None


class Resolution(enum.Enum):
    ENDPOINTS = "endpoints"  # known addresses
    DNS = "dns"  # names to resolve, all answers used
    DNS_ROUND_ROBIN = "dns-round-robin"  # names to resolve, one answer at a time (Envoy's LOGICAL_DNS)
    PASSTHROUGH = "passthrough"  # the address that was dialled


class Kind(enum.Enum):
    """Which resource declared a service; the order is who wins when two declare one host."""

    SERVICE = 0
    IMPLIED = 1
    SERVICE_ENTRY = 2


@dataclass(frozen=True, slots=True)
class Service:
    """host: fully qualified, may be a wildcard (ServiceEntry). external: outside the mesh, without mesh identity.

    selector: labels of its workloads; None selects none. external_name: the DNS name that a Service of type
    ExternalName stands for. addresses: virtual IP addresses and CIDRs of a ServiceEntry.
    resource_name: the metadata.name of what declared it. origin: for people.
    prefer_close: clients use the endpoints nearest to them first (Kubernetes' trafficDistribution).
    rates: of requests that each of its workloads allows.
    """

    host: str
    name: str
    namespace: str
    kind: Kind
    ports: tuple[ServicePort, ...]
    visibility: Visibility = EVERYWHERE
    resolution: Resolution = Resolution.ENDPOINTS
    external: bool = False
    selector: Mapping[str, str] | None = None
    external_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    origin: str = ""
    resource_name: str = ""
    prefer_close: bool = False
    rates: tuple[Rate, ...] = ()

    def __hash__(self) -> int:
        """Of what tells services apart: a selector is a mapping, which has none."""
        return hash((self.host, self.namespace, self.resource_name))

    def port(self, number: int) -> ServicePort | None:
        return next((port for port in self.ports if port.number == number), None)


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """One address that serves one port of a service.

    identity: the SPIFFE ID it proves, None when none is known. mutual_tls: it terminates mutual TLS there.
    id: the registered process, "" for others. weight: 1 unless a WorkloadEntry gives another.
    """

    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    workload: str = ""
    id: str = ""
    health: Health = Health.HEALTHY
    weight: int = 1
    locality: Locality = field(default_factory=Locality)
    identity: SpiffeId | None = None
    mutual_tls: bool = False
    hostname: str = ""


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector; an empty selector is satisfied by all."""
    return all(labels.get(key) == value for key, value in selector.items())

"""Where an Envoy sidecar listens and forwards to: read from its node, and written into its resources' names.

Resources are remembered by kind of client and name, so what a listener depends on must be in its name.
"""

from dataclasses import dataclass
from typing import Any, Self

from proxyless.control_plane.discovery.protocol import PortProtocol, select
from proxyless.control_plane.resources.names import is_ip

OUTBOUND_PORT = "PROXYLESS_OUTBOUND_PORT"
INBOUND_PORT = "PROXYLESS_INBOUND_PORT"
INBOUND_ADDRESS = "PROXYLESS_INBOUND_ADDRESS"
INBOUND_NAME = "PROXYLESS_INBOUND_NAME"
APP_PORT = "PROXYLESS_APP_PORT"

_OUTBOUND, _INBOUND = "outbound", "inbound"
EVERYWHERE = "0.0.0.0"  # noqa: S104  Istio's inbound address


@dataclass(frozen=True, slots=True)
class InboundPort:
    """address, port: what callers connect to. app: the application's port on loopback. protocol: as its name says."""

    address: str
    port: int
    app: int
    protocol: PortProtocol = PortProtocol.UNSET

    @property
    def listener(self) -> str:
        known = "" if self.protocol is PortProtocol.UNSET else f"|{self.protocol.value}"
        return f"{_INBOUND}|{self.address}|{self.port}|{self.app}{known}"

    @property
    def cluster(self) -> str:
        """Istio's name of the cluster that is the application; what it speaks, if its port's name says that."""
        known = "" if self.protocol is PortProtocol.UNSET else self.protocol.value
        return f"{_INBOUND}|{self.app}||{known}"

    @classmethod
    def of_listener(cls, name: str) -> Self | None:
        parts = name.split("|")
        protocol = _protocol(parts[4]) if len(parts) == 5 else PortProtocol.UNSET
        if len(parts) not in {4, 5} or parts[0] != _INBOUND or protocol is None:
            return None
        port, app = _port(parts[2]), _port(parts[3])
        return cls(parts[1], port, app, protocol) if is_ip(parts[1]) and port and app else None


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """outbound: the port on loopback that applications use as their HTTP proxy, 0 for none."""

    outbound: int = 0
    inbound: InboundPort | None = None

    @property
    def listeners(self) -> tuple[str, ...]:
        outbound = (f"{_OUTBOUND}|{self.outbound}",) if self.outbound else ()
        return (*outbound, self.inbound.listener) if self.inbound else outbound

    @property
    def clusters(self) -> tuple[str, ...]:
        return (self.inbound.cluster,) if self.inbound else ()

    @classmethod
    def from_metadata(cls, fields: Any) -> Self:
        """``fields`` of a node's metadata Struct; what is missing or is no port is not listened on."""

        def port(key: str) -> int:
            value = fields[key].number_value if key in fields else 0.0
            return int(value) if 0 < value < 65536 and value == int(value) else 0

        address = fields[INBOUND_ADDRESS].string_value if INBOUND_ADDRESS in fields else EVERYWHERE
        inbound, app = port(INBOUND_PORT), port(APP_PORT)
        able = inbound and app and is_ip(address)
        protocol = select(fields[INBOUND_NAME].string_value if INBOUND_NAME in fields else "")
        return cls(port(OUTBOUND_PORT), InboundPort(address, inbound, app, protocol) if able else None)


def outbound_port(listener: str) -> int:
    """The port in an outbound listener's name; 0 for another name."""
    kind, separator, port = listener.partition("|")
    return _port(port) if separator and kind == _OUTBOUND else 0


def inbound_cluster(name: str) -> tuple[int, PortProtocol] | None:
    """The application's port, and what its name says it speaks; None for the name of another cluster."""
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != _INBOUND or parts[2]:
        return None
    app, protocol = _port(parts[1]), _protocol(parts[3]) if parts[3] else PortProtocol.UNSET
    return (app, protocol) if app and protocol is not None else None


def _protocol(text: str) -> PortProtocol | None:
    return next((one for one in PortProtocol if one.value == text and one is not PortProtocol.UNSET), None)


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if number < 65536 else 0

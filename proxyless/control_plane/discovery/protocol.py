"""Which protocol a service's port speaks, selected as Istio does.

Source: https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/
"""

import enum


class PortProtocol(enum.Enum):
    """UNSET: nobody said. Istio sniffs it; a library client knows what it speaks, and treats it as HTTP."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    UDP = "UDP"
    UNSET = "UNSET"

    @property
    def is_http(self) -> bool:
        """Requests can be routed: HTTP in some version, in the clear as far as the mesh is concerned."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        return self in {PortProtocol.HTTP2, PortProtocol.GRPC}


_HTTP = frozenset({PortProtocol.HTTP, PortProtocol.HTTP2, PortProtocol.GRPC, PortProtocol.GRPC_WEB, PortProtocol.UNSET})
_NAMES = {
    "http": PortProtocol.HTTP,
    "http2": PortProtocol.HTTP2,
    "h2c": PortProtocol.HTTP2,
    "grpc": PortProtocol.GRPC,
    "grpc-web": PortProtocol.GRPC_WEB,
    "https": PortProtocol.HTTPS,
    "tls": PortProtocol.TLS,
    "tcp": PortProtocol.TCP,
    "udp": PortProtocol.UDP,
    # Opaque to a mesh of HTTP and gRPC.
    "mongo": PortProtocol.TCP,
    "mysql": PortProtocol.TCP,
    "redis": PortProtocol.TCP,
    # Kubernetes' standard application protocols (KEP-3726).
    "kubernetes.io/h2c": PortProtocol.HTTP2,
    "kubernetes.io/ws": PortProtocol.HTTP,
    "kubernetes.io/wss": PortProtocol.HTTPS,
}


def select(name: str, app_protocol: str = "", transport: str = "") -> PortProtocol:
    """``app_protocol`` decides if it is known, else the part of the port's name before its first ``-``.

    transport: Kubernetes' ``protocol`` of the port (TCP, UDP, SCTP). An unknown ``app_protocol`` says nothing.
    """
    if transport.upper() in {"UDP", "SCTP"}:
        return PortProtocol.UDP
    if found := _NAMES.get(app_protocol.lower()):
        return found
    name = name.lower()
    if name == "grpc-web" or name.startswith("grpc-web-"):
        return PortProtocol.GRPC_WEB
    return _NAMES.get(name.partition("-")[0], PortProtocol.UNSET)


def declared(protocol: str, name: str) -> PortProtocol:
    """The protocol of a ServiceEntry's port, which says it outright; without one its name decides."""
    return _NAMES.get(protocol.lower()) or select(name)

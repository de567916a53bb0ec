"""The address under which others reach this process."""

import ipaddress
import socket

from proxyless.model.address import split_address


def own_address(control_plane: str) -> str:
    """The local address of a route to the control plane (``host:port``); no packet is sent.

    With a control plane on loopback that is 127.0.0.1; without any route (no network yet) too.
    """
    host, port = split_address(control_plane)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            address = str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return "127.0.0.1"
    return "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address

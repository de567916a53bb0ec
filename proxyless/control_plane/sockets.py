"""Listening sockets of the control plane's servers, and which addresses are this machine's own."""

import ipaddress
import socket

from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; ConfigurationError naming ``option`` if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {join_address(host, port)}: {error.strerror or error}; choose another {option}"
        ) from None
    listener.setblocking(False)
    return listener


def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback

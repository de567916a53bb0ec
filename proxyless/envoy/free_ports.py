"""Ports for Envoy to listen on, checked before it is started: its own complaint would be a refused listener.

A free one is chosen below those that the kernel gives to whoever asks for any, so nobody gets it before Envoy listens.
"""

import contextlib
import ipaddress
import random
import socket
from collections.abc import Iterable

from proxyless.model.address import join_address
from proxyless.model.errors import ConfigurationError

# Linux's default for the lowest port that it gives away, and where we begin.
_EPHEMERAL, _LOWEST = 32_768, 10_000
_TRIES = 50


def choose_ports(wanted: Iterable[tuple[str, int, str]]) -> list[int]:
    """For each (address, port, option) the port, or any free one for 0.

    Raises ConfigurationError naming the option of a port that is taken or an address that is not this machine's.
    """
    with contextlib.ExitStack() as held:
        # All are held until all are chosen, so that no two are the same.
        return [_bound(held.enter_context(_socket(address)), address, port, option) for address, port, option in wanted]


def _socket(address: str) -> socket.socket:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise ConfigurationError(f"--host {address[:300]!r} is not an IP address, e.g. 0.0.0.0 or 127.0.0.1") from None
    return socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)


def _bound(one: socket.socket, address: str, port: int, option: str) -> int:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if port or not _bind_any(one, address):
            one.bind((address, port))
        # Two sockets may be bound to a port with SO_REUSEADDR, but only one may listen on it.
        one.listen(1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {join_address(address, port)}: {error.strerror or error}; choose another {option}"
        ) from None
    return int(one.getsockname()[1])


def _bind_any(one: socket.socket, address: str) -> bool:
    for candidate in random.sample(range(_LOWEST, _EPHEMERAL), _TRIES):
        with contextlib.suppress(OSError):
            one.bind((address, candidate))
            return True
    return False

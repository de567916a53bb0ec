"""What an application dials, and where a subchannel connects."""

import ipaddress

from proxyless.model.address import join_address
from proxyless.model.cluster import Endpoint
from proxyless.model.domains import split_port
from proxyless.model.errors import ConfigurationError


def parse(target: str) -> str:
    """``host:port`` of a gRPC target; ``dns:///`` in front of it is left out, as it says the same.

    Raises ConfigurationError for other schemes and for what has no port: services have no default one in gRPC.
    """
    name = target.removeprefix("dns:///")
    host, port = split_port(name)
    if not host or port is None or "/" in name:
        raise ConfigurationError(f"{target!r} is not a target of the form HOST:PORT")
    return name


def host_of(authority: str) -> str:
    return split_port(authority)[0]


def address(endpoint: Endpoint) -> str:
    """In gRPC's naming: addresses are not looked up, names are."""
    where = join_address(endpoint.address, endpoint.port)
    try:
        version = ipaddress.ip_address(endpoint.address).version
    except ValueError:
        return f"dns:///{where}"
    return f"ipv{version}:{where}"

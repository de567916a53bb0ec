"""``HOST:PORT`` as people and configuration write it; an IPv6 address stands in brackets."""

import ipaddress

from proxyless.model.errors import ConfigurationError


def split_address(address: str, what: str = "the address", *, any_port: bool = False) -> tuple[str, int]:
    """Host (without brackets) and port; any_port: 0 is one too, for "choose a free one".

    Raises ConfigurationError that begins with ``what`` for anything else.
    """
    host, colon, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    good = colon and bare and (0 if any_port else 1) <= number < 65536
    if not good or any(character.isspace() or character in "/@?#" for character in bare):
        raise ConfigurationError(f"{what} is {address[:300]!r}: write HOST:PORT, e.g. 127.0.0.1:15012")
    if bracketed != (":" in bare) or (bracketed and not _is_ipv6(bare)):
        raise ConfigurationError(f"{what} is {address[:300]!r}: write an IPv6 address as [ADDRESS]:PORT")
    return bare, number


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

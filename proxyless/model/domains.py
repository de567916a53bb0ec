"""Which virtual host an authority selects. Source: Envoy's ``config.route.v3.VirtualHost.domains``.

Search order: exact, longest ``*suffix``, longest ``prefix*``, ``*``; all without regard to ASCII case. Pure data, so
that both the compilation of a route configuration and an explanation can use it.
"""

import enum
from collections.abc import Sequence

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class DomainKind(enum.IntEnum):
    """How specific a domain is; a lower number wins."""

    EXACT = 0
    SUFFIX = 1
    PREFIX = 2
    ANY = 3


def ascii_lower(text: str) -> str:
    """Lower case of A-Z only, as Envoy compares: ``str.lower`` would make the Kelvin sign a ``k`` and widen a match."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def kind_of(domain: str) -> DomainKind:
    if domain == "*":
        return DomainKind.ANY
    if domain.startswith("*"):
        return DomainKind.SUFFIX
    if domain.endswith("*"):
        return DomainKind.PREFIX
    return DomainKind.EXACT


def domain_matches(domain: str, host: str) -> bool:
    """Whether a domain covers a host; a wildcard stands for at least one character (``*.a.com`` is not ``.a.com``)."""
    domain, host = ascii_lower(domain), ascii_lower(host)
    match kind_of(domain):
        case DomainKind.ANY:
            return True
        case DomainKind.SUFFIX:
            return len(host) > len(domain) - 1 and host.endswith(domain[1:])
        case DomainKind.PREFIX:
            return len(host) > len(domain) - 1 and host.startswith(domain[:-1])
        case DomainKind.EXACT:
            return domain == host


def search(virtual_hosts: Sequence[Sequence[str]], *names: str) -> tuple[int, str] | None:
    """The virtual host that Envoy selects: its index and the domain that matched, or None.

    virtual_hosts: each one's domains. names: spellings of one authority, preferred first where a domain of equal kind
    and length covers several: a dial target always has a port, a ``Host`` header for port 80 has none.
    """
    best: tuple[tuple[int, int, int], int, str] | None = None
    for index, domains in enumerate(virtual_hosts):
        for domain in domains:
            for order, name in enumerate(names):
                if domain_matches(domain, name):
                    rank = kind_of(domain), -len(domain), order
                    if best is None or rank < best[0]:
                        best = rank, index, domain
    return (best[1], best[2]) if best is not None else None


def split_port(authority: str) -> tuple[str, int | None]:
    """Host and port of an authority; an IPv6 address keeps its brackets. No number, no port."""
    host, _, port = authority.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        return authority, None
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return authority, None  # a bare IPv6 address
    return host, int(port)

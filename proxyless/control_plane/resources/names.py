"""Names of hosts: what may be one, how Kubernetes and Istio complete short ones, and what a wildcard covers."""

import ipaddress
import re
from collections.abc import Container, Iterable

from proxyless.model.domains import split_port

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
# Istio's IsWildcardDNS1123Label: an asterisk alone or at the front of the first label; upper case is allowed in hosts.
_HOST_LABEL = re.compile(r"[a-zA-Z0-9_](?:[-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\Z")
_WILDCARD_LABEL = re.compile(r"(?:\*|\*?[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)\Z")


# In words, for who gave another.
DNS_LABEL_RULE = "a DNS-1123 label: lower case letters, digits and '-', at most 63"


def is_dns_label(name: str) -> bool:
    """RFC 1123 label: what a namespace, a Service and a subset may be called."""
    return _LABEL.match(name) is not None


def is_dns_subdomain(name: str) -> bool:
    """RFC 1123 subdomain, at most 253 characters: what most Kubernetes objects may be called."""
    return len(name) <= 253 and all(_LABEL.match(label) for label in name.split("."))


def is_host(host: str, *, wildcard: bool = True) -> bool:
    """A DNS name, with ``*`` as or at the front of its first label if ``wildcard`` (Istio: ValidateWildcardDomain)."""
    if not host or len(host) > 255:
        return False
    first, *rest = host.removesuffix(".").split(".")
    if not (_WILDCARD_LABEL if wildcard else _HOST_LABEL).match(first):
        return False
    return all(_HOST_LABEL.match(label) for label in rest)


def is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def is_ip_or_cidr(address: str) -> bool:
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError:
        return False
    return True


def canonical(host: str) -> str:
    """Lower case, without the root's trailing dot: two spellings of one DNS name are one host."""
    return host.lower().removesuffix(".")


def service_host(name: str, namespace: str, cluster_domain: str) -> str:
    return f"{name}.{namespace}.svc.{cluster_domain}"


def qualify(host: str, namespace: str, cluster_domain: str, known: Container[str] = ()) -> str:
    """A host as a rule writes it: a name without dots is a service of the rule's namespace.

    Source: Istio's VirtualService.hosts and Destination.host ("short names ... are interpreted based on the
    namespace of the rule, not the service"). ``reviews.ns``, which Istio takes as it stands, is completed when
    it is a known service then.
    """
    host = canonical(host)
    if host.startswith("*"):
        return host
    if "." not in host:
        return service_host(host, namespace, cluster_domain)
    return next((name for name in candidates(host, namespace, cluster_domain) if name in known), host)


class Known:
    """The hosts that there are, as ``qualify`` is given them. asked: the names whose being there or not mattered."""

    def __init__(self, hosts: Container[str]) -> None:
        self.asked: set[str] = set()
        self._hosts = hosts

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        self.asked.add(name)
        return name in self._hosts


def candidates(name: str, namespace: str, cluster_domain: str) -> tuple[str, ...]:
    """What a name may mean for a caller in ``namespace``, best first, as a pod's DNS search path has it.

    ``reviews`` is tried as a service of the namespace before it is tried as it stands; a dotted name the other
    way round.
    """
    name = canonical(name)
    if "." not in name:
        return service_host(name, namespace, cluster_domain), name
    if name.endswith(f".svc.{cluster_domain}"):
        return (name,)
    if name.endswith(".svc"):
        return name, f"{name}.{cluster_domain}"
    return name, f"{name}.svc.{cluster_domain}"


def covers(pattern: str, host: str) -> bool:
    """Whether a host pattern (exact, ``*.suffix`` or ``*``) covers a host, itself possibly a narrower pattern."""
    if pattern in {host, "*"}:
        return True
    return pattern.startswith("*") and host.endswith(pattern[1:]) and len(host) >= len(pattern)


def most_specific(patterns: Iterable[str], host: str) -> str | None:
    """The narrowest pattern that covers ``host``: itself, else the longest wildcard, else None (Istio, Envoy)."""
    found = [pattern for pattern in patterns if covers(pattern, host)]
    if host in found:
        return host
    return max(found, key=lambda pattern: (len(pattern), pattern), default=None)


def split_target(target: str) -> tuple[str, int] | None:
    """``host:port`` (``[::1]:80`` too) in its parts, None if it is not of that form or the port is not 1 to 65535."""
    host, port = split_port(target)
    return (host, port) if port and port < 65536 else None

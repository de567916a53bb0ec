"""LDS and RDS of a Sidecar's egress listeners: ports and sockets of an Envoy, each for the hosts that it imports.

Source: Istio's Sidecar.egress, and how its sidecars build outbound listeners (pilot/pkg/networking/core). There is no
iptables here: a listener is bound, to loopback unless the Sidecar says where.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from proxyless.control_plane.discovery.catalog import Catalog
from proxyless.control_plane.discovery.egress import HTTP_PROXY, EgressListener
from proxyless.control_plane.discovery.protocol import PortProtocol, declared
from proxyless.control_plane.discovery.service import Service
from proxyless.control_plane.resources.sidecar import UNIX
from proxyless.control_plane.translate import http_proxy
from proxyless.control_plane.translate.client import Scope
from proxyless.control_plane.translate.cluster_name import BLACK_HOLE, PASSTHROUGH
from proxyless.control_plane.translate.generated import Notes
from proxyless.control_plane.translate.l4_routes import L4Route, L4Routes
from proxyless.control_plane.translate.metadata import metadata
from proxyless.control_plane.translate.reachability import unknown_goes_to
from proxyless.control_plane.translate.sidecar import (
    LOOPBACK,
    http_chain,
    outbound_manager,
    sidecar_origin,
    socket_address,
    tls_inspector,
)
from proxyless.control_plane.translate.tcp_proxy import cidr, is_by_name, plain_chain, route_chain

_HTTPS_PORT = 443
_NOT_LISTENED = frozenset({"UDP", "HBONE"})


def egress_names(catalog: Catalog) -> list[str]:
    """The listeners that an Envoy of this scope has beside those of its own node."""
    return [_name(one) for one in _listeners(catalog)]


def egress_listener(catalog: Catalog, scope: Scope, name: str, notes: Notes) -> listener_pb2.Listener | None:
    """None for a name that is not of a listener of this scope."""
    asked = _find(catalog, name)
    if asked is None:
        return None
    result = listener_pb2.Listener(name=name, address=_address(asked), traffic_direction=base_pb2.OUTBOUND)
    # Else another Envoy of this machine could bind the port too, and get a part of the connections.
    result.enable_reuse_port.value = False
    result.metadata.CopyFrom(metadata(proxyless={"origin": sidecar_origin(catalog), "protocol": asked.protocol}))
    protocol = _protocol(asked)
    if asked.protocol == HTTP_PROXY or protocol.is_http:
        result.filter_chains.append(http_chain("outbound", outbound_manager(name, scope.tracing)))
        return result
    within = catalog.of_listener(asked)
    tls = protocol in {PortProtocol.TLS, PortProtocol.HTTPS}
    if tls:
        result.listener_filters.append(tls_inspector())
    result.filter_chains.extend(_Chains(catalog, within, scope, asked, notes, tls=tls).build())
    if tls and (default := _fallthrough(catalog, asked)) is not None:
        result.default_filter_chain.CopyFrom(default)
    if not result.filter_chains and not result.HasField("default_filter_chain"):
        notes.add(f"{name}: none of its hosts has such a port, connections are closed")
        result.filter_chains.append(plain_chain(BLACK_HOLE, BLACK_HOLE))
    return result


def proxied(catalog: Catalog, name: str) -> tuple[Catalog, int] | None:
    """What the requests of a proxy's route configuration can be for, and the port that is meant by a host without one:
    of ``http_proxy``, or of an HTTP listener of this scope. None for another name.
    """
    if name == http_proxy.NAME:
        return catalog, http_proxy.HTTP_PORT
    asked = _find(catalog, name)
    if asked is None or not (asked.protocol == HTTP_PROXY or _protocol(asked).is_http):
        return None
    bare = asked.port if asked.port and asked.protocol != HTTP_PROXY else http_proxy.HTTP_PORT
    return catalog.of_listener(asked), bare


class _Chains:
    """Filter chains of an L4 listener. Envoy refuses two that match the same, so the first one counts."""

    def __init__(
        self, catalog: Catalog, within: Catalog, scope: Scope, asked: EgressListener, notes: Notes, *, tls: bool
    ) -> None:
        self._catalog = catalog
        self._within = within
        self._scope = scope
        self._asked = asked
        self._notes = notes
        self._tls = tls
        self._taken: dict[tuple[str, str], str] = {}

    def build(self) -> list[listener_components_pb2.FilterChain]:
        chains = []
        for service in self._services():
            # Rules may send anywhere in the client's scope, not only to what this listener imports.
            routes = L4Routes(self._within, self._scope, service, self._port(service), self._notes)
            for route in routes.tls() if self._tls else routes.tcp():
                chain = self._chain(service, route)
                if chain is not None:
                    chains.append(chain)
        return chains

    def _services(self) -> Iterable[Service]:
        """The oldest first, as Istio has it when two want the same connections."""
        for service in self._within.by_age(self._scope.namespace):
            ports = [port for port in service.ports if port.protocol is not PortProtocol.UDP]
            if len(ports) > 1 and not self._asked.port:
                self._notes.add(
                    f"{_name(self._asked)}: {service.host} left out, a socket cannot say which of its ports"
                )
            elif ports:
                yield service

    def _port(self, service: Service) -> int:
        return self._asked.port or service.ports[0].number

    def _chain(self, service: Service, route: L4Route) -> listener_components_pb2.FilterChain | None:
        if not self._tls and any(is_by_name(self._catalog, self._scope, cluster) for cluster, _ in route.targets):
            self._notes.add(
                f"{_name(self._asked)}: {service.host} left out, plain TCP does not say which of its hosts it is for"
            )
            return None
        # Sockets have no address, and on an address of its own every connection is to that address.
        subnets = route.subnets if not self._asked.is_socket else ()
        if not subnets and self._is_wildcard():
            subnets = service.addresses
        free = self._free(service, route, subnets)
        if not free:
            return None
        chain = route_chain(self._catalog, self._scope, route, port=self._port(service))
        names = list(dict.fromkeys(name for name, _ in free))
        chain.filter_chain_match.server_names.extend(name for name in names if name not in ("", "*"))
        chain.filter_chain_match.prefix_ranges.extend(
            cidr(text) for text in dict.fromkeys(one for _, one in free) if text
        )
        return chain

    def _free(self, service: Service, route: L4Route, subnets: tuple[str, ...]) -> list[tuple[str, str]]:
        names = [name for name in route.sni or ("",) if not self._is_odd(name)]
        pairs = [("" if name == "*" else name, subnet) for name in names for subnet in subnets or ("",)]
        # A chain matches all pairs of its names and subnets, so a name is free with all of them or not at all.
        taken = {name: self._taken[name, subnet] for name, subnet in pairs if (name, subnet) in self._taken}
        # A rule for several services comes by with each of them.
        if any(origin != route.origin for origin in taken.values()):
            said = f"{route.origin} of {service.host}" if route.rule else service.host
            self._notes.add(f"{_name(self._asked)}: {said} left out, its connections cannot be told from others'")
        free = [pair for pair in pairs if pair[0] not in taken]
        self._taken.update((pair, route.origin if route.rule else service.host) for pair in free)
        return free

    def _is_odd(self, name: str) -> bool:
        odd = name.startswith("*") and name != "*" and not name.startswith("*.")
        if odd:
            self._notes.add(f"{_name(self._asked)}: server name {name} left out, Envoy matches whole labels only")
        return odd

    def _is_wildcard(self) -> bool:
        return not self._asked.is_socket and ipaddress.ip_address(self._asked.bind or LOOPBACK).is_unspecified


def _fallthrough(catalog: Catalog, asked: EgressListener) -> listener_components_pb2.FilterChain | None:
    """Server names that nothing here knows: let out to where they say, to the egress proxy, or closed."""
    if not catalog.allows_unknown():
        return None
    cluster = unknown_goes_to(catalog)
    return plain_chain("allow_any", cluster, by_sni=(asked.port or _HTTPS_PORT) if cluster == PASSTHROUGH else 0)


def _name(listener: EgressListener) -> str:
    """Istio's: ``127.0.0.1_9000``, or the socket."""
    return listener.bind if listener.is_socket else f"{listener.bind or LOOPBACK}_{listener.port}"


def _find(catalog: Catalog, name: str) -> EgressListener | None:
    return next((one for one in _listeners(catalog) if _name(one) == name), None)


def _listeners(catalog: Catalog) -> Iterator[EgressListener]:
    return (one for one in catalog.egress_listeners() if one.explicit and one.protocol not in _NOT_LISTENED)


def _protocol(listener: EgressListener) -> PortProtocol:
    return declared(listener.protocol, "")


def _address(listener: EgressListener) -> address_pb2.Address:
    if listener.is_socket:
        # Whoever can connect to it speaks with the workload's identity: this user alone.
        path = listener.bind.removeprefix(UNIX)
        # An abstract socket has no file to protect, and Envoy refuses a mode for it.
        pipe = address_pb2.Pipe(path=path, mode=0 if path.startswith("@") else 0o600)
        return address_pb2.Address(pipe=pipe)
    return socket_address(listener.bind or LOOPBACK, listener.port)

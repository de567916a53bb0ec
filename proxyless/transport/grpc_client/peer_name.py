"""The one name that a subchannel's peer must prove.

grpcio verifies one DNS name and no URI. Certificates of the mesh carry, beside the SPIFFE ID, a DNS name that stands
for it alone (``SpiffeId.dns_name``), so pinning that pins the identity. Where a cluster allows more than one identity
the endpoint is asked for its own in a handshake of our TLS, which verifies chain and SPIFFE ID; what it proved is then
pinned, so the connection that carries calls is verified once more, by grpcio.
"""

import socket
from functools import lru_cache
from typing import NamedTuple

from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import Endpoint, Protocol, UpstreamTls
from proxyless.model.errors import IdentityError, ProxylessError
from proxyless.model.matching import StringKind
from proxyless.model.spiffe import SpiffeId
from proxyless.transport.tls import explain, offering, server_name, verify


class PeerUnknown(ProxylessError):
    """The endpoint could not be asked who it is, or is somebody else than the cluster allows."""


class Peer(NamedTuple):
    """name: what grpcio verifies. identity: the SPIFFE ID that it stands for, "" outside the mesh."""

    name: str
    identity: str = ""


def only_peer(endpoint: Endpoint, tls: UpstreamTls) -> Peer | None:
    """The peer to verify if the configuration leaves no choice, else None.

    Outside the mesh it is a host name. Raises PeerUnknown where grpcio cannot verify what is asked.
    """
    if tls.mesh_trust:
        if len(tls.san) == 1 and tls.san[0].kind is StringKind.EXACT and not tls.san[0].ignore_case:
            try:
                return _peer(tls.san[0].value)
            except IdentityError as error:
                raise PeerUnknown(f"{endpoint}: {error}") from None
        return None
    if not tls.san:
        return Peer(server_name(endpoint, tls) or endpoint.address)
    exact = [one.value for one in tls.san if one.kind is StringKind.EXACT]
    if len(tls.san) == len(exact) == 1 and "://" not in exact[0] and tls.sni in ("", exact[0]):
        return Peer(exact[0])
    raise PeerUnknown(
        f"{endpoint}: gRPC in Python can verify one DNS name, which is also the SNI; "
        f"this cluster asks for sni {tls.sni!r} and {len(tls.san)} subject names"
    )


def ask(endpoint: Endpoint, tls: UpstreamTls, identity: IdentitySource, timeout: float) -> Peer:
    """The identity that the endpoint proves now. Blocks at most about ``timeout`` seconds.

    Raises PeerUnknown when it is none that the cluster allows, or there is no answer.
    """
    try:
        context = identity.client_context(offering(tls, Protocol.HTTP2))
        with (
            socket.create_connection((endpoint.address, endpoint.port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=server_name(endpoint, tls)) as secured,
        ):
            found = verify(secured, tls, identity)
    except ProxylessError as error:
        raise PeerUnknown(f"{endpoint}: {error}") from None
    except OSError as error:
        raise PeerUnknown(f"{endpoint}: {explain(error)}") from None
    assert found is not None  # inside the mesh there is an identity or an exception
    return _peer(found)


@lru_cache(maxsize=4096)
def _peer(identity: str) -> Peer:
    who = SpiffeId.parse(identity)
    return Peer(who.dns_name, str(who))

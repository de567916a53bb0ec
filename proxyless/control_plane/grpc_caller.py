"""Who calls an RPC of the control plane, and for how long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId


class CertificateExpired(IdentityError):
    """The caller was who it said, and has to show that it still is."""


def identity_of(peers: PeerIdentities | None, context: grpc.aio.ServicerContext[Any, Any]) -> SpiffeId | None:
    """The caller's verified SPIFFE ID; None on the plaintext port, which has no ``peers``.

    Raises IdentityError for a caller behind the TLS front without a valid certificate.
    """
    if peers is None:
        return None
    if (identity := peers.lookup(context.peer())) is None:
        raise IdentityError("xDS over TLS needs a valid certificate of the mesh; enrol first")
    return identity


@contextlib.asynccontextmanager
async def while_certified(
    peers: PeerIdentities | None, context: grpc.aio.ServicerContext[Any, Any], identity: SpiffeId | None
) -> AsyncIterator[None]:
    """What runs inside ends with CertificateExpired when the caller's certificate expires; on the plaintext port never.

    A stream may live for weeks; who does not come back with a new certificate is nobody.
    """
    try:
        async with asyncio.timeout(peers.ends_in(context.peer()) if peers is not None else None) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise CertificateExpired(f"the certificate of {identity} has expired; connect with its successor") from None

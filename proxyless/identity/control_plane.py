"""Whom a data plane accepts as its control plane, and the TLS it speaks with it."""

import ssl
from typing import TYPE_CHECKING, Any

from proxyless.identity.contexts import present, trust
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.identity.verify import verify_peer
from proxyless.model.address import split_address
from proxyless.model.errors import IdentityError
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

if TYPE_CHECKING:
    from grpclib.client import Channel
    from grpclib.config import Configuration

# Istio's root namespace: where its control plane lives.
ROOT_NAMESPACE = "istio-system"
SERVICE_ACCOUNT = "control-plane"

BUNDLE_ALPN = "proxyless-bundle/1"
GRPC_ALPN = "h2"


def control_plane_id(trust_domain: str) -> SpiffeId:
    """The control plane's own identity. Its certificate authority signs it for nobody else."""
    return SpiffeId(trust_domain, ROOT_NAMESPACE, SERVICE_ACCOUNT)


def control_plane_context(bundle: TrustBundle, svid: Svid | None) -> ssl.SSLContext:
    """TLS for a gRPC channel to the control plane: verified against ``bundle`` only, presenting ``svid`` if any.

    Use with ``server_hostname = control_plane_id(...).dns_name`` (``open_channel`` does): the DNS name is checked by
    the TLS stack, and the SPIFFE ID within the handshake, so no byte is sent to a control plane that is not ours.
    """
    expected = control_plane_id(bundle.trust_domain)
    only = (StringMatcher(StringKind.EXACT, str(expected)),)

    class VerifiedByUri(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                verify_peer(self.getpeercert(True), only, bundle.trust_domain)
            except IdentityError as error:
                raise ssl.SSLCertVerificationError(1, str(error)) from error

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.sslobject_class = VerifiedByUri
    trust(context, bundle)
    if svid is not None:
        present(context, svid)
    context.set_alpn_protocols([GRPC_ALPN])
    return context


def open_channel(
    address: str, bundle: TrustBundle, svid: Svid | None, *, config: "Configuration | None" = None, **options: Any
) -> "Channel":
    """A grpclib channel to the control plane at ``address`` (``host:port``); it connects on the first call.

    Create it in the loop that uses it, and ``close()`` it. Failures surface from the first call: OSError when nothing
    answers, ssl.SSLCertVerificationError when it is not our control plane.
    """
    from dataclasses import replace

    from grpclib.client import Channel
    from grpclib.config import Configuration

    host, port = split_address(address)
    name = control_plane_id(bundle.trust_domain).dns_name
    config = replace(config or Configuration(), ssl_target_name_override=name)
    return Channel(host, port, ssl=control_plane_context(bundle, svid), config=config, **options)

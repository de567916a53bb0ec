"""TLS to an endpoint: which context, which name, and who the peer turned out to be."""

import os
import socket
import ssl
from dataclasses import replace

from proxyless.identity.source import IdentitySource
from proxyless.identity.verify import verify_upstream
from proxyless.model.cluster import Endpoint, Protocol, UpstreamTls
from proxyless.model.errors import IdentityError

# An end of TCP without one of TLS. asyncio takes it for an end, and so do we; to OpenSSL 3 it is an error, after which
# nothing can be written, unless it is told otherwise. OpenSSL 1.1 cannot tell it from a connection that was reset.
PLAIN_END = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def wrapped(
    context: ssl.SSLContext, sock: socket.socket, server_hostname: str | None, *, server_side: bool = False
) -> ssl.SSLSocket:
    """``sock`` with a handshake to come. Its ``recv`` raises OSError at a reset, which by default is an end to Python:
    a body that ends with its connection would pass for complete.
    """
    context.options |= PLAIN_END
    return context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=not PLAIN_END,
        server_hostname=server_hostname,
    )


def upstream_tls(endpoint: Endpoint, scheme: str, host: str) -> UpstreamTls | None:
    """The TLS of a connection for a request to ``scheme://host``.

    The control plane's word counts; but what an ``https`` URL asks for is never sent in the clear: without that word
    the server is verified as by any HTTPS client, by the system's roots and the URL's host name.
    """
    if endpoint.tls is None and scheme == "https":
        return UpstreamTls(sni=host, identity=False, mesh_trust=False, alpn=("http/1.1",))
    return endpoint.tls


# Istio's name for a metadata exchange before the first byte of a request: a server that chose it would wait for ours.
_NOT_OURS = frozenset({"istio-peer-exchange"})
_HTTP2 = frozenset({"h2", "istio-h2"})


def offering(tls: UpstreamTls, protocol: Protocol) -> UpstreamTls:
    """``tls`` with the ALPN names for what we speak; what the control plane lists beside them (``istio``) stays."""
    ours = {Protocol.HTTP1: ("http/1.1",), Protocol.HTTP2: ("h2",), Protocol.AUTO: ("h2", "http/1.1")}[protocol]
    unwanted = _NOT_OURS | _HTTP2 if protocol is Protocol.HTTP1 else _NOT_OURS
    listed = tuple(name for name in tls.alpn if name not in unwanted)
    alpn = listed + tuple(name for name in ours if name not in listed)
    return tls if alpn == tls.alpn else replace(tls, alpn=alpn)


def speaks_http2(ssl_object: ssl.SSLObject | ssl.SSLSocket | None, protocol: Protocol) -> bool:
    """Which HTTP a new connection speaks. Raises IdentityError when the server chose one that was not offered."""
    chosen = ssl_object.selected_alpn_protocol() if ssl_object is not None else None
    if chosen in _HTTP2:
        if protocol is Protocol.HTTP1:
            raise IdentityError("the server insists on HTTP/2, which was not offered")
        return True
    # Envoy: what is configured is spoken, unless the server has chosen otherwise.
    return chosen is None and protocol is Protocol.HTTP2


def server_name(endpoint: Endpoint, tls: UpstreamTls) -> str | None:
    """What to send as SNI. Outside the mesh it is also what the TLS stack verifies, so there must be one."""
    return tls.sni or (None if tls.mesh_trust else endpoint.hostname or endpoint.address)


def generation_of(identity: IdentitySource, tls: UpstreamTls | None) -> int:
    """Connections of an older generation than this are not reused: their certificate or trust was replaced."""
    return identity.generation if tls is not None and (tls.mesh_trust or tls.identity) else 0


def verify(ssl_object: ssl.SSLObject | ssl.SSLSocket | None, tls: UpstreamTls, identity: IdentitySource) -> str | None:
    """The peer's SPIFFE ID, None outside the mesh. Call it before the first byte of a request; raises IdentityError."""
    if ssl_object is None:
        raise IdentityError("the connection has no TLS")
    bundle = identity.bundle
    if bundle is None and tls.mesh_trust:
        raise IdentityError("there is no trust bundle to verify the peer with")
    found = verify_upstream(ssl_object.getpeercert(True), tls, bundle.trust_domain if bundle is not None else "")
    return str(found) if found is not None else None


def explain(error: Exception) -> str:
    """Why a connection failed, for people: no traceback, no OpenSSL source line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate refused: {error.verify_message or error.reason or 'not trusted'}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'handshake failed').lower().replace('_', ' ')}"
    if isinstance(error, OSError):
        # asyncio replaces the system's words by its own.
        if error.errno is not None and error.errno > 0:
            return os.strerror(error.errno)
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__

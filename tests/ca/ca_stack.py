"""A control plane as far as enrolment needs it: authority, tokens, a real grpc.aio server, and the TLS front before
it.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.ca.server_certificate import ServerCertificate
from proxyless.control_plane.ca.service import CertificateService
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.control_plane.tls_front import TlsFront
from proxyless.identity.request import CertificateRequest
from proxyless.identity.svid import Svid
from proxyless.model.spiffe import SpiffeId

WHOAMI = "/test.Who/Ami"


@dataclass
class Stack:
    ca: CertificateAuthority
    tokens: TokenIssuer
    peers: PeerIdentities
    certificate: ServerCertificate
    front: TlsFront
    address: str
    port: int
    inner_port: int
    signed: list[SpiffeId]

    def workload(self, service_account: str, namespace: str = "default") -> Svid:
        spiffe_id = SpiffeId(self.ca.trust_domain, namespace, service_account)
        request = CertificateRequest.new(spiffe_id)
        return request.accept(self.ca.sign(request.csr_pem, spiffe_id), now=time.time())[0]


@contextlib.asynccontextmanager
async def stack(
    state_dir: Path, *, port: int = 0, dev: bool = False, peers: PeerIdentities | None = None, **front_options: Any
) -> AsyncIterator[Stack]:
    ca = CertificateAuthority(state_dir)
    tokens = TokenIssuer(state_dir, ca.bundle)
    peers = peers or PeerIdentities()
    signed: list[SpiffeId] = []
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def whoami(request: bytes, context: Any) -> bytes:
        """Who the caller is, then what it sent."""
        return str(peers.lookup(context.peer()) or "anonymous").encode() + b" " + request

    whoami_handler = grpc.method_handlers_generic_handler(
        "test.Who", {"Ami": grpc.unary_unary_rpc_method_handler(whoami)}
    )
    service = CertificateService(ca, tokens, peers, dev=dev, on_signed=signed.append)
    server.add_generic_rpc_handlers((service.handler(), whoami_handler))
    inner_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    certificate = ServerCertificate(ca)
    front = TlsFront(certificate.source, peers, inner_port, **front_options)
    try:
        host, bound = await front.start("127.0.0.1", port)
        yield Stack(ca, tokens, peers, certificate, front, f"{host}:{bound}", bound, inner_port, signed)
    finally:
        await front.close()
        await server.stop(None)

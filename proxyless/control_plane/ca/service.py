"""Istio's CreateCertificate over grpc.aio: who may have which certificate."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from proxyless.control_plane.ca.authority import CertificateAuthority, requested_id
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.control_plane.peer_identities import Caller, PeerIdentities
from proxyless.control_plane.sockets import is_loopback
from proxyless.identity.istio_ca import METHOD, SERVICE, messages
from proxyless.identity.token import EnrolmentClaims
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.spiffe import SpiffeId

logger = logging.getLogger("proxyless.ca")

Context = grpc.aio.ServicerContext[Any, Any]


class CertificateService:
    """Answers CreateCertificate for callers behind the TLS front.

    A caller is authorised by an enrolment token (metadata ``authorization: Bearer ...``), or without one by the
    certificate it already has: renewal, for the same identity only. dev: accept the ``--dev`` token too, from
    loopback addresses. on_signed: told each identity that got a certificate.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        tokens: TokenIssuer,
        peers: PeerIdentities,
        *,
        dev: bool = False,
        on_signed: Callable[[SpiffeId], None] | None = None,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._peers = peers
        self._dev = dev
        self._on_signed = on_signed

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to the grpc.aio server: ``server.add_generic_rpc_handlers((service.handler(),))``."""
        request, response = messages()
        method = grpc.unary_unary_rpc_method_handler(
            self.create_certificate,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def create_certificate(self, request: Any, context: Context) -> Any:
        peer = context.peer()
        caller = self._peers.caller(peer)
        if caller is None:
            await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, "certificates are signed over TLS only")
        csr = request.csr.encode()
        try:
            wished = requested_id(csr)
        except IdentityError as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        spiffe_id = await self._authorise(context, caller, self._peers.lookup(peer), wished)
        if spiffe_id == self._authority.identity:
            # Whoever had this one could pose as the control plane to every workload.
            await _refuse(
                context, grpc.StatusCode.PERMISSION_DENIED, f"{spiffe_id} is the control plane's own identity"
            )
        try:
            chain = self._authority.sign(csr, spiffe_id, float(request.validity_duration))
        except IdentityError as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ConfigurationError as error:
            logger.error("cannot sign certificates: %s", error)
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        logger.info("signed a certificate for %s", spiffe_id)
        if self._on_signed is not None:
            self._on_signed(spiffe_id)
        return messages().Response(cert_chain=chain)

    async def _authorise(
        self, context: Context, caller: Caller, certified: SpiffeId | None, wished: SpiffeId | None
    ) -> SpiffeId:
        token = _bearer(context)
        if token is not None:
            try:
                claims = self._tokens.verify(token, allow_any=self._dev)
            except IdentityError as error:
                await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, str(error))
            return await self._by_token(context, caller, claims, wished)
        if certified is None:
            await _refuse(
                context, grpc.StatusCode.UNAUTHENTICATED, "neither an enrolment token nor a valid client certificate"
            )
        if wished is not None and wished != certified:
            text = f"your certificate is for {certified}; it cannot renew as {wished}"
            await _refuse(context, grpc.StatusCode.PERMISSION_DENIED, text)
        return certified

    async def _by_token(
        self, context: Context, caller: Caller, claims: EnrolmentClaims, wished: SpiffeId | None
    ) -> SpiffeId:
        if claims.any_identity:
            if not is_loopback(caller.address):
                text = "the development token is accepted from this machine only"
                await _refuse(context, grpc.StatusCode.PERMISSION_DENIED, text)
            if wished is None:
                text = "with the development token the certificate request must name a SPIFFE ID"
                await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, text)
            if wished.trust_domain != claims.trust_domain:
                text = f"{wished} is not of this mesh's trust domain, {claims.trust_domain}"
                await _refuse(context, grpc.StatusCode.PERMISSION_DENIED, text)
            return wished
        allowed = claims.identity()
        if wished is not None and wished != allowed:
            text = f"the enrolment token is for {allowed}, not for {wished}"
            await _refuse(context, grpc.StatusCode.PERMISSION_DENIED, text)
        return allowed


def _bearer(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            scheme, _, token = text.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return None


async def _refuse(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    logger.warning("refused a certificate: %s", text)
    await context.abort(code, text)
    raise AssertionError("abort raises")

"""Getting a certificate from the control plane: the first with an enrolment token, later ones with the certificate
before.

No first contact is blind: the token carries the hashes of the mesh's roots. The trust bundle is fetched over a
connection that nobody vouches for, and only roots with those hashes are kept; everything after that is verified
against them.
"""

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from proxyless.identity.control_plane import BUNDLE_ALPN, control_plane_id, open_channel
from proxyless.identity.istio_ca import CREATE_CERTIFICATE, messages
from proxyless.identity.pem import MAX_BUNDLE_BYTES, certificates_der, certificates_pem, fingerprint
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.identity.token import EnrolmentClaims, read
from proxyless.model.address import split_address
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.model.spiffe import SpiffeId

DEFAULT_TTL = 24 * 3600.0
_WITHIN = 10.0


class ControlPlaneUnreachable(NotReadyError):
    """Nothing answers at the control plane's address, or not in time. Trying again may help."""


class RootMismatch(IdentityError):
    """What answers at the control plane's address is not the control plane that issued the token."""


class TokenRefused(IdentityError):
    """The control plane does not accept the token (or the certificate) that we authenticated with."""


class IdentityNotAllowed(IdentityError):
    """The token or certificate is good, but not for the identity that was asked for."""


async def fetch_bundle(address: str, claims: EnrolmentClaims, *, within: float = _WITHIN) -> TrustBundle:
    """The control plane's roots, reduced to those whose SHA-256 the token names.

    Raises ControlPlaneUnreachable, or RootMismatch when none is left.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing to verify with yet; what this connection says is believed only where the token's hashes vouch for it.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([BUNDLE_ALPN])
    try:
        async with asyncio.timeout(within):
            pem = await _read_all(host, port, context)
    except TimeoutError:
        raise ControlPlaneUnreachable(f"the control plane at {address} does not answer within {within:g} s") from None
    except (OSError, EOFError) as error:
        raise ControlPlaneUnreachable(_unreachable(address, error)) from None
    try:
        offered = certificates_der(pem)
    except IdentityError as error:
        raise RootMismatch(
            f"{address} did not send a trust bundle: {error}; is it the control plane's TLS port?"
        ) from None
    if not offered:
        raise RootMismatch(f"{address} did not send a trust bundle; is it the control plane's TLS port (15012)?")
    vouched = [der for der in offered if fingerprint(der) in claims.root_sha256]
    if not vouched:
        raise RootMismatch(
            f"the root certificate at {address} is not the one in the enrolment token: the token is from another "
            "control plane, or somebody is in between (man-in-the-middle). Nothing was sent. "
            "Get a new token with: proxyless token"
        )
    return TrustBundle(claims.trust_domain, certificates_pem(vouched))


async def request_certificate(
    address: str,
    spiffe_id: SpiffeId,
    bundle: TrustBundle,
    *,
    svid: Svid | None = None,
    token: str = "",
    ttl: float = DEFAULT_TTL,
    within: float = _WITHIN,
    clock: Callable[[], float] = time.time,
) -> tuple[Svid, TrustBundle]:
    """One signing request with a new key, authenticated by ``svid`` (mutual TLS) or by ``token``.

    Raises ControlPlaneUnreachable, RootMismatch, TokenRefused, IdentityNotAllowed, or IdentityError for an unusable
    answer.
    """
    from grpclib.client import UnaryUnaryMethod
    from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

    request, (request_type, response_type) = CertificateRequest.new(spiffe_id), messages()
    channel = open_channel(address, bundle, svid)
    try:
        method = UnaryUnaryMethod(channel, CREATE_CERTIFICATE, request_type, response_type)
        async with asyncio.timeout(within):
            with _headers_unlogged():
                answer = await method(
                    request_type(csr=request.csr_pem.decode(), validity_duration=int(ttl)),
                    metadata={"authorization": f"Bearer {token}"} if token else None,
                )
    except TimeoutError:
        raise ControlPlaneUnreachable(f"the control plane at {address} does not answer within {within:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise RootMismatch(
            f"what answers at {address} is not {control_plane_id(bundle.trust_domain)}: {error}"
        ) from None
    except GRPCError as error:
        raise _explain(error.status.name, error.message or "", address) from None
    except (OSError, StreamTerminatedError, ProtocolError) as error:
        raise ControlPlaneUnreachable(_unreachable(address, error)) from None
    finally:
        channel.close()
    return request.accept(list(answer.cert_chain), now=clock())


async def enrol(
    address: str,
    token: str,
    namespace: str = "",
    service_account: str = "",
    *,
    ttl: float = DEFAULT_TTL,
    within: float = _WITHIN,
    clock: Callable[[], float] = time.time,
) -> tuple[Svid, TrustBundle]:
    """A first certificate from the control plane at ``address`` (``host:port``), with an enrolment token.

    namespace, service_account: default to the token's own. ttl: seconds the certificate shall be valid. within:
    seconds for each of the two connections. Raises as ``fetch_bundle`` and ``request_certificate`` do, once:
    ``CertificateRotation`` retries.
    """
    claims = read(token, now=clock())
    spiffe_id = claims.identity(namespace, service_account)
    bundle = await fetch_bundle(address, claims, within=within)
    return await request_certificate(address, spiffe_id, bundle, token=token, ttl=ttl, within=within, clock=clock)


class Enrolment:
    """What ``CertificateRotation`` calls for each certificate: renews with the present one, or enrols with the token.

    token: read anew each time, since operators replace token files in place; raises IdentityError when there is none.
    A lost or expired certificate, or one that the control plane no longer accepts (its root was replaced), leads back
    to the token.
    """

    def __init__(
        self,
        address: str,
        source: IdentitySource,
        token: Callable[[], str],
        *,
        namespace: str = "",
        service_account: str = "",
        ttl: float = DEFAULT_TTL,
        within: float = _WITHIN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._source = source
        self._token = token
        self._namespace = namespace
        self._service_account = service_account
        self._ttl = ttl
        self._within = within
        self._clock = clock

    async def __call__(self) -> tuple[Svid, TrustBundle]:
        svid, bundle = self._source.svid, self._source.bundle
        if svid is None or bundle is None or self._clock() >= svid.not_after:
            return await self._enrol()
        try:
            return await request_certificate(
                self._address,
                svid.spiffe_id,
                bundle,
                svid=svid,
                ttl=self._ttl,
                within=self._within,
                clock=self._clock,
            )
        except (RootMismatch, TokenRefused) as refusal:
            try:
                return await self._enrol()
            except IdentityError as error:
                raise type(refusal)(f"{refusal}; enrolling anew failed too: {error}") from error

    async def _enrol(self) -> tuple[Svid, TrustBundle]:
        return await enrol(
            self._address,
            self._token(),
            self._namespace,
            self._service_account,
            ttl=self._ttl,
            within=self._within,
            clock=self._clock,
        )


@contextlib.contextmanager
def _headers_unlogged() -> Iterator[None]:
    """Keep the token out of logs: hpack writes every header it encodes to its own, at level DEBUG."""
    thread, log = threading.get_ident(), logging.getLogger("hpack.hpack")

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log.addFilter(elsewhere)
    try:
        yield
    finally:
        log.removeFilter(elsewhere)


async def _read_all(host: str, port: int, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=MAX_BUNDLE_BYTES)
    try:
        received = bytearray()
        while chunk := await reader.read(MAX_BUNDLE_BYTES + 1 - len(received)):
            received += chunk
            if len(received) > MAX_BUNDLE_BYTES:
                break
        return bytes(received)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _unreachable(address: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"cannot reach the control plane at {address}: {reason[:300]}; is it running, and is this its TLS address?"


def _explain(status: str, message: str, address: str) -> Exception:
    message = message[:500]
    match status:
        case "UNAUTHENTICATED":
            return TokenRefused(f"the control plane at {address} refused to enrol us: {message}")
        case "PERMISSION_DENIED":
            return IdentityNotAllowed(f"the control plane at {address} refused this identity: {message}")
        case "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "RESOURCE_EXHAUSTED":
            return ControlPlaneUnreachable(f"the control plane at {address} cannot sign now ({status}): {message}")
        case _:
            return IdentityError(f"the control plane at {address} did not sign ({status}): {message}")

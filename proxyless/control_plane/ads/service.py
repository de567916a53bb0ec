"""The gRPC side of ADS: ``AggregatedDiscoveryService``, state of the world and incremental."""

import asyncio
import contextlib
import functools
import logging
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.session import Session, TranslationError
from proxyless.control_plane.ads.wire import DELTA, STATE_OF_THE_WORLD, Variant, error_text
from proxyless.control_plane.grpc_caller import identity_of, while_certified
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.model.errors import IdentityError, NotReadyError, ProxylessError
from proxyless.model.spiffe import SpiffeId

logger = logging.getLogger("proxyless.ads")

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = STATE_OF_THE_WORLD.method
DELTA_METHOD = DELTA.method
# A stream says who it is at once or not at all.
_FIRST_REQUEST_TIMEOUT = 30.0

Context = grpc.aio.ServicerContext[Any, Any]


class AdsService:
    """peers: who is behind the TLS front; None for the plaintext port, whose callers are anonymous and believed.

    One port of either sort must never share a gRPC server with the other: a caller is known by its port alone.
    """

    def __init__(self, ads: AdsServer, peers: PeerIdentities | None) -> None:
        self._ads = ads
        self._peers = peers

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {
            variant.method: grpc.stream_stream_rpc_method_handler(
                functools.partial(self._stream, variant),
                request_deserializer=variant.request.FromString,
                response_serializer=variant.response.SerializeToString,
            )
            for variant in (STATE_OF_THE_WORLD, DELTA)
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _stream(self, variant: Variant, requests: Any, context: Context) -> None:
        session: Session | None = None
        reader: asyncio.Task[None] | None = None
        try:
            identity = identity_of(self._peers, context)
            async with asyncio.timeout(_FIRST_REQUEST_TIMEOUT):
                first = await context.read()
            if first is grpc.aio.EOF:
                return
            client = self._ads.read_node(first.node, identity)
            self._check(client.namespace, client.service_account, identity)
            # Istio's proxies call their cluster SERVICE.NAMESPACE.
            service = first.node.cluster[:253].removesuffix(f".{client.namespace}")
            session = self._ads.open(client, service, identity, variant.stream())
            logger.info("%s connected from %s", client.node_id, context.peer())
            self._receive(variant, session, first)
            reader = asyncio.create_task(self._read(variant, session, context))
            async with while_certified(self._peers, context, identity):
                await self._write(variant, session, reader, context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request arrived on the stream")
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"that is no {variant.request.DESCRIPTOR.name}")
        except NotReadyError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except IdentityError as error:
            logger.warning("refused an xDS stream: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except TranslationError as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        except ProxylessError as error:
            logger.warning("ended an xDS stream: %s", error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            if reader is not None:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reader
            if session is not None:
                self._ads.close(session)
                logger.info("%s disconnected", session.client.node_id)

    async def _write(self, variant: Variant, session: Session, reader: asyncio.Task[None], context: Context) -> None:
        """Send what is due whenever something changed, until the client ends the stream."""
        while not reader.done():
            # All at once: what waits for a slow client belongs to one world, and holds on to none.
            updates = list(session.responses())
            self._ads.sending(session, updates)
            for update in updates:
                await context.write(variant.respond(update))
            woken = asyncio.create_task(session.wake.wait())
            try:
                await asyncio.wait({woken, reader}, timeout=session.patience(), return_when=asyncio.FIRST_COMPLETED)
            finally:
                woken.cancel()
            session.wake.clear()
        reader.result()

    async def _read(self, variant: Variant, session: Session, context: Context) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            self._receive(variant, session, request)
            session.wake.set()
            self._ads.changes()

    def _receive(self, variant: Variant, session: Session, request: Any) -> None:
        error = error_text(request)
        subscription = variant.receive(session.stream, request)
        self._ads.watch(session, subscription.type_url, subscription.names)
        if error is not None:
            self._ads.answered(session, subscription.type_url, accepted=False)
            logger.warning("%s refused %s: %s", session.client.node_id, subscription.type_url, error)
        elif request.response_nonce and request.response_nonce == subscription.nonce:
            self._ads.answered(session, subscription.type_url, accepted=True)

    def _check(self, namespace: str, service_account: str, identity: SpiffeId | None) -> None:
        """A client gets what its certificate says it is, whatever its node says (Istio: authorize in ads.go)."""
        if identity is not None and (namespace, service_account) != (identity.namespace, identity.service_account):
            raise IdentityError(
                f"{identity} claims to be service account {namespace[:100]}/{service_account[:100]} in its xDS node"
            )

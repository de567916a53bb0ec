"""CSDS, ``envoy.service.status.v3.ClientStatusDiscoveryService``: what connected clients were sent and accepted.

Who may see what: a caller with the admin token (metadata ``authorization: Bearer TOKEN``, the token of the HTTP API)
sees every client; a workload, by its certificate, the clients of its own identity and no others; anybody else nothing,
on the plaintext port too. Istio once showed every workload's configuration to every other.
"""

import hmac
import logging
from typing import Any

import grpc
from envoy.service.status.v3 import csds_pb2
from google.protobuf.message import DecodeError

from proxyless.control_plane.ads.client_configs import client_config
from proxyless.control_plane.ads.node_matcher import node_matcher
from proxyless.control_plane.ads.server import AdsServer
from proxyless.control_plane.ads.session import Session
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.model.errors import ConfigurationError, IdentityError

logger = logging.getLogger("proxyless.ads")

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"
FETCH = "FetchClientStatus"
STREAM = "StreamClientStatus"

Context = grpc.aio.ServicerContext[Any, Any]


class ClientStatusService:
    """peers: who is behind the TLS front; None for the plaintext port, whose callers are nobody in particular."""

    def __init__(self, ads: AdsServer, peers: PeerIdentities | None, admin_token: str) -> None:
        self._ads = ads
        self._peers = peers
        self._expected = f"Bearer {admin_token}".encode()

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        read, write = csds_pb2.ClientStatusRequest.FromString, csds_pb2.ClientStatusResponse.SerializeToString
        methods = {
            FETCH: grpc.unary_unary_rpc_method_handler(self._fetch, read, write),
            STREAM: grpc.stream_stream_rpc_method_handler(self._stream, read, write),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _fetch(self, request: Any, context: Context) -> Any:
        return await self._answer(request, context)

    async def _stream(self, requests: Any, context: Context) -> None:
        """One answer to each request. A caller is looked at anew each time: its certificate may have expired."""
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(await self._answer(request, context))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "that is no ClientStatusRequest")

    async def _answer(self, request: Any, context: Context) -> Any:
        try:
            visible = self._visible(context)
            matches = node_matcher(request.node_matchers)
        except IdentityError as error:
            logger.warning("refused to show client status: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except ConfigurationError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        contents = not request.exclude_resource_contents
        configs = [client_config(each, contents=contents) for each in visible if matches(each.client.node_id)]
        return csds_pb2.ClientStatusResponse(config=configs)

    def _visible(self, context: Context) -> list[Session]:
        given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if given:
            text = given[0] if isinstance(given[0], bytes) else given[0].encode()
            if len(given) == 1 and hmac.compare_digest(text, self._expected):
                return self._ads.sessions
            raise IdentityError("the admin token is wrong; it is in the control plane's state directory")
        identity = self._peers.lookup(context.peer()) if self._peers is not None else None
        if identity is None:
            raise IdentityError("client status needs the admin token, or a certificate of the mesh to see one's own")
        return [session for session in self._ads.sessions if session.identity == identity]

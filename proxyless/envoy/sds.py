"""The SDS server that gives Envoy its keys: over a socket that only this user can open, from memory to memory."""

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server

from proxyless.envoy.secrets import secret
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import ConfigurationError

logger = logging.getLogger("proxyless.envoy")

_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
_TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_MAX_NAMES, _MAX_NAME = 1_000, 10_000


class SecretServer:
    """``async with`` one: serves on ``socket`` what ``secrets.secret`` makes of ``identity``.

    Call ``changed`` in its loop after each new certificate: every stream is sent the new one.
    """

    def __init__(self, identity: IdentitySource, socket: Path) -> None:
        self._identity = identity
        self._socket = socket
        self._server = Server([self])
        self._streams: set[_Stream] = set()

    async def __aenter__(self) -> "SecretServer":
        # Its folder is private; the socket is so too, for whoever changes that folder's mode.
        before = os.umask(0o177)
        try:
            await self._server.start(path=str(self._socket))
        finally:
            os.umask(before)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    def changed(self) -> None:
        for stream in self._streams:
            stream.wake.set()

    def __mapping__(self) -> dict[str, Handler]:
        """How grpclib asks a service for its methods."""
        return {
            _METHOD: Handler(
                self._stream,
                Cardinality.STREAM_STREAM,
                discovery_pb2.DiscoveryRequest,
                discovery_pb2.DiscoveryResponse,
            )
        }

    async def _stream(self, wire: Any) -> None:
        stream = _Stream(wire, self._identity)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)


class _Stream:
    """One subscription, state of the world: what is asked for, and what was sent last."""

    def __init__(self, wire: Any, identity: IdentitySource) -> None:
        self.wake = asyncio.Event()
        self._wire = wire
        self._identity = identity
        self._names: tuple[str, ...] = ()
        self._asked = False
        self._sent: bytes = b""
        self._count = 0

    async def run(self) -> None:
        reader = asyncio.create_task(self._read())
        try:
            while not reader.done():
                await self._answer()
                woken = asyncio.create_task(self.wake.wait())
                try:
                    await asyncio.wait({woken, reader}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                self.wake.clear()
            reader.result()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, StreamTerminatedError, GRPCError):
                await reader

    async def _read(self) -> None:
        while (request := await self._wire.recv_message()) is not None:
            names = tuple(dict.fromkeys(request.resource_names))
            if len(names) > _MAX_NAMES or any(len(name) > _MAX_NAME for name in names):
                raise GRPCError(Status.INVALID_ARGUMENT, "too many or too long names of secrets")
            if request.HasField("error_detail"):
                logger.warning("Envoy refused %s: %s", ", ".join(names), request.error_detail.message[:1000])
            # An ACK or NACK repeats what was asked; a first request, or other names, want an answer.
            self._asked = self._asked or not request.response_nonce or names != self._names
            self._names = names
            self.wake.set()

    async def _answer(self) -> None:
        """Send the secrets if they are asked for, or are not what was sent last."""
        found = [made for name in self._names if (made := self._look_up(name)) is not None]
        resources = [AnyMessage(type_url=_TYPE_URL, value=made.SerializeToString(deterministic=True)) for made in found]
        content = b"".join(resource.value for resource in resources)
        if not resources or not (self._asked or content != self._sent):
            return
        self._asked, self._sent = False, content
        self._count += 1
        await self._wire.send_message(
            discovery_pb2.DiscoveryResponse(
                version_info=str(self._count), nonce=str(self._count), type_url=_TYPE_URL, resources=resources
            )
        )

    def _look_up(self, name: str) -> Any:
        try:
            return secret(name, self._identity)
        except ConfigurationError as error:
            logger.warning("%s", error)
            return None

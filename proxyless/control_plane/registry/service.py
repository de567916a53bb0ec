"""The gRPC side of the registry: one stream per workload, whose life is the workload's life here."""

import asyncio
import logging
from typing import Any

import grpc
from google.protobuf.json_format import Error, MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from proxyless.control_plane.grpc_caller import CertificateExpired, while_certified
from proxyless.control_plane.peer_identities import PeerIdentities
from proxyless.control_plane.registry.registry import Registration, Registry
from proxyless.model.errors import ConfigurationError, IdentityError
from proxyless.model.spiffe import SpiffeId
from proxyless.model.workload import REGISTER_METHOD, Workload

logger = logging.getLogger("proxyless.registry")

MAX_MESSAGE = 64 * 1024

Context = grpc.aio.ServicerContext[Any, Any]


class RegistrationService:
    """Answers Register for callers behind the TLS front. peers: who they are."""

    def __init__(self, registry: Registry, peers: PeerIdentities) -> None:
        self._registry = registry
        self._peers = peers

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to the grpc.aio server: ``server.add_generic_rpc_handlers((service.handler(),))``."""
        service, method = REGISTER_METHOD.strip("/").split("/")
        handler = grpc.stream_stream_rpc_method_handler(
            self._register,
            request_deserializer=_deserialize,
            response_serializer=Struct.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(service, {method: handler})

    async def _register(self, requests: Any, context: Context) -> None:
        registration: Registration | None = None
        expired = False
        try:
            identity = self._peers.lookup(context.peer())
            if identity is None:
                raise IdentityError("registering needs a valid certificate of the mesh; enrol first")
            async with while_certified(self._peers, context, identity):
                while (request := await context.read()) is not grpc.aio.EOF:
                    if request is None:
                        raise ConfigurationError(
                            f"a registration is a google.protobuf.Struct of at most {MAX_MESSAGE} bytes"
                        )
                    workload = Workload.from_dict(_plain_data(request))
                    _check(workload, identity, registration)
                    registration = self._registry.register(workload, registration)
                    answer = Struct()
                    answer.update({"registered": True, "state": workload.state.value})
                    await context.write(answer)
        except CertificateExpired as error:
            expired = True
            logger.info("ended a registration stream: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except IdentityError as error:
            logger.warning("refused a registration: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except ConfigurationError as error:
            logger.warning("refused a registration: %s", error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except asyncio.CancelledError:
            # The server stops. Passed on, gRPC would print a trace of it for each workload.
            logger.debug("a registration stream ended with the server")
        finally:
            if registration is not None:
                self._registry.end(registration, returns=expired)


def _plain_data(message: Struct) -> dict[str, Any]:
    try:
        return MessageToDict(message)
    except (Error, ValueError) as error:  # NaN and the infinities, which JSON does not have
        raise ConfigurationError(f"the registration is not JSON: {error}") from None


def _deserialize(message: bytes) -> Struct | None:
    """None for what is no registration; the answer says so."""
    try:
        return Struct.FromString(message) if len(message) <= MAX_MESSAGE else None
    except DecodeError:
        return None


def _check(workload: Workload, identity: SpiffeId, registration: Registration | None) -> None:
    if (workload.namespace, workload.service_account) != (identity.namespace, identity.service_account):
        raise IdentityError(
            f"{identity} may not register a workload of service account {workload.namespace}/{workload.service_account}"
        )
    if registration is not None and workload.id != registration.workload_id:
        raise ConfigurationError("one registration stream is for one workload id")

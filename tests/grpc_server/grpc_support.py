"""A runtime without a control plane, a servicer of all kinds, and clients as others write them: grpcio, no mesh."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from inbound_support import SERVER, Authority, TestRuntime, dns_name

from proxyless.telemetry.context import current
from proxyless.transport.grpc_server.server import MeshGrpcServer

SERVICE = "test.Echo"


@dataclass
class GrpcTestRuntime(TestRuntime):
    """told: what the mesh was asked, in order."""

    __test__ = False
    told: list[str] = field(default_factory=list)

    def join(self, ports: Mapping[str, int], address: str | None, timeout: float, *, mutual_tls: bool = True) -> None:
        self.told.append(f"join {','.join(ports)} {address}")

    def drain(self, timeout: float, ports: Collection[int] | None = None) -> None:
        self.told.append("drain")

    def leave(self, ports: Collection[int]) -> None:
        self.told.append("leave")


def seen(context: Any, request: bytes = b"") -> bytes:
    """What a servicer knows, as JSON."""
    serving = current.get()
    return json.dumps(
        {
            "request": request.decode(),
            "peer": context.peer(),
            "identities": [name.decode() for name in context.peer_identities() or ()],
            "security": context.auth_context()["transport_security_type"][0].decode(),
            "metadata": [[key, str(value)] for key, value in context.invocation_metadata()],
            "request_id": serving.request_id if serving else None,
            "deadline": serving.deadline is not None if serving else None,
        }
    ).encode()


class Echo:
    """Coroutines and asynchronous generators. release: what ``Wait`` waits for; waiting: set once it does."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()

    async def call(self, request: bytes, context: Any) -> bytes:
        return seen(context, request)

    async def fail(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if request == b"code":
            context.set_code(grpc.StatusCode.ABORTED)
            return b"unsent"
        raise RuntimeError("broken")

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        await self.release.wait()
        return b"released"

    async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield seen(context, request)

    async def write(self, request: bytes, context: Any) -> None:
        for _ in range(3):
            await context.write(seen(context, request))

    async def sum(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return seen(context, b"+".join([request async for request in requests]))

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield seen(context, request)


class SyncEcho:
    """The same as functions."""

    def call(self, request: bytes, context: Any) -> bytes:
        return seen(context, request)

    def fail(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if request == b"code":
            context.set_code(grpc.StatusCode.ABORTED)
            return b"unsent"
        raise RuntimeError("broken")

    def list(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield seen(context, request)

    def sum(self, requests: Iterator[bytes], context: Any) -> bytes:
        return seen(context, b"+".join(requests))

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield seen(context, request)


def handlers(echo: Any) -> Any:
    methods = {
        "Call": grpc.unary_unary_rpc_method_handler(echo.call),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
        "List": grpc.unary_stream_rpc_method_handler(echo.list),
        "Sum": grpc.stream_unary_rpc_method_handler(echo.sum),
        "Chat": grpc.stream_stream_rpc_method_handler(echo.chat),
    }
    if hasattr(echo, "wait"):
        methods["Wait"] = grpc.unary_unary_rpc_method_handler(echo.wait)
        methods["Write"] = grpc.unary_stream_rpc_method_handler(echo.write)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


Channel = Callable[..., grpc.aio.Channel]


def plaintext(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def mutual_tls(authority: Authority, port: int, *uris: str) -> grpc.aio.Channel:
    """With a certificate that names ``uris``, or none."""
    chain, key = authority.leaf(*uris) if uris else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.roots_pem, key, chain)
    options = [("grpc.ssl_target_name_override", dns_name(str(SERVER)))]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


async def call(
    channel: grpc.aio.Channel, method: str = "Call", request: bytes = b"hi", metadata: Any = (), timeout: float = 30
) -> Any:
    answer = await channel.unary_unary(f"/{SERVICE}/{method}")(request, metadata=metadata, timeout=timeout)
    return json.loads(answer)


async def status(channel: grpc.aio.Channel, method: str = "Call", request: bytes = b"hi") -> grpc.aio.AioRpcError:
    """The error that a call must end with."""
    try:
        await channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call was answered")


def started(runtime: GrpcTestRuntime, echo: Any, **arguments: Any) -> MeshGrpcServer:
    server = MeshGrpcServer(runtime, **arguments)
    server.add_generic_rpc_handlers((handlers(echo),))
    return server

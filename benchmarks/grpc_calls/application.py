"""The service behind every row, with Protocol Buffers as stubs have them; also a bare server of it.

python -m benchmarks.grpc_calls.application SPEC        (SPEC is JSON: see ``Bare``)
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue

import proxyless

SERVICE = "benchmark.Calls"
HELLO = b"hello from here"


def wanted(count: int, size: int) -> BytesValue:
    """The request of ``download``: so many messages of so many bytes."""
    return BytesValue(value=f"{count} {size}".encode())


async def _unary(request: BytesValue, _: Any) -> BytesValue:
    return BytesValue(value=request.value)


async def _download(request: BytesValue, _: Any) -> AsyncIterator[BytesValue]:
    count, size = map(int, request.value.split())
    message = BytesValue(value=b"x" * size)
    for _number in range(count):
        yield message


async def _upload(requests: AsyncIterator[BytesValue], _: Any) -> BytesValue:
    count = 0
    async for _request in requests:
        count += 1
    return BytesValue(value=b"%d" % count)


async def _exchange(requests: AsyncIterator[BytesValue], _: Any) -> AsyncIterator[BytesValue]:
    async for request in requests:
        yield BytesValue(value=request.value)


def add(server: Any) -> None:
    """As a generated ``add_...Servicer_to_server``."""
    coders: dict[str, Any] = {
        "request_deserializer": BytesValue.FromString,
        "response_serializer": BytesValue.SerializeToString,
    }
    handlers = {
        "unary": grpc.unary_unary_rpc_method_handler(_unary, **coders),
        "download": grpc.unary_stream_rpc_method_handler(_download, **coders),
        "upload": grpc.stream_unary_rpc_method_handler(_upload, **coders),
        "exchange": grpc.stream_stream_rpc_method_handler(_exchange, **coders),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


@dataclass(frozen=True, slots=True)
class Bare:
    """A server of grpcio's own. certificates: a folder with ``ca.pem`` and ``server.pem``, "" for plaintext.

    state_dir, service: of the mesh whose certificates it presents and demands, and where it registers.
    """

    port: int
    certificates: str = ""
    state_dir: str = ""
    service: str = ""

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))


async def _serve(spec: Bare, credentials: grpc.ServerCredentials | None) -> None:
    server = grpc.aio.server()
    add(server)
    address = f"127.0.0.1:{spec.port}"
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)
    await server.start()
    await server.wait_for_termination()


def _credentials(key: bytes, chain: bytes, roots: bytes) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=True)


def main() -> None:
    spec = Bare(**json.loads(sys.argv[1]))
    credentials = None
    with contextlib.ExitStack() as stack:
        if spec.certificates:
            own, roots = (Path(spec.certificates, f"{name}.pem").read_bytes() for name in ("server", "ca"))
            credentials = _credentials(own, own, roots)
        elif spec.state_dir:
            mesh = stack.enter_context(proxyless.Mesh(state_dir=spec.state_dir, service=spec.service))
            mesh.wait_ready(timeout=30)
            svid, bundle = mesh.runtime.identity.svid, mesh.runtime.identity.bundle
            assert svid is not None and bundle is not None
            credentials = _credentials(svid.key_pem, svid.chain_pem, bundle.roots_pem)
            stack.enter_context(mesh.register({"grpc": spec.port}, address="127.0.0.1", mutual_tls=True))
        # On the loop that ``proxyless serve`` takes.
        uvloop.run(_serve(spec, credentials))


if __name__ == "__main__":
    main()

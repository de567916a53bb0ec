"""The load process of one system: reads ``Work`` from stdin, answers ``Done`` on stdout.

python -m benchmarks.grpc_calls.client SPEC        (SPEC is JSON: see ``Spec``)
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

import proxyless
from benchmarks.grpc_calls.application import HELLO, SERVICE, wanted
from benchmarks.requests.work import Done, Work, commands

# Messages of one stream, where they go one way.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Spec:
    """kind: bare (a channel of grpcio's), xds (of its own xDS), or mesh.

    target: what is dialled. authority: instead of it, "" for none. certificates: a folder with ``ca.pem`` and
    ``client.pem`` for mutual TLS without a mesh. state_dir: of the mesh that is called through, or whose certificate a
    bare channel presents. services: further targets that are looked up before the first call.
    """

    kind: str
    target: str
    authority: str = ""
    certificates: str = ""
    state_dir: str = ""
    services: list[str] = field(default_factory=list)

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Stub:
    """As protoc writes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        coders: dict[str, Any] = {
            "request_serializer": BytesValue.SerializeToString,
            "response_deserializer": BytesValue.FromString,
        }
        self.unary: Any = channel.unary_unary(f"/{SERVICE}/unary", **coders)
        self.download: Any = channel.unary_stream(f"/{SERVICE}/download", **coders)
        self.upload: Any = channel.stream_unary(f"/{SERVICE}/upload", **coders)
        self.exchange: Any = channel.stream_stream(f"/{SERVICE}/exchange", **coders)


# Each works until it is closed, and yields after every message.


async def _unary(stub: Stub, size: int) -> AsyncIterator[None]:
    request = BytesValue(value=b"x" * size)
    while True:
        await stub.unary(request)
        yield


async def _download(stub: Stub, size: int) -> AsyncIterator[None]:
    while True:
        async for _ in stub.download(wanted(BATCH, size)):
            yield


async def _upload(stub: Stub, size: int) -> AsyncIterator[None]:
    request = BytesValue(value=b"x" * size)
    while True:
        call = stub.upload()
        for _ in range(BATCH - 1):
            await call.write(request)
            yield
        await call.write(request)
        await call.done_writing()
        if (arrived := int((await call).value)) != BATCH:
            raise RuntimeError(f"{arrived} of {BATCH} messages arrived")
        yield


async def _exchange(stub: Stub, size: int) -> AsyncIterator[None]:
    request = BytesValue(value=b"x" * size)
    call = stub.exchange()
    try:
        while True:
            await call.write(request)
            await call.read()
            yield
    finally:
        await call.done_writing()
        await call.read()


METHODS: dict[str, Callable[[Stub, int], AsyncIterator[None]]] = {
    "unary": _unary,
    "download": _download,
    "upload": _upload,
    "exchange": _exchange,
}


async def run(stub: Stub, work: Work) -> Done:
    durations: list[int] = []
    started = time.perf_counter_ns()
    until = started + int(work.seconds * 1e9)

    async def worker() -> None:
        now = time.perf_counter_ns()
        messages: Any = METHODS[work.method](stub, len(HELLO) if work.size is None else work.size)
        async with contextlib.aclosing(messages):
            async for _ in messages:
                before, now = now, time.perf_counter_ns()
                durations.append(now - before)
                if now >= until:
                    return

    await asyncio.gather(*(worker() for _ in range(work.concurrency)))
    return Done.of(durations, (time.perf_counter_ns() - started) / 1e9)


async def _serve(channel: grpc.aio.Channel) -> None:
    async with channel:
        stub = Stub(channel)
        for work in commands():
            print((await run(stub, work)).encode(), flush=True)


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    with contextlib.ExitStack() as stack:
        mesh = (
            stack.enter_context(proxyless.Mesh(state_dir=spec.state_dir, service="bench")) if spec.state_dir else None
        )
        if mesh is not None:
            mesh.wait_ready(timeout=30)
            for target in spec.services:
                mesh.explain("POST", f"http://{target}/")
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        asyncio.run(_with_channel(spec, mesh, folder))


async def _with_channel(spec: Spec, mesh: proxyless.Mesh | None, folder: str) -> None:
    await _serve(_channel(spec, mesh, folder))


def _channel(spec: Spec, mesh: proxyless.Mesh | None, folder: str) -> grpc.aio.Channel:
    match spec.kind:
        case "mesh":
            assert mesh is not None
            return mesh.grpc_channel(spec.target)
        case "xds":
            assert mesh is not None
            os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(mesh.grpc_bootstrap(folder))
            fallback = grpc.local_channel_credentials()
            return grpc.aio.secure_channel(f"xds:///{spec.target}", grpc.xds_channel_credentials(fallback))
        case "bare":
            return _bare(spec, mesh)
        case other:
            raise ValueError(f"no kind {other}")


def _bare(spec: Spec, mesh: proxyless.Mesh | None) -> grpc.aio.Channel:
    options = [("grpc.default_authority", spec.authority)] if spec.authority else []
    if mesh is not None:
        from proxyless.model.cluster import UpstreamTls
        from proxyless.transport.grpc_client.credentials import credentials

        # A bare channel to ``proxyless serve``: the mesh's own certificate, nobody's policy.
        secret = credentials(mesh.runtime.identity, UpstreamTls())
        options.append(("grpc.ssl_target_name_override", spec.authority))
        return grpc.aio.secure_channel(spec.target, secret, options)
    if not spec.certificates:
        return grpc.aio.insecure_channel(spec.target, options)
    own, roots = (Path(spec.certificates, f"{name}.pem").read_bytes() for name in ("client", "ca"))
    return grpc.aio.secure_channel(spec.target, grpc.ssl_channel_credentials(roots, own, own), options)


if __name__ == "__main__":
    main()

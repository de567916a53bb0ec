"""A mesh made by hand, gRPC servers in threads, and one way to call through both of grpcio's APIs."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.engine.engine import Engine
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid
from proxyless.model.cluster import Cluster, Endpoint, LocalityEndpoints, UpstreamTls
from proxyless.model.errors import NotReadyError
from proxyless.model.matching import PathKind, PathMatcher, RouteMatch
from proxyless.model.route import Forward, Listener, RetryPolicy, Route, VirtualHost, WeightedCluster
from proxyless.model.snapshot import Snapshot
from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry.telemetry import Telemetry
from proxyless.transport.grpc_client import AioMeshChannel, MeshChannel

TARGET = "ratings:50051"
PATIENCE = 60.0
APIS = ("aio", "sync")


def until(what: str, condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


class Backend(grpc.GenericRpcHandler):
    """A server of ``/test.Echo/*``. calls: metadata of each call by method. gone: cancelled calls that it noticed."""

    def __init__(self, name: str = "", credentials: grpc.ServerCredentials | None = None) -> None:
        self.name = name
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.gone = threading.Event()
        self.go = threading.Event()
        self.failures = 0  # how many calls of Fail and FailStream are still to fail
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def stop(self, grace: float | None = None) -> threading.Event:
        return self._server.stop(grace)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, method = details.method[1:].partition("/")
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "Who": grpc.unary_unary_rpc_method_handler,
            "Fail": grpc.unary_unary_rpc_method_handler,
            "Status": grpc.unary_unary_rpc_method_handler,
            "Left": grpc.unary_unary_rpc_method_handler,
            "Sleep": grpc.unary_unary_rpc_method_handler,
            "Many": grpc.unary_stream_rpc_method_handler,
            "OneThenFail": grpc.unary_stream_rpc_method_handler,
            "Forever": grpc.unary_stream_rpc_method_handler,
            "HeadOnly": grpc.stream_stream_rpc_method_handler,
            "Join": grpc.stream_unary_rpc_method_handler,
            "FailStream": grpc.stream_unary_rpc_method_handler,
            "Ping": grpc.stream_stream_rpc_method_handler,
        }
        if service != "test.Echo" or method not in kinds:
            return None
        behaviour = getattr(self, f"_{method.lower()}")

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append((method, dict(context.invocation_metadata())))
            return behaviour(request, context)

        return kinds[method](handle)

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        sent = dict(context.invocation_metadata())
        if "x-initial" in sent:
            context.send_initial_metadata((("x-initial", sent["x-initial"]),))
        if "x-trailing-bin" in sent:
            context.set_trailing_metadata((("x-trailing-bin", sent["x-trailing-bin"]),))
        return request

    def _who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return self.name.encode()

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.failures:
            self.failures -= 1
            pushback = dict(context.invocation_metadata()).get("pushback")
            if pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return request

    def _status(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        code, _, details = request.decode().partition(" ")
        context.abort(next(one for one in grpc.StatusCode if one.value[0] == int(code)), details)
        return b""

    def _left(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return repr(context.time_remaining()).encode()

    def _sleep(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.gone.set)
        self.gone.wait(PATIENCE)
        return b""

    def _many(self, request: bytes, context: grpc.ServicerContext) -> Iterable[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def _onethenfail(self, request: bytes, context: grpc.ServicerContext) -> Iterable[bytes]:
        yield b"one"
        # grpcio drops what a client has not read yet once an error follows.
        assert self.go.wait(PATIENCE)
        context.abort(grpc.StatusCode.UNAVAILABLE, "in the middle")

    def _forever(self, request: bytes, context: grpc.ServicerContext) -> Iterable[bytes]:
        context.add_callback(self.gone.set)
        yield b"x"
        self.gone.wait(PATIENCE)

    def _headonly(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterable[bytes]:
        context.send_initial_metadata(())
        yield from requests

    def _join(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        return b",".join(requests)

    def _failstream(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        joined = b",".join(requests)
        return self._fail(joined, context)

    def _ping(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterable[bytes]:
        context.add_callback(self.gone.set)
        yield from requests


class Authority:
    def __init__(self, state_dir: Path) -> None:
        self.ca = CertificateAuthority(state_dir, "cluster.local")

    def svid(self, service_account: str) -> Svid:
        spiffe_id = SpiffeId("cluster.local", "default", service_account)
        request = CertificateRequest.new(spiffe_id)
        svid, _ = request.accept(self.ca.sign(request.csr_pem, spiffe_id, 3600), now=time.time())
        return svid

    def source(self, service_account: str = "client") -> IdentitySource:
        source = IdentitySource()
        source.set(self.svid(service_account), self.ca.bundle)
        return source

    def credentials(self, service_account: str) -> grpc.ServerCredentials:
        svid = self.svid(service_account)
        return grpc.ssl_server_credentials([(svid.key_pem, svid.chain_pem)], self.ca.bundle.roots_pem, True)


def retrying(*conditions: str, retries: int = 3, **settings: Any) -> RetryPolicy:
    return RetryPolicy(frozenset(conditions), retries, back_off_base=0.001, back_off_max=0.002, **settings)


def cluster(*ports: int, name: str = "ratings", tls: UpstreamTls | None = None, **settings: Any) -> Cluster:
    endpoints = tuple(Endpoint("127.0.0.1", port, tls=tls) for port in ports)
    return Cluster(name, localities=(LocalityEndpoints(endpoints),), service=name, **settings)


def forward(
    *legs: str | WeightedCluster, prefix: str = "/", route: dict[str, Any] | None = None, **action: Any
) -> Route:
    clusters = tuple(WeightedCluster(leg) if isinstance(leg, str) else leg for leg in legs)
    match = RouteMatch(PathMatcher(PathKind.PREFIX, prefix), **(route or {}).pop("match", {}))
    return Route(match, Forward(clusters, **action), **(route or {}))


def world(clusters: Sequence[Cluster], *routes: Route) -> Snapshot:
    rules = routes or (forward(clusters[0].name),)
    listener = Listener(TARGET, "ratings", VirtualHost("ratings", ("*",), tuple(rules)))
    return Snapshot(listeners={TARGET: listener}, clusters={one.name: one for one in clusters})


class FakeRuntime:
    """What ``Mesh`` is to a channel. unknown: targets that nobody answers about."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.world = snapshot
        self.engine = Engine()
        self.identity = IdentitySource()
        self.telemetry = Telemetry(service="productpage", environ={})
        self.unknown: set[str] = set()

    def snapshot(self) -> Snapshot:
        return self.world

    def resolve(self, target: str, within: float | None = None) -> Future[Snapshot]:
        future: Future[Snapshot] = Future()
        if target in self.unknown:
            future.set_exception(NotReadyError(f"no answer about {target}"))
        else:
            self.world = Snapshot(listeners={**self.world.listeners, target: None}, clusters=self.world.clusters)
            future.set_result(self.world)
        return future

    def metrics(self) -> str:
        return self.telemetry.prometheus().decode()


@dataclass
class Result:
    messages: list[bytes]
    code: grpc.StatusCode
    details: str
    initial: dict[str, Any]
    trailing: dict[str, Any]


def perform(
    api: str, runtime: FakeRuntime, kind: str, method: str, *requests: bytes, target: str = TARGET, **how: Any
) -> Result:
    """One call of ``kind`` (``unary_stream``, ...), however it ends. options: of the channel."""
    how.setdefault("timeout", PATIENCE)
    path = method if method.startswith("/") else f"/test.Echo/{method}"
    if api == "aio":
        return asyncio.run(_aio(runtime, kind, path, requests, target, how))
    with MeshChannel(runtime, target, how.pop("options", ())) as channel:
        return _sync(channel, kind, path, requests, how)


async def _aio(runtime: Any, kind: str, path: str, requests: Sequence[bytes], target: str, how: Any) -> Result:
    async with AioMeshChannel(runtime, target, how.pop("options", ())) as channel:
        given: Any = requests[0] if kind.startswith("unary") else iter(requests)
        call: Any = getattr(channel, kind)(path)(given, **how)
        messages = []
        try:
            if kind.endswith("unary"):
                messages.append(await call)
            else:
                messages = [message async for message in call]
        except grpc.RpcError as error:
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is await call.code()
        initial, trailing = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        return Result(messages, await call.code(), await call.details(), initial, trailing)


def _sync(channel: MeshChannel, kind: str, path: str, requests: Sequence[bytes], how: Any) -> Result:
    given: Any = requests[0] if kind.startswith("unary") else iter(requests)
    method: Any = getattr(channel, kind)(path)
    messages: list[bytes] = []
    try:
        if kind.endswith("unary"):
            message, call = method.with_call(given, **how)
            messages.append(message)
        else:
            call = method(given, **how)
            messages += call
    except grpc.RpcError as error:
        call = error
    return Result(messages, call.code(), call.details(), dict(call.initial_metadata()), dict(call.trailing_metadata()))

"""The mesh as a ``grpc.aio.Channel``."""

import asyncio
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from proxyless.engine.record import AttemptRecord
from proxyless.engine.steps import Attempt
from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.errors import ProxylessError
from proxyless.model.snapshot import EMPTY, Snapshot
from proxyless.transport.grpc_client import aio_call
from proxyless.transport.grpc_client.aio_attempt import AioAttempt
from proxyless.transport.grpc_client.aio_interceptors import Intercepted
from proxyless.transport.grpc_client.aio_rpc import AioRpc, AnyAttempt
from proxyless.transport.grpc_client.connectivity import combined
from proxyless.transport.grpc_client.credentials import Options, connecting
from proxyless.transport.grpc_client.peer_name import Peer
from proxyless.transport.grpc_client.rpc import Asked, Rpc
from proxyless.transport.grpc_client.subchannels import Subchannels, ahead
from proxyless.transport.grpc_client.target import parse
from proxyless.transport.grpc_client.wire.attempt import WireAttempt
from proxyless.transport.grpc_client.wire.channel import WireChannel
from proxyless.transport.grpc_client.wire.options import only_grpcio, read
from proxyless.transport.mirrors import AsyncMirrors
from proxyless.transport.runtime import Runtime

_LOOK_AGAIN = 0.02


class AioMeshChannel(grpc.aio.Channel):
    """For one event loop, as every ``grpc.aio.Channel``; any number of stubs may share it.

    target: ``host:port``. options, compression: grpcio's, for the connections that are made. interceptors: as
    ``grpc.aio.insecure_channel`` takes them. Raises ConfigurationError for what is no such target.
    """

    def __init__(
        self,
        runtime: Runtime,
        target: str,
        options: Options = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self.runtime = runtime
        self.target = parse(target)
        self._compression = compression
        self._closing: set[asyncio.Task[None]] = set()
        self._calls: weakref.WeakSet[AioRpc] = weakref.WeakSet()
        self._closed = False
        self._intercepted = Intercepted(interceptors) if interceptors else None
        self._mirrors = AsyncMirrors()
        self._warmed = EMPTY
        self._options = tuple(options)
        self._wire = read(self._options, compression)
        self.pool: Subchannels[WireChannel] = Subchannels(runtime, self._make, WireChannel.close, ours=True)
        self.grpcio: Subchannels[grpc.aio.Channel] = Subchannels(runtime, self._make_grpcio, self._end_grpcio)

    def begin(self, method: str, request: bytes | None, asked: Asked, *, unary: bool) -> AioRpc:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        if (snapshot := self.runtime.snapshot()) is not self._warmed:
            self._warm(snapshot)
        rpc = Rpc(self.runtime, self.target, method, asked)
        call = AioRpc(self.runtime, self._attempt, rpc, request, unary=unary, mirrors=self._mirrors)
        self._calls.add(call)
        return call

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method("unary_unary", method, UnaryUnary(self, method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method(
            "unary_stream", method, UnaryStream(self, method, request_serializer, response_deserializer)
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method(
            "stream_unary", method, StreamUnary(self, method, request_serializer, response_deserializer)
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method(
            "stream_stream", method, StreamStream(self, method, request_serializer, response_deserializer)
        )

    def _method(self, kind: str, name: str, method: "_Method") -> Any:
        return method if self._intercepted is None else self._intercepted.method(kind, name, method)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of all connections together, as gRPC's round_robin combines them. Lower are those that no call needed."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if try_to_connect:
            self._connect()
        states = [channel.get_state(try_to_connect) for channel in self.pool.channels()]
        return combined(states + [channel.get_state(try_to_connect) for channel in self.grpcio.channels()])

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() is last_observed_state:  # noqa: ASYNC110  grpcio tells of one connection only
            await asyncio.sleep(_LOOK_AGAIN)

    async def channel_ready(self) -> None:
        """Returns once one of the endpoints that the target's routes lead to is connected."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            await asyncio.sleep(_LOOK_AGAIN)

    async def close(self, grace: float | None = None) -> None:
        """No new calls. Those under way have ``grace`` seconds, None for none, and are cancelled then."""
        if self._closed:
            return
        self._closed = True
        under_way = [call.status for call in list(self._calls) if not call.status.done()]
        if grace and under_way:
            await asyncio.wait(under_way, timeout=grace)
        for call in list(self._calls):
            call.cancel()
        if self._intercepted is not None:
            await self._intercepted.close()
        await self._mirrors.close()
        await asyncio.sleep(0)
        for channel in self.pool.close():
            channel.close()
        for other in self.grpcio.close():
            self._end_grpcio(other)
        if self._closing:
            await asyncio.wait(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        await self.close()

    def _warm(self, snapshot: Snapshot) -> None:
        """A call finds its endpoint connected, unless it is the first: as gRPC's round_robin connects to all."""
        if snapshot.listeners.get(self.target) is None:
            return
        self._warmed = snapshot
        loop = asyncio.get_running_loop()
        cold = self.grpcio.cold if self._wire is None else self.pool.cold
        for cluster, endpoint in cold(snapshot, self.target):
            loop.call_soon(self._connect_to, cluster, endpoint)

    def _connect_to(self, cluster: Cluster, endpoint: Endpoint) -> None:
        """In the background; by grpcio where that needs no question to the endpoint."""
        if self._closed:
            return
        if self._wire is not None:
            ours = self.pool.take(endpoint, cluster, self.target, counted=False)
            ours.channel.get_state(try_to_connect=True)
            self.pool.done(ours)
            return
        try:
            peer = self.grpcio.peer(endpoint)
            if peer is None and endpoint.tls is not None:
                return
            subchannel = self.grpcio.take(endpoint, cluster, self.target, peer, counted=False)
        except ProxylessError:
            return  # whoever calls it will hear why
        subchannel.channel.get_state(try_to_connect=True)
        self.grpcio.done(subchannel)

    def _connect(self) -> None:
        snapshot = self.runtime.snapshot()
        if self.target not in snapshot.listeners:
            self.runtime.resolve(self.target)
            return
        for cluster, endpoint in ahead(snapshot, self.target):
            self._connect_to(cluster, endpoint)

    def _attempt(self, step: Attempt, rpc: Rpc, record: AttemptRecord, *, whole: bool) -> AnyAttempt:
        if self._wire is None or only_grpcio(step, rpc.asked):
            return AioAttempt(self.grpcio, step, rpc, record)
        return WireAttempt(self.pool, step, rpc, record, self._wire, whole=whole)

    def _make(self, endpoint: Endpoint, cluster: Cluster, authority: str, peer: Peer | None) -> WireChannel:
        assert self._wire is not None
        return WireChannel(asyncio.get_running_loop(), self.runtime.identity, endpoint, cluster, self._wire)

    def _make_grpcio(self, endpoint: Endpoint, cluster: Cluster, authority: str, peer: Peer | None) -> grpc.aio.Channel:
        identity = self.runtime.identity
        address, secret, options = connecting(identity, endpoint, cluster, authority, peer, asked=self._options)
        if secret is None:
            return grpc.aio.insecure_channel(address, options, self._compression)
        return grpc.aio.secure_channel(address, secret, options, self._compression)

    def _end_grpcio(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.ensure_future(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Method:
    def __init__(self, channel: AioMeshChannel, method: str | bytes, serialize: Any, deserialize: Any) -> None:
        self._channel = channel
        self._method = method.decode() if isinstance(method, bytes) else method
        self._serialize = serialize
        self._deserialize = deserialize

    @property
    def name(self) -> str:
        return self._method

    def of(self, name: str) -> Self:
        """The same for another method."""
        return type(self)(self._channel, name, self._serialize, self._deserialize)

    def _request(self, request: Any) -> bytes:
        return aio_call.serialized(self._serialize, request)


class UnaryUnary(_Method, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio_call.UnaryUnaryCall:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        rpc = self._channel.begin(self._method, self._request(request), asked, unary=True)
        return aio_call.UnaryUnaryCall(rpc, self._deserialize)


class UnaryStream(_Method, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio_call.UnaryStreamCall:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        rpc = self._channel.begin(self._method, self._request(request), asked, unary=False)
        return aio_call.UnaryStreamCall(rpc, self._deserialize)


class StreamUnary(_Method, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio_call.StreamUnaryCall:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        rpc = self._channel.begin(self._method, None, asked, unary=True)
        return aio_call.StreamUnaryCall(rpc, self._deserialize, self._serialize, request_iterator)


class StreamStream(_Method, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio_call.StreamStreamCall:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        rpc = self._channel.begin(self._method, None, asked, unary=False)
        return aio_call.StreamStreamCall(rpc, self._deserialize, self._serialize, request_iterator)

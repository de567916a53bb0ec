"""The mesh as a ``grpc.Channel``."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.errors import ProxylessError
from proxyless.model.snapshot import EMPTY, Snapshot
from proxyless.transport.grpc_client.blocking_call import MeshCall
from proxyless.transport.grpc_client.connectivity import combined
from proxyless.transport.grpc_client.credentials import Options, connecting
from proxyless.transport.grpc_client.peer_name import Peer
from proxyless.transport.grpc_client.rpc import Asked, Rpc
from proxyless.transport.grpc_client.subchannels import Subchannels, ahead
from proxyless.transport.grpc_client.target import parse
from proxyless.transport.mirrors import BlockingMirrors
from proxyless.transport.runtime import Runtime

if TYPE_CHECKING:
    _UnaryUnary = grpc.UnaryUnaryMultiCallable[Any, Any]
    _UnaryStream = grpc.UnaryStreamMultiCallable[Any, Any]
    _StreamUnary = grpc.StreamUnaryMultiCallable[Any, Any]
    _StreamStream = grpc.StreamStreamMultiCallable[Any, Any]
else:  # grpcio's are generic for type checkers only
    _UnaryUnary, _UnaryStream = grpc.UnaryUnaryMultiCallable, grpc.UnaryStreamMultiCallable
    _StreamUnary, _StreamStream = grpc.StreamUnaryMultiCallable, grpc.StreamStreamMultiCallable


class MeshChannel(grpc.Channel):
    """Threads may share it.

    target: ``host:port``. options, compression: grpcio's, for the connections that are made. Raises
    ConfigurationError for what is no such target.
    """

    def __init__(
        self, runtime: Runtime, target: str, options: Options = (), compression: grpc.Compression | None = None
    ) -> None:
        self.runtime = runtime
        self.target = parse(target)
        self._compression = compression
        self._calls: weakref.WeakSet[MeshCall] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._watchers: dict[Callable[[grpc.ChannelConnectivity], None], threading.Event] = {}
        self._closed = False
        self._mirrors = BlockingMirrors()
        self._warmed = EMPTY
        self.pool: Subchannels[grpc.Channel] = Subchannels(runtime, self._make, _end)
        self._options = tuple(options)

    def begin(self, method: "_Method", request: bytes | Iterator[Any], asked: Asked, *, unary: bool) -> MeshCall:
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        if (snapshot := self.runtime.snapshot()) is not self._warmed:
            self._warm(snapshot)
        call = MeshCall(
            self.runtime,
            self.pool,
            Rpc(self.runtime, self.target, method.name, asked),
            request,
            unary=unary,
            serialize=method.serialize,
            deserialize=method.deserialize,
            mirrors=self._mirrors,
        )
        with self._lock:
            self._calls.add(call)
        return call

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "UnaryUnary":
        return UnaryUnary(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "UnaryStream":
        return UnaryStream(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "StreamUnary":
        return StreamUnary(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "StreamStream":
        return StreamStream(self, method, request_serializer, response_deserializer)

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """``callback`` hears of the state of all connections together, now and at each change, in another thread."""
        stop = threading.Event()
        with self._lock:
            self._watchers[callback] = stop
        watcher = _Watcher(weakref.ref(self), callback, stop, bool(try_to_connect))
        threading.Thread(target=watcher.run, name="proxyless-grpc-state", daemon=True).start()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            stop = self._watchers.pop(callback, None)
        if stop is not None:
            stop.set()

    def state(self, states: dict[int, "_State"], *, connect: bool) -> grpc.ChannelConnectivity:
        """For a watcher, which keeps what it heard of each connection in ``states``."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if connect:
            self._connect()
        channels = {id(channel): channel for channel in self.pool.channels()}
        for key in states.keys() - channels.keys():
            del states[key]
        for key, channel in channels.items():
            if key not in states:
                states[key] = _State()
                channel.subscribe(states[key].heard, try_to_connect=connect)
        return combined([one.now for one in states.values()])

    def close(self) -> None:
        """Calls under way are cancelled."""
        self._closed = True
        with self._lock:
            calls, watchers = list(self._calls), list(self._watchers.values())
        for stop in watchers:
            stop.set()
        for call in calls:
            call.cancel()
        self._mirrors.close()
        for channel in self.pool.close():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        self.close()

    def _warm(self, snapshot: Snapshot) -> None:
        """A call finds its endpoint connected, unless it is the first: as gRPC's round_robin connects to all."""
        if snapshot.listeners.get(self.target) is None:
            return
        self._warmed = snapshot
        if cold := self.pool.cold(snapshot, self.target):
            with contextlib.suppress(RuntimeError):  # no more threads: calls connect themselves
                threading.Thread(target=self._warm_all, args=(cold,), name="proxyless-grpc-warm", daemon=True).start()

    def _warm_all(self, cold: list[tuple[Cluster, Endpoint]]) -> None:
        for cluster, endpoint in cold:
            try:
                peer = self.pool.peer(endpoint)
                if peer is None and endpoint.tls is not None:
                    peer = self.pool.learn(endpoint, cluster.connect_timeout)
                subchannel = self.pool.take(endpoint, cluster, self.target, peer, counted=False)
            except ProxylessError:
                continue  # whoever calls it will hear why
            _connect_now(subchannel.channel)
            self.pool.done(subchannel)
            if self._closed:
                break
        if self._closed:
            self.pool.close()  # it may have been too early for what was made here

    def _connect(self) -> None:
        snapshot = self.runtime.snapshot()
        if self.target not in snapshot.listeners:
            self.runtime.resolve(self.target)
            return
        for cluster, endpoint in ahead(snapshot, self.target):
            try:
                peer = self.pool.peer(endpoint)
                if peer is None and endpoint.tls is not None:
                    peer = self.pool.learn(endpoint, cluster.connect_timeout)
                self.pool.done(self.pool.take(endpoint, cluster, self.target, peer, counted=False))
            except ProxylessError:
                continue

    def _make(self, endpoint: Endpoint, cluster: Cluster, authority: str, peer: Peer | None) -> grpc.Channel:
        address, secret, options = connecting(
            self.runtime.identity, endpoint, cluster, authority, peer, asked=self._options
        )
        if secret is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, secret, options, self._compression)


def _connect_now(channel: Any) -> None:
    # All that grpcio has for it in public starts a thread, which dies of an exception if the channel is closed.
    if (inner := getattr(channel, "_channel", None)) is not None:
        inner.check_connectivity_state(True)


class _State:
    def __init__(self) -> None:
        self.now = grpc.ChannelConnectivity.IDLE

    def heard(self, state: grpc.ChannelConnectivity) -> None:
        self.now = state


class _Watcher:
    """Tells one subscriber. It ends with its subscription, or with the channel."""

    def __init__(
        self,
        channel: "weakref.ref[MeshChannel]",
        callback: Callable[[grpc.ChannelConnectivity], None],
        stop: threading.Event,
        connect: bool,
    ) -> None:
        self._channel, self._callback, self._stop, self._connect = channel, callback, stop, connect

    def run(self) -> None:
        last, states = None, {}  # type: ignore[var-annotated]
        while not self._stop.is_set() and (channel := self._channel()) is not None:
            state = channel.state(states, connect=self._connect)
            if state is not last:
                last = state
                self._callback(state)
            del channel
            self._stop.wait(0.02)


class _Method:
    def __init__(self, channel: MeshChannel, name: str, serialize: Any, deserialize: Any) -> None:
        self._channel = channel
        self.name = name
        self.serialize = serialize
        self.deserialize = deserialize

    def _begin(self, request: Any, asked: Asked, *, unary: bool) -> MeshCall:
        """request: one message."""
        raw = bytes(request) if self.serialize is None else self.serialize(request)
        return self._channel.begin(self, raw, asked, unary=unary)


class UnaryUnary(_Method, _UnaryUnary):
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, Any]:
        call = self._begin(request, Asked(timeout, metadata, credentials, wait_for_ready, compression), unary=True)
        call.perform()
        return call.response(), call

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        return self._begin(request, asked, unary=True).start()


class UnaryStream(_Method, _UnaryStream):
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        return self._begin(request, asked, unary=False).start()


class StreamUnary(_Method, _StreamUnary):
    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self.with_call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, Any]:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        call = self._channel.begin(self, iter(request_iterator), asked, unary=True)
        call.perform()
        return call.response(), call

    def future(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        return self._channel.begin(self, iter(request_iterator), asked, unary=True).start()


class StreamStream(_Method, _StreamStream):
    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        asked = Asked(timeout, metadata, credentials, wait_for_ready, compression)
        return self._channel.begin(self, iter(request_iterator), asked, unary=False).start()


def _end(channel: grpc.Channel) -> None:
    channel.close()

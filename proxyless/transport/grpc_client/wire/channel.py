"""One endpoint: its connection, made when a call needs it, in the background, and again after a failure."""

import asyncio
import logging
import random
from dataclasses import replace
from typing import Protocol

import grpc

from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.cluster import Protocol as Http
from proxyless.model.errors import IdentityError, ProxylessError
from proxyless.transport.grpc_client.credentials import IDLE_TIMEOUT
from proxyless.transport.grpc_client.wire.connection import WireConnection
from proxyless.transport.grpc_client.wire.options import WireOptions
from proxyless.transport.grpc_wire.errors import Code
from proxyless.transport.pool.connect import Timings, max_streams, open_tcp
from proxyless.transport.tls import explain, offering, server_name, verify
from proxyless.transport.tls_handshake import secure

logger = logging.getLogger("proxyless.grpc")

_HTTP2 = frozenset({"h2", "istio-h2"})
# Of gRPC's connection-backoff.md.
_GROWTH, _JITTER = 1.6, 0.2


class Wants(Protocol):
    """A call that wants a stream: it is told of one of these, perhaps at once."""

    def on_connection(self, connection: WireConnection) -> None: ...
    def on_no_connection(self, why: str) -> None: ...


class WireChannel:
    """For one event loop. States are gRPC's (connectivity-semantics-and-api.md).

    Without a connection a call waits for the one that is being made; after a failure calls fail at once, until the
    next attempt has succeeded, which begins by itself. What the peer's limit of streams holds back waits in order; what
    the cluster's own limit does gets a further connection.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, identity: IdentitySource, endpoint: Endpoint, cluster: Cluster,
        options: WireOptions,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._identity = identity
        self._endpoint = endpoint
        self._cluster = cluster
        self._options = options
        self._max_streams = max_streams(cluster)
        self._patience = options.connect_timeout or cluster.connect_timeout
        idle = options.idle_timeout if options.idle_timeout is not None else cluster.idle_timeout
        self._idle_timeout = max(1.0, IDLE_TIMEOUT if idle is None else idle)
        self._usable: list[WireConnection] = []  # they take calls, the first that has room the next
        self._all: set[WireConnection] = set()
        self._waiting: dict[Wants, None] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the next attempt
        self._back_off = options.back_off
        self._failed = ""
        self._wanted = self._closed = False

    def submit(self, call: Wants) -> None:
        if not self._waiting and (connection := self._with_room()) is not None:
            call.on_connection(connection)
        elif self._closed or (self._failed and not self._usable):
            self._wanted = True
            call.on_no_connection(self._failed or "the channel is closed")
        else:
            self._waiting[call] = None
            self._connect_for_waiting()

    def withdraw(self, call: Wants) -> None:
        self._waiting.pop(call, None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._usable:
            return grpc.ChannelConnectivity.READY
        if self._failed:
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if try_to_connect:
            self._connect()
        return grpc.ChannelConnectivity.IDLE if self._connecting is None else grpc.ChannelConnectivity.CONNECTING

    def close(self) -> None:
        """Also what is under way."""
        self._closed = True
        self._usable.clear()
        self._cancel_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        self._fail_all("the channel is closed")
        for connection in list(self._all):
            connection.abort()

    # ---- connecting

    def _connect_for_waiting(self) -> None:
        full = self._max_streams is not None and all(len(one.streams) >= self._max_streams for one in self._usable)
        if not self._usable or full:
            self._connect()

    def _connect(self) -> None:
        if self._connecting is None and not self._closed:
            self._cancel_timer()
            self._connecting = self._loop.create_task(self._make())

    async def _make(self) -> None:
        why = ""
        try:
            async with asyncio.timeout(self._patience):
                made = await self._dial()
        except TimeoutError as error:
            # A TimeoutError with an errno is the kernel's: the peer never answered.
            late = f"no connection within the connect timeout of {self._patience:g} s"
            why = late if error.errno is None else explain(error)
        except (OSError, ProxylessError, ValueError, EOFError) as error:
            why = explain(error)
        except Exception as error:  # nobody who waits may wait for ever
            logger.exception("connecting to %s failed inside the mesh", self._endpoint)
            why = f"{type(error).__name__}: {error}"
        finally:
            self._connecting = None
        if self._closed:
            if not why:
                made.abort()
            return
        if why:
            self._retry_later(why)
            return
        self._usable.append(made)
        self._failed, self._back_off = "", self._options.back_off
        options = self._cluster.connection_options
        made.live(self._idle_timeout, options.max_duration if options is not None else None)
        self._on_change(made)  # it may have ended meanwhile
        self._serve()

    async def _dial(self) -> WireConnection:
        loop, identity, endpoint = self._loop, self._identity, self._endpoint
        tls = None if endpoint.tls is None else offering(endpoint.tls, Http.HTTP2)
        context = None if tls is None else identity.client_context(tls)
        name = None if tls is None else server_name(endpoint, tls)
        made = WireConnection(loop, self._options, self._on_change)
        sock = await open_tcp(loop, endpoint, self._cluster, Timings())
        try:
            transport: asyncio.Transport
            if context is None:
                transport, _ = await loop.create_connection(lambda: made, sock=sock)
            else:
                transport, _ = await secure(loop, sock, context, lambda: made, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        try:
            if tls is not None:
                secured = transport.get_extra_info("ssl_object")
                made.peer = verify(secured, tls, identity) or ""
                if secured.selected_alpn_protocol() not in _HTTP2:
                    raise IdentityError("the server does not speak HTTP/2 over TLS (ALPN)")
            self._all.add(made)
            made.begin()
            await made.ready()
        except BaseException:
            self._all.discard(made)
            transport.abort()
            raise
        return made

    def _retry_later(self, why: str) -> None:
        if self._usable:  # what waits is served by those
            return
        self._failed, self._wanted = why, False
        back_off = self._back_off * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
        self._back_off = min(self._back_off * _GROWTH, self._options.most_back_off)
        self._timer = self._loop.call_later(back_off, self._try_again)
        self._fail_all(why)

    def _try_again(self) -> None:
        self._timer = None
        if self._wanted or self._back_off < self._options.most_back_off:
            self._connect()
        else:  # nobody has asked for long
            self._failed = ""

    def _fail_all(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.on_no_connection(why)

    # ---- what becomes of connections

    def _on_change(self, connection: WireConnection) -> None:
        if connection.draining:
            if connection in self._usable:
                self._usable.remove(connection)
                if connection.goaway == Code.ENHANCE_YOUR_CALM and (time := self._options.keepalive) is not None:
                    # It may mean our pings (gRFC A8).
                    self._options = replace(self._options, keepalive=2 * time)
                if self._waiting:
                    self._connect_for_waiting()
            if connection.over:
                self._all.discard(connection)
            elif not connection.streams:
                # In a moment: the last stream is told why it ended, and that was not by this.
                self._loop.call_soon(_finish, connection)
        elif self._waiting:
            self._serve()

    def _with_room(self) -> WireConnection | None:
        most = self._max_streams
        for one in self._usable:
            open_now = len(one.streams)
            if open_now < one.limit and (most is None or open_now < most) and not one.draining:
                return one
        return None

    def _serve(self) -> None:
        while self._waiting and (connection := self._with_room()) is not None:
            call = next(iter(self._waiting))
            del self._waiting[call]
            call.on_connection(connection)
        if self._waiting:
            self._connect_for_waiting()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _finish(connection: WireConnection) -> None:
    if not connection.streams:
        connection.finish()

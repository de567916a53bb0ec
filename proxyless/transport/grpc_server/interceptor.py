"""The mesh's interceptors: the outermost of our own server, and one for a ``grpc.server`` that the user started."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import strictest
from proxyless.transport.grpc_server.behaviour import NOBODY_ASYNC, NOBODY_SYNC, wrap
from proxyless.transport.grpc_server.callers import Callers, Served
from proxyless.transport.grpc_server.rpc import Metadata, Rpc, Sizes, anonymous
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable
from proxyless.transport.inbound.runtime import InboundRuntime

_NOBODY = Connection(Caller())


def _unauthenticated(details: Any) -> Any:
    """What the user's interceptors are told before there is a context, so before the caller is known: nothing that only
    an authenticated one may say.
    """
    received: Metadata = details.invocation_metadata or ()
    return type(details)(details.method, tuple(line for line in received if _plain(line)))


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """For the inner server: callers are known by the relay's connection they came on.

    by_name: whether a method's handler depends on its name alone; it is asked for once then.
    """

    def __init__(self, runtime: InboundRuntime, callers: Callers, *, by_name: bool) -> None:
        self._runtime = runtime
        self._callers = callers
        self._known: dict[str, Any] = {}
        self.by_name = by_name

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if self.by_name and (known := self._known.get(method)) is not None:
            return known
        handler = await continuation(_unauthenticated(handler_call_details))
        wrapped = wrap(handler or NOBODY_ASYNC, functools.partial(self._begin, method, handler is not None))
        # What streams is wrapped for one RPC; who asks for what nobody serves could ask for anything.
        if self.by_name and handler is not None and not (handler.request_streaming or handler.response_streaming):
            self._known[method] = wrapped
        return wrapped

    def _begin(self, method: str, known: bool, context: Any, sizes: Sizes) -> tuple[Rpc, tuple[Any, ...]]:
        served = self._callers.lookup(context.peer())
        problem = ""
        if served is None:
            served, problem = Served(_NOBODY, 0), "the connection did not come through a port of the mesh, or is gone"
        rpc = Rpc(
            self._runtime,
            served,
            self._runtime.snapshot().inbound.get(served.port),
            method=method,
            known=known,
            received=context.invocation_metadata() or (),
            waits=context.time_remaining(),
            sizes=sizes,
            problem=problem,
        )
        return rpc, (served.facts, _peer(served.facts.remote), rpc.metadata, rpc.load)


class ForeignInterceptor(grpc.ServerInterceptor):
    """For a ``grpc.server`` that is not ours: what its port says of a caller's TLS it tells nobody.

    port: whose policy counts; None for the strictest of this process's ports.
    """

    def __init__(self, runtime: InboundRuntime, port: int | None) -> None:
        self._runtime = runtime
        self._port = port

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(_unauthenticated(handler_call_details))
        begin = functools.partial(self._begin, handler_call_details.method, handler is not None)
        return wrap(handler or NOBODY_SYNC, begin)

    def _begin(self, method: str, known: bool, context: Any, sizes: Sizes) -> tuple[Rpc, tuple[Any, ...]]:
        peer, inbound = context.peer(), self._runtime.snapshot().inbound
        served = anonymous(peer)
        rpc = Rpc(
            self._runtime,
            served,
            strictest(inbound.values()) if self._port is None else inbound.get(self._port),
            method=method,
            known=known,
            received=context.invocation_metadata() or (),
            waits=context.time_remaining(),
            sizes=sizes,
        )
        return rpc, (served.facts, peer, rpc.metadata, rpc.load)


@functools.lru_cache(maxsize=4096)
def _peer(remote: str) -> str:
    """``host:port`` as gRPC writes it."""
    return f"ipv6:{remote.replace('[', '%5B').replace(']', '%5D')}" if remote.startswith("[") else f"ipv4:{remote}"


def _plain(line: tuple[str, str | bytes]) -> bool:
    name = line[0].lower()
    return name != XFCC and believable(name, False)

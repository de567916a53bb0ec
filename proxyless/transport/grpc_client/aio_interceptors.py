"""Interceptors of ``grpc.aio`` on a channel of the mesh.

They are run by grpcio, as on its own channels: a channel of its own, which never connects, has them, and behind them
one more interceptor, which makes the call in the mesh instead of going on. That one learns from the context which
method it is for; the task that runs interceptors has a copy of its caller's.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import grpc

_method: ContextVar[Any] = ContextVar("proxyless_grpc_method")


class Intercepted:
    """Methods of one channel with interceptors around them. Raises ValueError for what is no interceptor."""

    def __init__(self, interceptors: Sequence[grpc.aio.ClientInterceptor]) -> None:
        # Nobody connects there.
        self._front = grpc.aio.insecure_channel("ipv4:127.0.0.1:9", interceptors=[*interceptors, *_LAST])

    def method(self, kind: str, name: str, inner: Any) -> Any:
        """inner: the method in the mesh, of the same kind, such as ``unary_unary``."""
        return _Method(getattr(self._front, kind)(name), inner)

    async def close(self) -> None:
        await self._front.close()


class _Method:
    def __init__(self, front: Any, inner: Any) -> None:
        self._front = front
        self._inner = inner

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        token = _method.set(self._inner)
        try:
            return self._front(*arguments, **named)
        finally:
            _method.reset(token)


def _call(details: Any, request: Any) -> Any:
    method = _method.get()
    name = details.method.decode() if isinstance(details.method, bytes) else details.method
    if name != method.name:
        method = method.of(name)
    return method(
        request,
        timeout=details.timeout,
        metadata=details.metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _call(client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _call(client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return _call(client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return _call(client_call_details, request_iterator)


_LAST = (_UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream())

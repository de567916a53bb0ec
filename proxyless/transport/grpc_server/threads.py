"""Handlers that are functions: they run in the thread pool, in the RPC's own context, and may block there."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.transport.grpc_server.context import SyncContext
from proxyless.transport.grpc_server.rpc import INTERNAL, UNKNOWN, UNREADABLE, number

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.call import Call
    from proxyless.transport.grpc_server.methods import Method

_Run = Callable[..., "asyncio.Future[Any]"]
_LAST = object()
# Seconds between looks at whether the loop that a thread waits for is still there.
_LOOK = 1.0


async def respond_in_threads(call: Call, method: Method) -> None:
    inside = contextvars.copy_context()
    context = SyncContext(call)
    request: Any = call.request
    if method.incoming:
        request = _Requests(call, method)
    elif method.parse is not None:
        try:
            request = method.parse(request)
        except Exception:
            call.finish(INTERNAL, UNREADABLE)
            return

    def run(function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return call.connection.loop.run_in_executor(call.connection.core.pool, inside.run, function, *arguments)

    try:
        if method.outgoing:
            await _stream(call, method, run, request, context)
            call.check()
            call.finish(0 if call.code is None else number(call.code), call.details, call.trailing)
            return
        response = await run(method.behaviour, request, context)
        call.check()
        if call.code is not None and number(call.code):
            call.answer(b"")
        else:
            call.answer(response if method.serialize is None else method.serialize(response))
    except grpc.aio.AbortError as error:
        if error is call.aborted:
            # OK is no way to fail.
            call.finish(number(call.code) or UNKNOWN, call.details, call.trailing)
        raise


async def _stream(call: Call, method: Method, run: _Run, request: Any, context: SyncContext) -> None:
    responses = await run(method.behaviour, request, context)
    steps = await run(iter, responses)
    try:
        while (response := await run(next, steps, _LAST)) is not _LAST:
            if call.aborted is not None:
                raise call.aborted
            await call.write(response if method.serialize is None else method.serialize(response))
    finally:
        # A generator that still runs, as its RPC was cancelled meanwhile, cannot be closed: it ends by itself.
        if (close := getattr(responses, "close", None)) is not None and not getattr(responses, "gi_running", False):
            run(close).add_done_callback(_seen)


def _seen(closing: asyncio.Future[Any]) -> None:
    """An error of a generator that is closed is nobody's, once its RPC is over."""
    if not closing.cancelled():
        closing.exception()


class _Requests:
    """The messages of a request that streams, for a thread."""

    def __init__(self, call: Call, method: Method) -> None:
        self._call = call
        self._method = method

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        loop = self._call.connection.loop
        reading = self._call.read()
        try:
            future = asyncio.run_coroutine_threadsafe(reading, loop)
        except RuntimeError:
            reading.close()
            raise grpc.RpcError("the server has ended") from None
        while True:
            try:
                data = future.result(_LOOK)
                break
            except TimeoutError:
                if loop.is_closed():
                    raise grpc.RpcError("the server has ended") from None
            except (CancelledError, grpc.aio.UsageError):
                raise grpc.RpcError("the RPC has ended") from None
        if data is None:
            raise StopIteration
        return data if self._method.parse is None else self._method.parse(data)

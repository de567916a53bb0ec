"""The mesh around the handler of one RPC: unary or streaming, coroutine or plain function.

A unary request is parsed after the RPC was judged, so nothing of a refused caller's is. grpcio tells by looking at a
handler how to run it: a coroutine stays one, an asynchronous generator becomes one, a function stays a function.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from proxyless.transport.grpc_server.context import AsyncContext, MeshContext, SyncContext
from proxyless.transport.grpc_server.rpc import UNKNOWN, Rpc, Sizes, error_name

# Judges the RPC that has this context of grpcio's; gives the servicer's arguments for a context of ours.
Begin = Callable[[Any, Sizes], tuple[Rpc, tuple[Any, ...]]]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def wrap(handler: Any, begin: Begin) -> Any:
    """An ``RpcMethodHandler`` that serves RPCs as ``handler`` does, in the mesh: one if anything streams, else many."""
    incoming, outgoing = handler.request_streaming, handler.response_streaming
    kinds = {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }
    behaviour, make = kinds[incoming, outgoing]
    asynchronous = inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)
    if not incoming and not outgoing:
        return make(_unary_async(handler, behaviour, begin) if asynchronous else _unary_sync(handler, behaviour, begin))
    served = (_Async if asynchronous else _Sync)(handler, behaviour, begin)
    return make(
        served.stream if outgoing else served.unary,
        served.read if incoming else None,
        served.write if outgoing else None,
    )


def _unary_async(handler: Any, behaviour: Any, begin: Begin) -> Callable[[Any, Any], Any]:
    async def unary(request: Any, context: Any) -> bytes:
        return await _Async(handler, behaviour, begin).unary(request, context)

    return unary


def _unary_sync(handler: Any, behaviour: Any, begin: Begin) -> Callable[[Any, Any], Any]:
    def unary(request: Any, context: Any) -> bytes:
        return _Sync(handler, behaviour, begin).unary(request, context)

    return unary


async def _nobody_async(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def _nobody_sync(requests: Any, context: Any) -> Iterator[None]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    yield  # only makes it a generator


# For a method that nobody serves: it is judged and observed as any other.
NOBODY_ASYNC: Any = grpc.stream_stream_rpc_method_handler(_nobody_async)
NOBODY_SYNC: Any = grpc.stream_stream_rpc_method_handler(_nobody_sync)


class _Behaviour:
    """One RPC of one method."""

    def __init__(self, handler: Any, behaviour: Callable[[Any, Any], Any], begin: Begin) -> None:
        self._behaviour = behaviour
        self._begin = begin
        self._streaming = handler.request_streaming
        self._parse = handler.request_deserializer
        self._serialize = handler.response_serializer
        self._sizes = Sizes()

    def read(self, data: bytes) -> Any:
        self._sizes.received += len(data)
        return self._parse(data) if self._parse else data

    def write(self, message: Any) -> bytes:
        data: bytes = self._serialize(message) if self._serialize else message
        self._sizes.sent += len(data)
        return data

    def _unary(self, response: Any, context: MeshContext) -> bytes:
        """gRPC discards the response where the status is not OK; a servicer then often gives None."""
        return b"" if context.status else self.write(response)


class _Async(_Behaviour):
    async def unary(self, request: Any, context: Any) -> bytes:
        rpc, arguments = self._begin(context, self._sizes)
        ours = AsyncContext(context, *arguments)
        async with _until_end(rpc, ours):
            return self._unary(await self._behaviour(await self._request(request, ours), ours), ours)

    async def stream(self, request: Any, context: Any) -> None:
        rpc, arguments = self._begin(context, self._sizes)
        ours = AsyncContext(context, *arguments)
        async with _until_end(rpc, ours):
            found = self._behaviour(await self._request(request, ours), ours)
            if not inspect.isasyncgen(found):
                await found
                return
            async with contextlib.aclosing(found) as responses:
                async for response in responses:
                    await context.write(response)

    async def _request(self, request: Any, context: AsyncContext) -> Any:
        if self._streaming:
            return request
        try:
            return self.read(request)
        except Exception:
            await context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


class _until_end:
    """Refuses the RPC, or lets the block serve it, and tells telemetry how it ended."""

    def __init__(self, rpc: Rpc, context: AsyncContext) -> None:
        self._rpc = rpc
        self._context = context
        self._serving = rpc.serving()

    async def __aenter__(self) -> None:
        if (refusal := self._rpc.refusal) is not None:
            try:
                await self._context.abort(_CODES[refusal.code], refusal.details, refusal.metadata)
            finally:
                self._rpc.end(refusal.code)
        self._serving.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._serving.__exit__()
        _end(self._rpc, self._context, error, gone=isinstance(error, asyncio.CancelledError))


class _Sync(_Behaviour):
    def unary(self, request: Any, context: Any) -> bytes:
        rpc, arguments = self._begin(context, self._sizes)
        ours = SyncContext(context, *arguments)
        _refuse(rpc, ours)
        error: BaseException | None = None
        try:
            with rpc.serving():
                return self._unary(self._behaviour(self._request(request, ours), ours), ours)
        except BaseException as raised:
            error = raised
            raise
        finally:
            _end(rpc, ours, error, gone=_gone(context))

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Each step runs in the RPC's own context, whatever thread takes it."""
        rpc, arguments = self._begin(context, self._sizes)
        ours = SyncContext(context, *arguments)
        _refuse(rpc, ours)
        inside, serving = contextvars.copy_context(), rpc.serving()
        inside.run(serving.__enter__)
        responses: Any = None
        error: BaseException | None = None
        try:
            responses = inside.run(self._behaviour, self._request(request, ours), ours)
            steps = inside.run(iter, responses)
            while (response := inside.run(next, steps, _LAST)) is not _LAST:
                yield response
        except BaseException as raised:
            error = raised
            raise
        finally:
            if (close := getattr(responses, "close", None)) is not None:
                inside.run(close)
            inside.run(serving.__exit__)
            _end(rpc, ours, error, gone=isinstance(error, GeneratorExit) or _gone(context))

    def _request(self, request: Any, context: SyncContext) -> Any:
        if self._streaming:
            return request
        try:
            return self.read(request)
        except Exception:
            context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


_LAST = object()


def _refuse(rpc: Rpc, context: SyncContext) -> None:
    if (refusal := rpc.refusal) is not None:
        try:
            context.set_trailing_metadata(refusal.metadata)
            context.abort(_CODES[refusal.code], refusal.details)
        finally:
            rpc.end(refusal.code)


def _gone(context: Any) -> bool:
    """Whether the caller went meanwhile, as far as grpcio tells functions."""
    active = getattr(context, "is_active", None)
    return active is not None and not active()


def _end(rpc: Rpc, context: MeshContext, error: BaseException | None, *, gone: bool) -> None:
    context.tell_load()
    if error is None:
        rpc.end(context.status, gone=gone)
    else:
        # Whoever aborts has set a status, which also makes a sync RPC inactive.
        rpc.end(context.status or UNKNOWN, gone=gone and not context.status, error=error_name(error))

"""The task of one RPC: its request is parsed, its handler runs, its answer is written, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from proxyless.telemetry.application import serve_from_here
from proxyless.transport.grpc_server.context import AsyncContext, error_name
from proxyless.transport.grpc_server.methods import Details
from proxyless.transport.grpc_server.rpc import (
    INTERNAL,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    TOO_MANY,
    UNIMPLEMENTED,
    UNREADABLE,
    number,
)
from proxyless.transport.grpc_server.threads import respond_in_threads

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.call import Call
    from proxyless.transport.grpc_server.methods import Method


async def unary(call: Call, method: Method) -> None:
    """A coroutine for one request and one response: nearly all RPCs, so it is one function."""
    call.running = True
    assert call.rpc is not None
    serve_from_here(call.rpc.context)
    error = ""
    try:
        request: Any = call.request
        if method.parse is not None:
            try:
                request = method.parse(request)
            except Exception:
                call.finish(INTERNAL, UNREADABLE)
                return
        response = await method.behaviour(request, AsyncContext(call))
        if call.code is None or not number(call.code):
            call.answer(response if method.serialize is None else method.serialize(response))
        else:
            call.answer(b"")
    except BaseException as raised:
        error = error_name(raised)
        call.failed(raised)
    finally:
        call.settle(error)


async def streamed(call: Call, method: Method) -> None:
    """Any other handler of the event loop's."""
    await _until_end(call, _respond(call, method))


async def in_threads(call: Call, method: Method) -> None:
    """A handler that is a function."""
    await _until_end(call, respond_in_threads(call, method))


async def chosen(call: Call) -> None:
    """A handler that interceptors, or handlers of the user's own, choose."""
    await _until_end(call, _choose(call))


async def _until_end(call: Call, work: Any) -> None:
    call.running = True
    assert call.rpc is not None
    serve_from_here(call.rpc.context)
    error = ""
    try:
        await work
    except BaseException as raised:
        error = error_name(raised)
        call.failed(raised)
    finally:
        call.settle(error)


async def _choose(call: Call) -> None:
    core, rpc = call.connection.core, call.rpc
    assert rpc is not None
    call.method = method = await core.methods.ask(Details(call.path, rpc.metadata))
    if method is None:
        call.finish(UNIMPLEMENTED, NOT_FOUND)
    elif not core.admit(call):
        call.finish(RESOURCE_EXHAUSTED, TOO_MANY)
    else:
        if not method.incoming:
            await call.one()
            if call.finished:
                return
        await (_respond(call, method) if method.asynchronous else respond_in_threads(call, method))


async def _respond(call: Call, method: Method) -> None:
    context = AsyncContext(call)
    request: Any = Requests(call, method)
    if not method.incoming:
        try:
            request = parsed(call, method)
        except Exception:
            call.finish(INTERNAL, UNREADABLE)
            return
    if not method.outgoing:
        response = await method.behaviour(request, context)
        call.answer(b"" if call.code is not None and number(call.code) else serialized(method, response))
        return
    if method.generator:
        async with contextlib.aclosing(method.behaviour(request, context)) as responses:
            async for response in responses:
                await call.write(serialized(method, response))
    else:
        found = await method.behaviour(request, context)
        if inspect.isasyncgen(found):
            async with contextlib.aclosing(found) as responses:
                async for response in responses:
                    await call.write(serialized(method, response))
    call.check()
    call.finish(0 if call.code is None else number(call.code), call.details, call.trailing)


def parsed(call: Call, method: Method) -> Any:
    return call.request if method.parse is None else method.parse(call.request)


def serialized(method: Method, response: Any) -> Any:
    return response if method.serialize is None else method.serialize(response)


class Requests:
    """The messages of a request that streams, for ``async for``."""

    __slots__ = ("_call", "_method")

    def __init__(self, call: Call, method: Method) -> None:
        self._call = call
        self._method = method

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        data = await self._call.read()
        if data is None:
            raise StopAsyncIteration
        return data if self._method.parse is None else self._method.parse(data)

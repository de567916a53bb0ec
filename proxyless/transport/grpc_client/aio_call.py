"""What an ``aio`` stub's call returns: grpcio's call objects over the mesh."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any

import grpc

from proxyless.engine.record import CallRecord
from proxyless.transport.grpc_client.aio_rpc import AioRpc, feed
from proxyless.transport.grpc_client.status import Status

Deserialize = Callable[[bytes], Any] | None
Serialize = Callable[[Any], bytes] | None


def serialized(serialize: Serialize, message: Any) -> bytes:
    """The bytes of a request. Raises TypeError for what is none: ``bytes(5)`` would be five zeros."""
    raw = message if serialize is None else serialize(message)
    if not isinstance(raw, bytes | bytearray | memoryview):
        raise TypeError(f"a request, or what its serializer makes of it, must be bytes, not {type(raw).__name__}")
    return bytes(raw)


class _Base:
    """What all four kinds have. Made in the event loop that performs the call."""

    _goes_on = False  # when the application has forgotten it

    def __init__(self, rpc: AioRpc, deserialize: Deserialize) -> None:
        self._rpc = rpc
        self._deserialize = deserialize

    def __del__(self) -> None:
        rpc = getattr(self, "_rpc", None)
        if not self._goes_on and rpc is not None and not rpc.status.done() and not rpc.loop.is_closed():
            rpc.loop.call_soon_threadsafe(rpc.cancel)  # forgotten by the application

    @property
    def proxyless(self) -> CallRecord | None:
        """What the mesh did about this call; None before it decided anything."""
        return self._rpc.rpc.record

    def cancelled(self) -> bool:
        status = self._rpc.status
        return status.done() and status.result().code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._rpc.status.done()

    def cancel(self) -> bool:
        return self._rpc.cancel()

    def time_remaining(self) -> float | None:
        return self._rpc.rpc.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._rpc.when_done(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*await self._rpc.initial_metadata())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*(await self._ended()).trailing)

    async def code(self) -> grpc.StatusCode:
        return (await self._ended()).code

    async def details(self) -> str:
        return (await self._ended()).details

    async def debug_error_string(self) -> str:
        return str(await self._ended())

    async def wait_for_connection(self) -> None:
        status = await self._rpc.wait_connected()
        if status is not None:
            self._raise(status)

    async def _ended(self) -> Status:
        return await self._rpc.ended()

    def _raise(self, status: Status) -> None:
        if status.local:
            raise asyncio.CancelledError
        if not status.ok:
            raise self._error(status)

    def _error(self, status: Status) -> grpc.aio.AioRpcError:
        head = self._rpc.head
        initial = head.result() if head.done() else ()
        return grpc.aio.AioRpcError(
            status.code,
            grpc.aio.Metadata(*initial),
            grpc.aio.Metadata(*status.trailing),
            details=status.details,
            debug_error_string=str(status),
        )

    def _message(self, raw: bytes) -> Any:
        if self._deserialize is None:
            return raw
        try:
            return self._deserialize(raw)
        except Exception as error:
            self._rpc.cancel()
            failed = Status(grpc.StatusCode.INTERNAL, f"Exception deserializing response! {error}")
            raise self._error(failed) from error


class _UnaryResponse(_Base):
    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            status = await self._rpc.result()
        except asyncio.CancelledError:
            self.cancel()  # whoever gives up waiting gives up the call, as in grpcio
            raise
        self._raise(status)
        return self._message(self._rpc.response)


class _StreamResponse(_Base):
    def __aiter__(self) -> AsyncIterator[Any]:
        return self._all()

    async def _all(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        try:
            raw = await self._rpc.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if raw is grpc.aio.EOF:
            self._raise(await self._ended())
            return raw
        return self._message(raw)


class _StreamRequest(_Base):
    """requests: an iterable of them, None if the application writes."""

    def __init__(self, rpc: AioRpc, deserialize: Deserialize, serialize: Serialize, requests: Any) -> None:
        super().__init__(rpc, deserialize)
        self._serialize = partial(serialized, serialize)
        self._writes = requests is None
        self._feeding: asyncio.Task[None] | None = None
        if requests is not None:
            self._feeding = rpc.loop.create_task(feed(rpc, requests, self._serialize))
            rpc.when_done(_stopping(self._feeding))

    async def write(self, request: Any) -> None:
        self._is_writers()
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._rpc.outgoing.ended:
            raise asyncio.InvalidStateError("RPC already half closed.")
        try:
            await self._rpc.write(self._serialize(request))
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.done():
            self._raise(self._rpc.status.result())

    @property
    def _done_writing_flag(self) -> bool:
        """What grpcio's runner of interceptors asks of a call before it writes."""
        return self._rpc.outgoing.ended

    async def done_writing(self) -> None:
        self._is_writers()
        if not self.done():
            self._rpc.done_writing()

    def _is_writers(self) -> None:
        if not self._writes:
            raise grpc.aio.UsageError("The RPC has a request iterator; it cannot be written to as well.")


def _stopping(feeding: "asyncio.Task[None]") -> Callable[[], None]:
    """Knows the task only: a call that the application has forgotten must be collected, which cancels it."""

    def stop() -> None:
        feeding.cancel()

    return stop


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """See ``grpc.aio.UnaryUnaryCall``. The request is sent though nobody waits for the answer, as in grpcio."""

    _goes_on = True


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """See ``grpc.aio.UnaryStreamCall``."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """See ``grpc.aio.StreamUnaryCall``."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """See ``grpc.aio.StreamStreamCall``."""

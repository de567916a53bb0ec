"""One attempt of a call with one request and one response: a single exchange with grpcio's core instead of five."""

import asyncio
import time
from typing import Any

import grpc

from proxyless.engine.steps import Attempt, Outcome
from proxyless.transport.grpc_client.aio_attempt import AioAttempt
from proxyless.transport.grpc_client.rpc import Rpc
from proxyless.transport.grpc_client.subchannels import Subchannel

# Seconds by which two readings of the same deadline may differ.
_SAME = 0.001
# So many paths of a subchannel are remembered.
_MOST_METHODS = 256


class AioUnaryAttempt(AioAttempt):
    """Head, message and status are heard of together, at the end, as with a unary call of grpcio's own."""

    @staticmethod
    def serves(step: Attempt, rpc: Rpc) -> bool:
        """Not an attempt whose head must be here before the deadline of the call: grpcio would not tell of it."""
        remaining = rpc.remaining()
        return step.timeout is None or (remaining is not None and step.timeout >= remaining - _SAME)

    def _begin(self, subchannel: Subchannel[grpc.aio.Channel], request: bytes | None) -> Any:
        path, methods = self._step.path, subchannel.methods
        method = methods.get(path)
        if method is None:
            if len(methods) >= _MOST_METHODS:
                methods.clear()
            channel: Any = subchannel.channel
            method = methods[path] = channel.unary_unary(path)
        return method(request, **self._rpc.arguments(self._step))

    async def first(self, wants_head: asyncio.Event) -> Outcome:
        step, call = self._step, self.call
        started = time.monotonic()
        try:
            response = await call
        except grpc.RpcError:
            response = None
        self._response = grpc.aio.EOF if response is None else response
        self._record.wait = time.monotonic() - started
        self.initial = tuple(await call.initial_metadata())
        if self.initial or response is not None:
            return self._answered()
        return await self._without_answer(None if step.timeout is None else started + step.timeout)

    async def read(self) -> Any:
        response, self._response = self._response, grpc.aio.EOF
        return response

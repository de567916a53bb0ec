"""Keeps this process in the control plane's registry: one stream whose life is the workload's life there."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from proxyless.model.errors import ProxylessError
from proxyless.model.workload import REGISTER_METHOD, Workload

if TYPE_CHECKING:
    from grpclib.client import Channel

logger = logging.getLogger("proxyless.registration")

OpenChannel = Callable[[], Awaitable["Channel"]]
# A control plane that comes back is found within two seconds: endpoints depend on it.
_BACK_OFF = wait_random_exponential(multiplier=0.1, max=2.0)


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name or 'port'}-{number}" for number in itertools.count(2))


class Registration:
    """What the registry should say about this process, and the stream that says it.

    All methods are for the agent's event loop. While the control plane is away the wanted state is kept and announced
    again.
    """

    def __init__(self, open_channel: OpenChannel) -> None:
        self._open_channel = open_channel
        self._wanted: Workload | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self.last_error = ""

    def add(self, workload: Workload) -> None:
        """Announce a workload, or more ports of it: ports and labels join those announced before.

        A port whose name another one has is announced as ``NAME-2``, and so on: two servers of one process may both be
        called ``grpc``.
        """
        if self._wanted is not None:
            ports = dict(self._wanted.ports)
            for name, port in workload.ports.items():
                if ports.get(name, port) == port:
                    ports[name] = port
                elif port not in ports.values():
                    ports[next(free for free in _names(name) if free not in ports)] = port
            workload = replace(
                workload,
                ports=ports,
                labels={**self._wanted.labels, **workload.labels},
            )
        self._want(workload)

    def remove(self, ports: set[int]) -> None:
        """Take ports back; without any port left the process leaves the registry."""
        if self._wanted is None:
            return
        left = {name: port for name, port in self._wanted.ports.items() if port not in ports}
        self._want(replace(self._wanted, ports=left) if left else None)

    def drain(self, ports: Collection[int] | None = None) -> None:
        """Ask clients to send nothing new; what they have sent is still answered.

        ports: only these, None for all. While others remain, these leave the registry: a workload drains as a whole.
        """
        if self._wanted is None:
            return
        if ports is None or set(self._wanted.ports.values()) <= set(ports):
            self._want(self._wanted.draining())
        else:
            self.remove(set(ports))

    async def settled(self) -> None:
        """Wait until the control plane has confirmed what is wanted now."""
        await self._settled.wait()

    def _want(self, workload: Workload | None) -> None:
        self._wanted = workload
        self._settled.clear()
        self._changed.set()

    async def run(self) -> None:
        """Hold the stream open whenever there is something to announce; until cancelled."""
        while True:
            if self._wanted is None:
                self._settled.set()
                await self._changed.wait()
                self._changed.clear()
                continue
            # The back-off grows only while no stream works: one that did, and broke, is opened again at once.
            async for attempt in AsyncRetrying(wait=_BACK_OFF, before_sleep=self._report):
                with attempt:
                    await self._hold_stream()

    async def _hold_stream(self) -> None:
        """One stream from opening to its end; raises only if the control plane never confirmed anything on it."""
        confirmed = False
        try:
            async for _ in self._converse():
                confirmed = True
        except Exception as error:  # whatever broke the stream, the workload must come back to the registry
            self._settled.clear()
            self.last_error = _describe(error)
            if not confirmed:
                raise
            logger.warning("registration interrupted, announcing again: %s", self.last_error)

    def _report(self, state: RetryCallState) -> None:
        log = logger.warning if state.attempt_number == 1 else logger.debug
        log("cannot register, trying again: %s", self.last_error)

    async def _converse(self) -> AsyncIterator[None]:
        """Say what is wanted, again with each change; yields for each confirmation."""
        from google.protobuf.json_format import MessageToDict
        from google.protobuf.struct_pb2 import Struct
        from grpclib.client import StreamStreamMethod

        channel = await self._open_channel()
        try:
            method = StreamStreamMethod(channel, REGISTER_METHOD, Struct, Struct)
            async with method.open() as stream:
                said: Workload | None = None
                answer: asyncio.Task[Any] | None = None
                change = asyncio.create_task(self._changed.wait())
                try:
                    while self._wanted is not None:
                        self._changed.clear()
                        if said != self._wanted:
                            said = self._wanted
                            message = Struct()
                            message.update(said.to_dict())
                            await stream.send_message(message)
                        answer = answer or asyncio.create_task(stream.recv_message())
                        if change.done():
                            change = asyncio.create_task(self._changed.wait())
                        await asyncio.wait({answer, change}, return_when=asyncio.FIRST_COMPLETED)
                        if answer.done():
                            received = answer.result()
                            answer = None
                            if received is None:
                                raise ConnectionError("the control plane ended the registration stream")
                            self._confirm(said, MessageToDict(received))
                            yield
                finally:
                    for task in (answer, change):
                        if task is not None:
                            task.cancel()
                await stream.end()
        finally:
            channel.close()

    def _confirm(self, said: Workload, answer: dict[str, Any]) -> None:
        if (
            answer.get("registered")
            and answer.get("state", said.state.value) == said.state.value
            and said == self._wanted
        ):
            self.last_error = ""
            self._settled.set()


def _describe(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    return str(message) if isinstance(error, ProxylessError) else f"{type(error).__name__}: {message}"

"""The mesh under an ``AsyncClient``: the engine's loop, with asyncio for hands."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Delay, Respond, Step
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.model.snapshot import Snapshot
from proxyless.transport.completion import Completion
from proxyless.transport.hedging import race
from proxyless.transport.http1.errors import WireError
from proxyless.transport.httpx_adapter import convert
from proxyless.transport.httpx_adapter.async_attempt import AsyncExchange
from proxyless.transport.httpx_adapter.library import Library, library_of
from proxyless.transport.httpx_adapter.network_stream import AsyncNetworkStream
from proxyless.transport.httpx_adapter.outcome import plain_failed
from proxyless.transport.mirrors import LONGEST, AsyncMirrors
from proxyless.transport.pool import fork
from proxyless.transport.pool.aio import AsyncPools
from proxyless.transport.runtime import Runtime

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Base(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any: ...
        async def __aenter__(self) -> Self: ...

else:
    # Clients only call the two methods. Inheriting would import a library that the application may not use.
    _Base = object


class AsyncMeshTransport(_Base):
    """``httpx.AsyncClient(transport=AsyncMeshTransport(runtime))``, or httpx2's; one can serve clients of both.

    Any number of event loops may use it; connections are kept per loop.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pools = AsyncPools(runtime)
        self._mirrors = AsyncMirrors()
        self._plain = PlainTransports()

    async def handle_async_request(self, request: Any) -> Any:
        """Raises the exceptions of the library that ``request`` came from, and nothing else of ours."""
        library = library_of(request)
        content = library.content(request)
        try:
            head = convert.engine_request(request, content is not None)
        except WireError as error:
            raise library.error(error, request) from None
        snapshot = self._runtime.snapshot()
        if head.target not in snapshot.listeners:
            snapshot = await self._resolve(library, request, head.target)
        observation = self._runtime.telemetry.begin_client(head)
        started = time.monotonic()
        call = self._runtime.engine.call(snapshot, head)
        completion = Completion(call, observation)
        try:
            step = call.next_step()
            call.record.policy = time.monotonic() - started
            if snapshot.listeners[head.target] is None:
                return await self._pass_through(library, request, completion)
            return await self._perform(library, request, head, content, completion, step=step)
        except WireError as error:
            raised = library.error(error, request)
            completion.end(raised)
            raise raised from error
        except BaseException as error:
            completion.end(error)
            raise

    async def aclose(self) -> None:
        """Close what is idle; connections in use are closed when their response ends."""
        await self._mirrors.close()
        self._pools.close()
        await self._plain.aclose()
        await asyncio.sleep(0)  # lets the loop hear of the closed sockets before it may end itself

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def _resolve(self, library: Library, request: Any, target: str) -> Snapshot:
        _running_loop()
        try:
            # Whoever gives this request up cancels the future with it.
            snapshot = await asyncio.wrap_future(self._runtime.resolve(target, convert.limits_of(request).connect))
            if target not in snapshot.listeners:
                raise NotReadyError(f"the mesh has no answer about {target}")
        except ProxylessError as error:
            raise library.unresolved(error, request) from error
        return snapshot

    async def _perform(
        self,
        library: Library,
        request: Any,
        head: Request,
        content: bytes | None,
        completion: Completion,
        *,
        step: Step | None,
    ) -> Any:
        """step: the first."""
        call = completion.call
        pool = self._pools.here(_running_loop())
        exchange = AsyncExchange(pool, request, head.scheme, content)
        record, clock = call.record, time.monotonic
        try:
            while step is not None:
                match step:
                    case Attempt():
                        if exchange.connection is not None:
                            exchange.release()
                        if call.mirrored and step.number == 1:
                            self._mirror(library, request, content, completion)
                        if step.hedged:
                            decided = await race(call, step, exchange.another, AsyncExchange.release)
                            if isinstance(decided, AsyncExchange):
                                exchange = decided
                                break
                            step = decided
                            continue
                        outcome = await exchange.attempt(step, record.attempts[-1])
                        deciding = clock()
                        call.report(outcome)
                    case Delay():
                        await asyncio.sleep(step.seconds)
                        deciding = clock()
                    case Respond():
                        exchange.release()
                        response = convert.mesh_response(library, head.method, step, record)
                        completion.response_bytes = len(step.body)
                        completion.end()
                        return response
                step = call.next_step()
                record.policy += clock() - deciding
            connection = exchange.connection
            assert connection is not None and connection.reader.head is not None
            answer = connection.reader.head
            body = library.async_body(library, request, exchange, completion)
            network_stream = AsyncNetworkStream(library.name, connection)
            response = convert.response(library.AsyncResponse, answer, call, body, network_stream)
            response.mesh_body = body
            return response
        except BaseException:
            exchange.abort()
            raise

    def _mirror(self, library: Library, request: Any, content: bytes | None, completion: Completion) -> None:
        async def perform(copy: Completion) -> None:
            # Without what the application waits and listens for.
            again = library.module.Request(request.method, request.url, content=content)
            head = copy.observation.request
            response = await self._perform(library, again, head, content, copy, step=copy.call.next_step())
            async with contextlib.aclosing(response.stream) as stream:
                async for _ in stream:
                    if copy.response_bytes > LONGEST:
                        break

        self._mirrors.start(self._runtime, completion.call, completion.observation, perform)

    async def _pass_through(self, library: Library, request: Any, completion: Completion) -> Any:
        """A host that the mesh does not know: as the plain library would send it, but seen by telemetry."""
        call = completion.call
        try:
            response = await self._plain.of(library).handle_async_request(request)
        except Exception as error:
            call.report(plain_failed(error))
            call.next_step()
            raise
        call.report(Answered(response.status_code, []))
        call.next_step()
        response.stream = library.async_observed(response.stream, completion)
        response.extensions = {**response.extensions, "proxyless": call.record}
        return response


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "the mesh's asynchronous transport needs an event loop of asyncio or uvloop; trio has none: with trio, use "
            "a Client with mesh.transport() in a thread (trio.to_thread)"
        ) from None


class PlainTransports:
    """The libraries' own transports, made when they are needed, one for each event loop."""

    def __init__(self) -> None:
        self._made: dict[asyncio.AbstractEventLoop, dict[str, Any]] = {}
        fork.watch(self)

    def of(self, library: Library) -> Any:
        here = asyncio.get_running_loop()
        made = self._made.get(here)
        if made is None:
            for other in list(self._made):
                if other.is_closed():
                    self._made.pop(other, None)
            made = self._made[here] = {}
        name = library.module.__name__
        if name not in made:
            made[name] = library.module.AsyncHTTPTransport()
        return made[name]

    async def aclose(self) -> None:
        """Only this loop's: another loop's can only be closed there."""
        for transport in self._made.pop(asyncio.get_running_loop(), {}).values():
            await transport.aclose()

    def forget(self) -> tuple[()]:
        """See ``pool.fork``."""
        self._made = {}
        return ()

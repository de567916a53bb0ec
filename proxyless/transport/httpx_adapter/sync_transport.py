"""The mesh under a ``Client``: the engine's loop, in the thread that asks."""

import contextlib
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proxyless.engine.request import Request
from proxyless.engine.steps import Answered, Attempt, Delay, Respond, Step
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.model.snapshot import Snapshot
from proxyless.transport.completion import Completion
from proxyless.transport.http1.errors import WireError
from proxyless.transport.httpx_adapter import convert
from proxyless.transport.httpx_adapter.library import Library, library_of
from proxyless.transport.httpx_adapter.network_stream import NetworkStream
from proxyless.transport.httpx_adapter.outcome import plain_failed
from proxyless.transport.httpx_adapter.sync_attempt import SyncExchange
from proxyless.transport.httpx_adapter.sync_hedging import race
from proxyless.transport.mirrors import LONGEST, BlockingMirrors
from proxyless.transport.pool import fork
from proxyless.transport.pool.blocking import BlockingPool
from proxyless.transport.runtime import Runtime

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Base(httpx.BaseTransport, httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any: ...
        def __enter__(self) -> Self: ...

else:
    # Clients only call the two methods. Inheriting would import a library that the application may not use.
    _Base = object


class MeshTransport(_Base):
    """``httpx.Client(transport=MeshTransport(runtime))``, or httpx2's; one can serve clients of both.

    Any number of threads may use it, and share its connections.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pool = BlockingPool(runtime)
        self._mirrors = BlockingMirrors()
        self._plain = PlainTransports()

    def handle_request(self, request: Any) -> Any:
        """Raises the exceptions of the library that ``request`` came from, and nothing else of ours."""
        library = library_of(request)
        content = library.content(request)
        try:
            head = convert.engine_request(request, content is not None)
        except WireError as error:
            raise library.error(error, request) from None
        snapshot = self._runtime.snapshot()
        if head.target not in snapshot.listeners:
            snapshot = self._resolve(library, request, head.target)
        observation = self._runtime.telemetry.begin_client(head)
        started = time.monotonic()
        call = self._runtime.engine.call(snapshot, head)
        completion = Completion(call, observation)
        try:
            step = call.next_step()
            call.record.policy = time.monotonic() - started
            if snapshot.listeners[head.target] is None:
                return self._pass_through(library, request, completion)
            return self._perform(library, request, head, content, completion, step=step)
        except WireError as error:
            raised = library.error(error, request)
            completion.end(raised)
            raise raised from error
        except BaseException as error:
            completion.end(error)
            raise

    def close(self) -> None:
        """Close what is idle; connections in use are closed when their response ends."""
        self._mirrors.close()
        self._pool.close()
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def _resolve(self, library: Library, request: Any, target: str) -> Snapshot:
        try:
            snapshot = self._runtime.resolve(target, convert.limits_of(request).connect).result()
            if target not in snapshot.listeners:
                raise NotReadyError(f"the mesh has no answer about {target}")
        except ProxylessError as error:
            raise library.unresolved(error, request) from error
        return snapshot

    def _perform(
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
        pool = self._pool
        exchange = SyncExchange(pool, request, head.scheme, content)
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
                            decided = race(call, step, exchange)
                            if isinstance(decided, SyncExchange):
                                exchange = decided
                                break
                            step = decided
                            continue
                        outcome = exchange.attempt(step, record.attempts[-1])
                        deciding = clock()
                        call.report(outcome)
                    case Delay():
                        time.sleep(step.seconds)
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
            body = library.sync_body(library, request, exchange, completion)
            network_stream = NetworkStream(library.name, connection)
            return convert.response(library.Response, connection.reader.head, call, body, network_stream)
        except BaseException:
            exchange.abort()
            raise

    def _mirror(self, library: Library, request: Any, content: bytes | None, completion: Completion) -> None:
        def perform(copy: Completion) -> None:
            # Without what the application waits and listens for.
            again = library.module.Request(request.method, request.url, content=content)
            head = copy.observation.request
            response = self._perform(library, again, head, content, copy, step=copy.call.next_step())
            with contextlib.closing(response.stream) as stream:
                for _ in stream:
                    if copy.response_bytes > LONGEST:
                        break

        self._mirrors.start(self._runtime, completion.call, completion.observation, perform)

    def _pass_through(self, library: Library, request: Any, completion: Completion) -> Any:
        """A host that the mesh does not know: as the plain library would send it, but seen by telemetry."""
        call = completion.call
        try:
            response = self._plain.of(library).handle_request(request)
        except Exception as error:
            call.report(plain_failed(error))
            call.next_step()
            raise
        call.report(Answered(response.status_code, []))
        call.next_step()
        response.stream = library.sync_observed(response.stream, completion)
        response.extensions = {**response.extensions, "proxyless": call.record}
        return response


class PlainTransports:
    """The libraries' own transports, made when they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        fork.watch(self)

    def of(self, library: Library) -> Any:
        name = library.module.__name__
        with self._lock:
            if name not in self._made:
                self._made[name] = library.module.HTTPTransport()
            return self._made[name]

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, {}
        for transport in made.values():
            transport.close()

    def forget(self) -> tuple[()]:
        """See ``pool.fork``."""
        self._lock = threading.Lock()
        self._made = {}
        return ()

"""A mesh made by hand: snapshots, a runtime, and servers on loopback that do exactly what a test says."""

import asyncio
import contextlib
import importlib
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future

from proxyless.engine.engine import Engine
from proxyless.identity.source import IdentitySource
from proxyless.model.cluster import Cluster, Endpoint, LocalityEndpoints, UpstreamTls
from proxyless.model.errors import NotInTimeError, NotReadyError
from proxyless.model.matching import PathKind, PathMatcher, RouteMatch
from proxyless.model.route import Forward, Listener, RetryPolicy, Route, VirtualHost, WeightedCluster
from proxyless.model.snapshot import Snapshot
from proxyless.telemetry.telemetry import Telemetry
from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport

TARGET = "reviews:80"
URL = "http://reviews/"
DEFAULT_RETRY = RetryPolicy(
    frozenset({"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"})
    | {"reset-idempotent"},
    num_retries=2,
    back_off_base=0.001,
    back_off_max=0.002,
    retry_other_host=True,
    host_selection_attempts=5,
)
Handler = Callable[["Peer"], Awaitable[None]]


def cluster(*ports: int, tls: UpstreamTls | None = None, **settings: object) -> Cluster:
    endpoints = tuple(Endpoint("127.0.0.1", port, tls=tls) for port in ports)
    return Cluster("reviews", localities=(LocalityEndpoints(endpoints),), **settings)  # type: ignore[arg-type]


def snapshot(
    members: Cluster,
    retry: RetryPolicy | None = DEFAULT_RETRY,
    timeout: float | None = None,
    target: str = TARGET,
    **route: object,
) -> Snapshot:
    action = Forward((WeightedCluster(members.name),), timeout=timeout, retry=retry)
    rule = Route(RouteMatch(PathMatcher(PathKind.PREFIX, "/")), action, **route)  # type: ignore[arg-type]
    listener = Listener(target, "reviews", VirtualHost("reviews", ("*",), (rule,)))
    return Snapshot(listeners={target: listener}, clusters={members.name: members})


class FakeRuntime:
    """What ``Mesh`` is to a transport."""

    def __init__(self, world: Snapshot) -> None:
        self.world = world
        self.engine = Engine()
        self.identity = IdentitySource()
        self.telemetry = Telemetry(service="productpage", environ={})
        self.ended: list[tuple[object, dict[str, object]]] = []
        self.asked: list[str] = []
        self.pending: list[Future[Snapshot]] = []
        original = self.telemetry.begin_client

        def begin(request):  # type: ignore[no-untyped-def]
            observation = original(request)
            return Seen(observation, self.ended)

        self.telemetry.begin_client = begin  # type: ignore[method-assign]

    def snapshot(self) -> Snapshot:
        return self.world

    def resolve(self, target: str, within: float | None = None) -> Future[Snapshot]:
        self.asked.append(target)
        future: Future[Snapshot] = Future()
        if target.startswith("unready"):
            future.set_exception(NotReadyError(f"{target}: the control plane did not answer within 5 s"))
        elif target.startswith("late"):
            future.set_exception(NotInTimeError(f"no answer about {target} in {within:g} s"))
        elif target.startswith("pending"):
            self.pending.append(future)
        else:
            self.world = Snapshot(listeners={**self.world.listeners, target: None}, clusters=self.world.clusters)
            future.set_result(self.world)
        return future


class Seen:
    """Counts the ends of an observation: there must be one."""

    def __init__(self, observation, ended) -> None:  # type: ignore[no-untyped-def]
        self._observation, self._ended = observation, ended

    def end(self, record, **how) -> None:  # type: ignore[no-untyped-def]
        self._ended.append((record, how))
        self._observation.end(record, **how)

    def __getattr__(self, name: str) -> object:
        return getattr(self._observation, name)


class Peer:
    """One connection as the server sees it."""

    def __init__(self, server: "Server", number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.exchanges = 0

    async def head(self) -> tuple[str, dict[str, str]]:
        """The next request's line and headers; raises IncompleteReadError when there is none."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self.exchanges += 1
        self.server.requests.append((self.number, line, headers))
        return line, headers

    async def body(self, headers: dict[str, str]) -> bytes:
        return b"".join([chunk async for chunk in self.chunks(headers)])

    async def chunks(self, headers: dict[str, str]):  # type: ignore[no-untyped-def]
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return
        left = int(headers.get("content-length", 0))
        while left:
            data = await self.reader.read(min(left, 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ok(self, body: bytes = b"hello") -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


async def echo(peer: Peer) -> None:
    """Keep-alive: answers every request with its line and body."""
    while True:
        line, headers = await peer.head()
        body = await peer.body(headers)
        await peer.ok(line.encode() + b"|" + body)


class Server:
    """A server of ``handler`` in a thread with its own loop. connections: how many were accepted."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self._handler, self._context = handler, context
        self.connections = 0
        self.open = 0
        self.requests: list[tuple[int, str, dict[str, str]]] = []
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _closed(self) -> None:
        self.open -= 1

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            self.open += 1
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._handler(Peer(self, self.connections, reader, writer))
            finally:
                tasks.discard(task)
                writer.close()
                # The loop closes the socket in its next turn.
                self.loop.call_soon(self.loop.call_soon, self._closed)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=self._context, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=5)
        for _ in range(3):
            await asyncio.sleep(0)


@contextlib.contextmanager
def mesh(handler: Handler, **settings: object) -> Iterator[tuple[Server, FakeRuntime]]:
    """A server and a runtime whose ``reviews:80`` is it. settings: of the snapshot."""
    with Server(handler) as server:
        yield server, FakeRuntime(snapshot(cluster(server.port), **settings))  # type: ignore[arg-type]


class Client:
    """httpx and httpx2, async and sync, behind one async face, so that a scenario is written once."""

    def __init__(self, library: str, kind: str, runtime: FakeRuntime, **options: object) -> None:
        self.module = importlib.import_module(library)
        self.is_async = kind == "async"
        self.transport: AsyncMeshTransport | MeshTransport
        if self.is_async:
            self.transport = AsyncMeshTransport(runtime)
            self.client = self.module.AsyncClient(transport=self.transport, **options)
        else:
            self.transport = MeshTransport(runtime)
            self.client = self.module.Client(transport=self.transport, **options)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._done(self.client.aclose() if self.is_async else self.client.close())

    async def _done(self, result):  # type: ignore[no-untyped-def]
        return await result if self.is_async else result

    async def request(self, method: str, url: str = URL, **options: object):  # type: ignore[no-untyped-def]
        content = options.get("content")
        if isinstance(content, list):
            options["content"] = stream_of(content) if self.is_async else iter(content)
        return await self._done(self.client.request(method, url, **options))

    async def get(self, url: str = URL, **options: object):  # type: ignore[no-untyped-def]
        return await self.request("GET", url, **options)

    async def post(self, url: str = URL, **options: object):  # type: ignore[no-untyped-def]
        return await self.request("POST", url, **options)

    @contextlib.asynccontextmanager
    async def stream(self, method: str, url: str = URL, **options: object):  # type: ignore[no-untyped-def]
        if self.is_async:
            async with self.client.stream(method, url, **options) as response:
                yield response
        else:
            with self.client.stream(method, url, **options) as response:
                yield response

    async def chunks(self, response):  # type: ignore[no-untyped-def]
        if self.is_async:
            async for chunk in response.aiter_raw():
                yield chunk
        else:
            for chunk in response.iter_raw():
                yield chunk


async def stream_of(chunks: list[bytes]):  # type: ignore[no-untyped-def]
    for chunk in chunks:
        yield chunk


CLIENTS = [(library, kind) for library in ("httpx", "httpx2") for kind in ("async", "sync")]


def run(scenario: Awaitable[None]) -> None:
    """A scenario that hangs is a failure, not a wait."""
    asyncio.run(asyncio.wait_for(scenario, 90))  # type: ignore[arg-type]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 60 s"
        await asyncio.sleep(0.002)

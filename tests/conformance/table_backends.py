"""The services behind every row: one thread that is all of them over HTTP/1.1, and one gRPC server for each."""

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import grpc
import h11
from table_case import ID, SCRIPT, Answer, Seen, answer_to

NAMES = ("reviews-v1", "reviews-v2", "ratings", "vault")
# Longer than anybody waits; whoever hangs is let go when its caller is gone.
_HANG = 60.0


class Backends:
    """``ports``: by name; ``refused`` is a port where nobody listens."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._seen: dict[str, list[Seen]] = defaultdict(list)
        self._lock = threading.Lock()

    def taken(self, identifier: str) -> list[Seen]:
        """Every request with this id."""
        with self._lock:
            return list(self._seen[identifier])

    def note(self, seen: Seen) -> Answer:
        """One more attempt, and what to do with it."""
        headers = dict(seen.headers)
        with self._lock:
            noted = self._seen[headers.get(ID, "")]
            noted.append(seen)
            return answer_to(headers.get(SCRIPT, ""), len(noted) - 1)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.ports["refused"] = bound.getsockname()[1]
            yield


@contextlib.contextmanager
def http_backends() -> Iterator[Backends]:
    backends = Backends()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> list[asyncio.Server]:
        servers = []
        for name in NAMES:
            server = await asyncio.start_server(lambda r, w, name=name: _serve(backends, name, r, w), "127.0.0.1", 0)
            backends.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        return servers

    async def stop() -> None:
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    servers: list[asyncio.Server] = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        with backends.refusing():
            yield backends
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(backends: Backends, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        while connection.our_state is h11.IDLE:
            request, body = await _request(connection, reader)
            if request is None:
                break
            headers = tuple((key.decode(), value.decode("latin-1")) for key, value in request.headers)
            host = dict(headers).get("host", "")
            path = request.target.decode("latin-1")
            seen = Seen(name, request.method.decode(), path, host, headers, body.decode("latin-1"))
            answer = backends.note(seen)
            if answer.reset:
                break
            if answer.hang:
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(reader.read(1), _HANG)
                break
            while answer.beside > len(backends.taken(dict(headers).get(ID, ""))):
                await asyncio.sleep(0.005)
            await asyncio.sleep(answer.after)
            _reply(connection, writer, seen, answer)
            await writer.drain()
            if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                connection.start_next_cycle()
    except (ConnectionError, h11.ProtocolError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request | None, bytes]:
    request, body = None, b""
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            case h11.Request():
                request = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                return request, body
            case _:
                return None, b""


def _reply(connection: h11.Connection, writer: asyncio.StreamWriter, seen: Seen, answer: Answer) -> None:
    body = (json.dumps({"by": seen.backend}) if answer.body is None else answer.body).encode()
    if answer.interim:
        writer.write(_bytes(connection, h11.InformationalResponse(status_code=103, headers=[("link", "</a>")])))
    framing = [("transfer-encoding", "chunked")] if answer.chunked else [("content-length", str(len(body)))]
    headers = [*answer.headers, ("x-by", seen.backend), *framing]
    writer.write(_bytes(connection, h11.Response(status_code=answer.status, headers=headers)))
    if seen.method != "HEAD" and answer.status not in (204, 304):
        for start in range(0, len(body), 1000):
            writer.write(_bytes(connection, h11.Data(data=body[start : start + 1000])))
    writer.write(_bytes(connection, h11.EndOfMessage()))


def _bytes(connection: h11.Connection, event: Any) -> bytes:
    return connection.send(event) or b""


@contextlib.contextmanager
def grpc_backends() -> Iterator[Backends]:
    backends = Backends()
    servers = []
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        try:
            for name in NAMES:
                server = grpc.server(pool)
                server.add_generic_rpc_handlers((_Handler(backends, name),))
                backends.ports[name] = server.add_insecure_port("127.0.0.1:0")
                server.start()
                servers.append(server)
            with backends.refusing():
                yield backends
        finally:
            for server in servers:
                server.stop(None).wait()


class _Handler(grpc.GenericRpcHandler):
    """Every method of every service: answers the backend's name."""

    def __init__(self, backends: Backends, name: str) -> None:
        self._backends = backends
        self._name = name

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            headers = tuple((str(key), str(value)) for key, value in details.invocation_metadata)
            # grpcio tells a servicer everything but the authority.
            authority = context._rpc_event.call_details.host.decode()
            seen = Seen(self._name, "POST", details.method, authority, headers, request.decode())
            todo = self._backends.note(seen)
            if todo.hang:
                gone = threading.Event()
                if context.add_callback(gone.set):
                    gone.wait(_HANG)
            while todo.beside > len(self._backends.taken(dict(headers).get(ID, ""))) and context.is_active():
                time.sleep(0.005)
            time.sleep(todo.after)
            code = int(dict(todo.headers).get("grpc-status", "0"))
            if code:
                status = next(one for one in grpc.StatusCode if one.value[0] == code)
                context.abort(status, "as the script says")
            context.send_initial_metadata(todo.headers)
            return json.dumps({"by": self._name}).encode()

        return grpc.unary_unary_rpc_method_handler(answer)

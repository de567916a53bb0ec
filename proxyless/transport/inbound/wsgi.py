"""The mesh around a WSGI application under a foreign server (gunicorn, mod_wsgi): ``mesh.wsgi(app)``.

Such a server says nothing about its connections that a client could not say too, so every caller counts as
unauthenticated and a STRICT port refuses it. ``proxyless serve`` runs WSGI applications with their callers' identity.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import decide, listener_of
from proxyless.engine.paths import normalised
from proxyless.engine.replies import respond
from proxyless.engine.request import Request
from proxyless.engine.steps import Flag, Respond
from proxyless.model.load_report import HEADER
from proxyless.telemetry.application import serving
from proxyless.telemetry.labels import flag_letters
from proxyless.telemetry.observation import Connection, ServerObservation
from proxyless.telemetry.trace_context import inject
from proxyless.transport.inbound.forwarded import XFCC, believable
from proxyless.transport.inbound.head import host_problem, path_problem
from proxyless.transport.inbound.runtime import InboundRuntime

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class MeshWSGI:
    """``app`` inside the mesh: forged headers are gone, calls it makes continue its request."""

    def __init__(self, app: Application, runtime: InboundRuntime) -> None:
        self.app = app
        self.runtime = runtime

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # asgi.scope: an ASGI server of ours has already judged this request (proxyless serve).
        if "asgi.scope" in environ and (environ["asgi.scope"].get("extensions") or {}).get("proxyless"):
            return self.app(environ, start_response)
        _strip(environ)
        head = _head(environ)
        _respell(environ, head)
        address = environ.get("REMOTE_ADDR", "")
        remote = f"{address}:{environ.get('REMOTE_PORT', 0)}" if address else ""
        local = f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}"
        seen = self.runtime.telemetry.begin_server(head, Connection(remote=remote, local=local))
        verdict = self._judge(head, environ, Caller(local=local, remote=remote))
        if isinstance(verdict, Respond):
            seen.end(verdict.status, verdict.flags, response_bytes=len(verdict.body), reason=verdict.reason)
            return _refuse(verdict, start_response, head.method)
        environ["HTTP_X_REQUEST_ID"] = seen.context.request_id
        for name, value in inject(seen.context.trace):
            environ[_variable(name)] = value
        body = _Input(environ.get("wsgi.input"))
        if body.wrapped is not None:
            environ["wsgi.input"] = body
        return _Response(self.app, environ, start_response, seen, body)

    def _judge(self, head: Request, environ: Environ, caller: Caller) -> Respond | None:
        host = environ.get("HTTP_HOST")
        problem = (host_problem(host) if host else "") or path_problem(head.path, head.method)
        if problem:
            return respond(head, 400, b"Bad Request", f"the request has {problem}", ())
        try:
            port = int(environ.get("SERVER_PORT") or 0)
        except ValueError:
            port = 0
        verdict = decide(listener_of(self.runtime.snapshot().inbound, port), caller, head)
        if isinstance(verdict, Respond):
            return verdict
        for name in verdict.remove:
            environ.pop(_variable(name), None)
        for name, value in verdict.add:
            variable = _variable(name)
            environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
        return None


def _variable(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def _strip(environ: Environ) -> None:
    """Remove what only an authenticated caller may say; by CGI name, so that ``X_Envoy_`` goes too (gunicorn#2799)."""
    for variable in [name for name in environ if name.startswith("HTTP_X_")]:
        name = variable[5:].lower().replace("_", "-")
        if name == XFCC or not believable(name, False):
            del environ[variable]


def _head(environ: Environ) -> Request:
    decoded = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    path = quote(decoded.encode("latin-1"), safe="/:@!$&'()*+,;=~")
    query = environ.get("QUERY_STRING", "")
    headers = [
        (name[5:].lower().replace("_", "-"), str(value)) for name, value in environ.items() if name.startswith("HTTP_")
    ]
    if content_type := environ.get("CONTENT_TYPE"):
        headers.append(("content-type", content_type))
    return Request(
        method=environ.get("REQUEST_METHOD", "GET"),
        target=f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', 0)}",
        path=f"{path or '/'}?{query}" if query else path or "/",
        authority=environ.get("HTTP_HOST", ""),
        scheme=environ.get("wsgi.url_scheme", "http"),
        headers=headers,
    )


def _respell(environ: Environ, head: Request) -> None:
    """The application sees the path that is judged: without dot segments."""
    path = normalised(head.path)
    if path == head.path:
        return
    head.path = path
    decoded = unquote_to_bytes(path.partition("?")[0]).decode("latin-1")
    mounted: str = environ.get("SCRIPT_NAME", "")
    if mounted and not decoded.startswith(mounted.rstrip("/") + "/"):
        environ["SCRIPT_NAME"] = mounted = ""
    environ["PATH_INFO"] = decoded[len(mounted) :]


def _refuse(reply: Respond, start_response: StartResponse, method: str) -> list[bytes]:
    # No "connection": it is hop by hop, which PEP 3333 forbids an application to set.
    headers = [line for line in reply.headers if line[0] != "connection"]
    headers += [("content-length", str(len(reply.body))), ("x-proxyless-reason", reply.reason)]
    if reply.flags:
        headers.append(("x-envoy-response-flags", flag_letters(reply.flags)))
    start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
    return [b"" if method == "HEAD" else reply.body]


class _Input:
    """``wsgi.input`` that counts."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self.count = 0

    def _counted(self, data: bytes) -> bytes:
        self.count += len(data)
        return data

    def read(self, *size: int) -> bytes:
        return self._counted(self.wrapped.read(*size))

    def readline(self, *limit: int) -> bytes:
        return self._counted(self.wrapped.readline(*limit))

    def readlines(self, *hint: int) -> list[bytes]:
        lines: list[bytes] = self.wrapped.readlines(*hint)
        self.count += sum(map(len, lines))
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self.wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


class _Response:
    """The application's response. Each part runs in the request's own context, whatever thread iterates it."""

    def __init__(
        self, app: Application, environ: Environ, start_response: StartResponse, seen: ServerObservation, body: _Input
    ) -> None:
        self._start_response = start_response
        self._seen = seen
        self._body = body
        self._context = contextvars.copy_context()
        self._serving = serving(seen.context)
        self._status = 0
        self._sent = 0
        self._complete = False
        self._closed = False
        self._context.run(self._serving.__enter__)
        try:
            self._iterable = self._context.run(app, environ, self._start)
            self._iterator = self._context.run(iter, self._iterable)
        except BaseException:
            self._finish(sys.exc_info()[0])
            raise

    def _start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        self._status = int(status[:3]) if status[:3].isdigit() else 0
        if (load := self._seen.load()) is not None:
            headers = [*headers, (HEADER, load.header())]
        write = self._start_response(status, headers, *exc_info)

        def counted(data: bytes) -> object:
            self._sent += len(data)
            return write(data)

        return counted

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part: bytes = self._context.run(next, self._iterator)
        except StopIteration:
            self._complete = True
            raise
        except BaseException:
            self._finish(sys.exc_info()[0])
            raise
        self._sent += len(part)
        return part

    def close(self) -> None:
        """PEP 3333: the server calls it once, also when the client went away."""
        try:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            self._finish(None)

    def _finish(self, error: type[BaseException] | None) -> None:
        if self._closed:
            return
        self._closed = True
        gone = error is None and not self._complete
        self._seen.end(
            self._status or 500,
            (Flag.DOWNSTREAM_CONNECTION_TERMINATION,) if gone else (),
            request_bytes=self._body.count,
            response_bytes=self._sent,
            error=error.__name__ if error is not None else "",
        )
        self._context.run(self._serving.__exit__, None, None, None)

"""From a server's idea of a request to ours: one canonical form for policy, telemetry and the application.

A request whose parts could be read in two ways is refused here, before anybody reads them.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from proxyless.engine.paths import is_acceptable, normalised
from proxyless.engine.request import Request
from proxyless.telemetry.telemetry import READ_HEADERS
from proxyless.telemetry.trace_context import TRACE_HEADERS
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable, client_cert
from proxyless.transport.inbound.served_request import ServedRequest

_XFCC = XFCC.encode("ascii")
# What telemetry reads, and writes anew for the application.
_CONTEXT = TRACE_HEADERS | {"x-request-id"}
# A Host that two readers could read as two hosts.
_BAD_HOST = re.compile(r"[^!-~]|[,/\\?#@]")


class _Name:
    """What a header is to us, by its name alone.

    plain: the application's, and nothing more. believed: whether to let it through, from anybody and from an
    authenticated caller. read: by telemetry. context: written anew by telemetry.
    """

    def __init__(self, raw: bytes) -> None:
        self.lower = raw.lower()
        # latin-1 maps every byte to one character, so nothing is lost or widened by decoding.
        self.text = self.lower.decode("latin-1")
        self.host = self.text == "host"
        self.certificate = self.text == XFCC
        self.believed = (believable(self.text, False), believable(self.text, True))
        self.underscore = "_" in self.text
        self.read = self.text in READ_HEADERS
        self.context = self.text in _CONTEXT
        self.content_type = self.text == "content-type"
        special = self.host or self.certificate or self.read or self.context or self.underscore or self.content_type
        self.plain = not special and self.believed == (True, True)


# Peers choose the names: what is remembered of them is bounded.
_MAX_NAMES = 1024
_names: dict[bytes, _Name] = {}


def _name(raw: bytes) -> _Name:
    found = _Name(raw)
    if len(_names) < _MAX_NAMES and len(raw) <= 64:
        _names[raw] = found
    return found


class Head:
    """request: as the mesh judges it, header names lower case. problem: why it must be answered 400, "" if sound.

    respelled: whether the path came in another spelling than the normalised one, which ``request`` has.
    headers: what the application gets, in ASGI's form; forged ones are gone, ours are in, and trace context and request
    id are still to come. read_lines: what telemetry reads.
    """

    __slots__ = ("headers", "problem", "read_lines", "request", "respelled")

    def __init__(
        self,
        request: Request,
        headers: list[tuple[bytes, bytes]],
        read_lines: list[tuple[str, str]],
        problem: str,
        respelled: bool,
    ) -> None:
        self.request = request
        self.headers = headers
        self.read_lines = read_lines
        self.problem = problem
        self.respelled = respelled


def read(scope: MutableMapping[str, Any], connection: Connection, *, drop_underscores: bool = False) -> Head:
    """Read the head of an ASGI ``http`` or ``websocket`` scope.

    drop_underscores: leave out header names with ``_``, which CGI variables cannot tell from ``-`` (CVE-2015-0219).
    """
    authenticated = connection.caller.peer is not None
    kept: list[tuple[bytes, bytes]] = []
    judged: list[tuple[bytes, bytes]] = []
    read_lines: list[tuple[str, str]] = []
    hosts: list[str] = []
    forwarded: list[str] = []
    content_type = ""
    for raw_name, value in scope["headers"]:
        name = _names.get(raw_name) or _name(raw_name)
        line = (name.lower, value)
        if not name.plain:
            if not name.believed[authenticated] or (drop_underscores and name.underscore):
                continue
            if name.certificate:
                forwarded.append(value.decode("latin-1"))
                continue
            if name.host:
                hosts.append(value.decode("latin-1"))
            elif name.content_type:
                content_type = content_type or value.decode("latin-1")
            if name.read:
                read_lines.append((name.text, value.decode("latin-1")))
            if name.context:
                judged.append(line)
                continue
        judged.append(line)
        kept.append(line)
    told = client_cert(forwarded, connection)
    if told is not None:
        line = (_XFCC, told.encode("latin-1"))
        judged.append(line)
        kept.append(line)
    received = _path(scope)
    path = normalised(received)
    method = scope.get("method", "GET")
    host = hosts[0] if hosts else ""
    request = ServedRequest(method, connection.local, path, host, scope.get("scheme", "http"), judged, content_type)
    problem = _problem(scope, hosts, received, method)
    return Head(request, kept, read_lines, problem, path != received)


def _path(scope: MutableMapping[str, Any]) -> str:
    """As on the wire. ``raw_path`` is optional in ASGI; without it the path is percent-encoded again."""
    raw = scope.get("raw_path")
    path: str = raw.decode("latin-1") if raw else quote(scope.get("path", ""), safe="/:@!$&'()*+,;=~-._%")
    query = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path


def _problem(scope: MutableMapping[str, Any], hosts: list[str], path: str, method: str) -> str:
    if len(hosts) > 1:
        return "more than one Host header"
    if not hosts and scope.get("http_version", "1.1") not in ("0.9", "1.0"):
        return "no Host header"
    return (host_problem(hosts[0]) if hosts else "") or path_problem(path, method)


def host_problem(host: str) -> str:
    """RFC 9110 section 7.2: a space, comma, slash or @ would let two readers see two hosts (CVE-2026-48710)."""
    return "a malformed Host header" if _BAD_HOST.search(host) else ""


def path_problem(path: str, method: str) -> str:
    """Policy and routing must see the same path (CVE-2026-33186), and a fragment never travels (CVE-2021-39156)."""
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        return "a path that does not begin with a slash"
    if not is_acceptable(path):
        return "an escaped NUL in its path"
    return "a fragment in its path" if "#" in path else ""

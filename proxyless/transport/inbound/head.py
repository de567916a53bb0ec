"""From a server's idea of a request to ours: one canonical form for policy, telemetry and the application.

A request whose parts could be read in two ways is refused here, before anybody reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from proxyless.engine.request import Request
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable, client_cert


@dataclass(frozen=True, slots=True)
class Head:
    """request: as the mesh judges it, header names lower case. problem: why it must be answered 400, "" if sound.

    headers: what the application gets, in ASGI's form; forged ones are gone and ours are in.
    """

    request: Request
    headers: list[tuple[bytes, bytes]]
    problem: str = ""


def read(scope: dict[str, Any], connection: Connection, *, drop_underscores: bool = False) -> Head:
    """Read the head of an ASGI ``http`` or ``websocket`` scope.

    drop_underscores: leave out header names with ``_``, which CGI variables cannot tell from ``-`` (CVE-2015-0219).
    """
    authenticated = connection.caller.peer is not None
    kept: list[tuple[bytes, bytes]] = []
    lines: list[tuple[str, str]] = []
    hosts: list[str] = []
    forwarded: list[str] = []
    for raw_name, raw_value in scope["headers"]:
        # latin-1 maps every byte to one character, so nothing is lost or widened by decoding.
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == XFCC:
            forwarded.append(value)
            continue
        if name == "host":
            hosts.append(value)
        elif (drop_underscores and "_" in name) or not believable(name, authenticated):
            continue
        kept.append((raw_name.lower(), raw_value))
        lines.append((name, value))
    told = client_cert(forwarded, connection)
    if told is not None:
        kept.append((XFCC.encode("ascii"), told.encode("latin-1")))
        lines.append((XFCC, told))
    path = _path(scope)
    port = (scope.get("server") or ("", None))[1]
    request = Request(
        method=scope.get("method", "GET"),
        target=f"{(scope.get('server') or ('', 0))[0]}:{port or 0}",
        path=path,
        authority=hosts[0] if hosts else "",
        scheme=scope.get("scheme", "http"),
        headers=lines,
    )
    return Head(request, kept, _problem(scope, hosts, path))


def _path(scope: dict[str, Any]) -> str:
    """As on the wire. ``raw_path`` is optional in ASGI; without it the path is percent-encoded again."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope.get("path", ""), safe="/:@!$&'()*+,;=~-._%")
    query = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path


def _problem(scope: dict[str, Any], hosts: list[str], path: str) -> str:
    if len(hosts) > 1:
        return "more than one Host header"
    if not hosts and scope.get("http_version", "1.1") not in ("0.9", "1.0"):
        return "no Host header"
    return (host_problem(hosts[0]) if hosts else "") or path_problem(path, scope.get("method", "GET"))


def host_problem(host: str) -> str:
    """RFC 9110 section 7.2: a space, comma, slash or @ would let two readers see two hosts (CVE-2026-48710)."""
    if any(letter in ",/\\?#@" or not "!" <= letter <= "~" for letter in host):
        return "a malformed Host header"
    return ""


def path_problem(path: str, method: str) -> str:
    """Policy and routing must see the same path (CVE-2026-33186), and a fragment never travels (CVE-2021-39156)."""
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        return "a path that does not begin with a slash"
    return "a fragment in its path" if "#" in path else ""

"""From a server's idea of a request to ours: one canonical form for policy, telemetry and the application.

A request whose parts could be read in two ways is refused here, before anybody reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxyless.engine.paths import is_acceptable
from proxyless.telemetry.telemetry import READ_HEADERS
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable, client_cert
from proxyless.transport.inbound.served_request import CONTEXT_HEADERS, Line, ServedRequest

if TYPE_CHECKING:
    from proxyless.transport.inbound.target import Target

_XFCC = XFCC.encode("ascii")
# A Host that two readers could read as two hosts.
_BAD_HOST = re.compile(r"[^!-~]|[,/\\?#@]")
_FRAMING = frozenset({"transfer-encoding", "expect"})


class _Name:
    """What a header is to us, by its name alone.

    plain: the application's, and nothing more. believed: whether to let it through, from anybody and from an
    authenticated caller. read: by telemetry. context: written anew by telemetry. framing: read by the server.
    """

    __slots__ = (
        "believed",
        "certificate",
        "content_type",
        "context",
        "framing",
        "host",
        "lower",
        "plain",
        "read",
        "text",
        "underscore",
    )

    def __init__(self, raw: bytes) -> None:
        self.lower = raw.lower()
        # latin-1 maps every byte to one character, so nothing is lost or widened by decoding.
        self.text = self.lower.decode("latin-1")
        self.host = self.text == "host"
        self.certificate = self.text == XFCC
        self.believed = (believable(self.text, False), believable(self.text, True))
        self.underscore = "_" in self.text
        self.read = self.text in READ_HEADERS
        self.context = self.text in CONTEXT_HEADERS
        self.content_type = self.text == "content-type"
        self.framing = self.text in _FRAMING
        special = self.host or self.certificate or self.read or self.context or self.underscore or self.content_type
        self.plain = not special and not self.framing and self.believed == (True, True)


# Peers choose the names and the hosts: what is remembered of them is bounded.
_MAX_REMEMBERED = 1024
_LONGEST_NAME = 64
_LONGEST_HOST = 256
_names: dict[bytes, _Name] = {}
_hosts: dict[bytes, tuple[str, str]] = {}


def _name(raw: bytes) -> _Name:
    found = _Name(raw)
    if len(_names) < _MAX_REMEMBERED and len(raw) <= _LONGEST_NAME:
        _names[raw] = found
    return found


def _host(raw: bytes) -> tuple[str, str]:
    """A Host header as text, and what is wrong with it."""
    text = raw.decode("latin-1")
    found = text, host_problem(text)
    if len(_hosts) < _MAX_REMEMBERED and len(raw) <= _LONGEST_HOST:
        _hosts[raw] = found
    return found


def read(  # noqa: PLR0917  the request line and the head, in their order
    method: str,
    target: Target,
    query: bytes,
    lines: Iterable[Line],
    connection: Connection,
    scheme: str = "http",
    old: bool = False,
    drop_underscores: bool = False,
) -> ServedRequest:
    """Read the head of a request that came on ``connection``. Every request comes by here, so it is one loop.

    old: of HTTP/1.0, which needs no Host. drop_underscores: leave out header names with ``_``, which CGI variables
    cannot tell from ``-`` (CVE-2015-0219).
    """
    authenticated = connection.caller.peer is not None
    kept: list[Line] = []
    told: list[tuple[str, str]] = []
    framing: list[Line] = []
    hosts: list[bytes] = []
    forwarded: list[str] = []
    content_type = ""
    for line in lines:
        raw_name, value = line
        name = _names.get(raw_name) or _name(raw_name)
        if name.plain:
            kept.append((name.lower, value))
            continue
        if not name.believed[authenticated] or (drop_underscores and name.underscore):
            continue
        if name.certificate:
            forwarded.append(value.decode("latin-1"))
            continue
        if name.host:
            hosts.append(value)
        elif name.read:
            told.append((name.text, value.decode("latin-1")))
            if name.context:
                continue
        elif name.framing:
            framing.append((name.lower, value.lower()))
        elif name.content_type:
            content_type = content_type or value.decode("latin-1")
        kept.append((name.lower, value))
    certificate = client_cert(forwarded, connection) if forwarded else connection.element
    if certificate:
        kept.append((_XFCC, certificate.encode("latin-1")))
    path, problem = target.judged, target.problem
    if query:
        path = f"{path}?{query.decode('latin-1')}"
        if b"#" in query:
            problem = problem or "a fragment in its path"
    host = ""
    if len(hosts) == 1:
        host, malformed = _hosts.get(hosts[0]) or _host(hosts[0])
        problem = malformed or problem
    elif hosts:
        host, problem = hosts[0].decode("latin-1"), "more than one Host header"
    elif not old:
        problem = "no Host header"
    return ServedRequest(method, connection.local, path, host, scheme, kept, told, framing, content_type, problem)


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

"""The header list of a gRPC request: what policy judges, what the servicer is shown, and what must be refused unread.

By the rules of RFC 9113 section 8 and gRPC's PROTOCOL-HTTP2.md; of two readings none is taken (gRFC A41).
"""

from __future__ import annotations

import re

from proxyless.telemetry.telemetry import READ_HEADERS
from proxyless.telemetry.trace_context import TRACE_HEADERS
from proxyless.transport.grpc_server.metadata import Metadatum
from proxyless.transport.grpc_wire import binary
from proxyless.transport.grpc_wire.header_blocks import Line, Lines
from proxyless.transport.grpc_wire.messages import ENCODINGS
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable, client_cert
from proxyless.transport.inbound.head import host_problem

_NAME = re.compile(rb":?[0-9a-z!#$%&'*+.^_`|~-]+\Z")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Of a connection (RFC 9113 section 8.2.2): never in HTTP/2.
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
# gRPC's own: a servicer is told by other means.
_HIDDEN = frozenset({b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})
_ONCE = _PSEUDO | _HIDDEN | {b"host"}
_UNSHOWN = frozenset({"grpc-trace-bin", "grpc-tags-bin"})
# What telemetry reads, and writes anew for the servicer.
CONTEXT = TRACE_HEADERS | {"x-request-id"}
_UNIQUE = CONTEXT | {"authorization", "cookie"}
# grpc-timeout has at most eight digits; whoever waits for longer than a day waits for ever.
LONGEST_TIMEOUT = 86_400.0
_MOST_KEPT, _LONGEST_KEPT = 2048, 256


class _Known:
    """A line, looked at once. malformed: nobody may send it. plain: it is metadata, whoever sends it, and no more."""

    __slots__ = (
        "believed",
        "certificate",
        "context",
        "malformed",
        "once",
        "pair",
        "plain",
        "read",
        "shown",
        "undecodable",
    )

    def __init__(self, line: Line) -> None:
        raw, value = line
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        self.pair = name, text
        self.once = raw in _ONCE
        pseudo = raw[:1] == b":"
        self.malformed = (
            not _NAME.match(raw)
            or _BAD_VALUE.search(value) is not None
            or raw in _OF_CONNECTIONS
            or (pseudo and raw not in _PSEUDO)
        )
        self.certificate = name == XFCC
        self.believed = (believable(name, False), believable(name, True))
        self.read = name in READ_HEADERS
        self.context = name in CONTEXT
        self.shown: tuple[Metadatum, ...] = ()
        self.undecodable = False
        if not (pseudo or raw in _HIDDEN or name in _UNSHOWN):
            if name.endswith(binary.SUFFIX):
                values = binary.decoded(value)
                self.undecodable = None in values
                self.shown = tuple(Metadatum(name, one) for one in values if one is not None)
            else:
                self.shown = (Metadatum(name, text),)
        special = self.once or self.malformed or self.certificate or self.read or self.undecodable
        self.plain = not special and self.believed == (True, True)


_known: dict[Line, _Known] = {}


def _look(line: Line) -> _Known:
    found = _Known(line)
    if found.pair[0] not in _UNIQUE and len(line[0]) + len(line[1]) <= _LONGEST_KEPT:
        if len(_known) >= _MOST_KEPT:  # peers choose them
            _known.clear()
        _known[line] = found
    return found


class Head:
    """malformed: the stream is reset. http: the HTTP status to refuse with, 0 for none. problem: why, if its status is
    INTERNAL. path, authority: as asked for. judged: lines for policy. read: those of them that telemetry reads. shown:
    metadata for the servicer. waits: seconds, None for ever. encoding: of the messages. accepts: what answers may be
    compressed with.
    """

    __slots__ = (
        *(
            "accepts",
            "authority",
            "encoding",
            "http",
            "judged",
            "malformed",
            "path",
            "problem",
            "read",
            "shown",
            "waits",
        ),
    )

    def __init__(self, lines: Lines, facts: Connection) -> None:
        self.judged = judged = [("content-type", "application/grpc")]
        self.read: list[tuple[str, str]] = []
        self.shown: list[Metadatum] = []
        self.malformed = self.problem = ""
        self.waits: float | None = None
        self.http = 0
        once: dict[bytes, bytes] = {}
        forwarded: list[str] = []
        regular = False
        for line in lines:
            known = _known.get(line) or _look(line)
            if known.plain:
                regular = True
                judged.append(known.pair)
                self.shown += known.shown
                continue
            pseudo = line[0][:1] == b":"
            if known.malformed or (pseudo and regular):
                self.malformed = "a header that HTTP/2 does not allow, or not there"
                return
            regular = not pseudo
            if known.once:
                self._once(line, known, once)
            else:
                self._special(known, facts.caller.peer is not None, forwarded)
        certificate = client_cert(forwarded, facts) if forwarded else facts.element
        if certificate:
            judged.append((XFCC, certificate))
            self.shown.append(Metadatum(XFCC, certificate))
        self._check(once)

    def _once(self, line: Line, known: _Known, once: dict[bytes, bytes]) -> None:
        name = line[0]
        if name in once:
            self.problem = f"Duplicate '{known.pair[0]}' header received"
        once[name] = line[1]
        if name == b"host":
            self.judged.append(known.pair)
            self.shown += known.shown
        elif name == b"grpc-timeout":
            self.read.append(known.pair)
            self.judged.append(known.pair)

    def _special(self, known: _Known, authenticated: bool, forwarded: list[str]) -> None:
        if known.undecodable:
            self.problem = f"Error parsing '{known.pair[0]}' metadata: illegal base64 encoding"
        if not known.believed[authenticated]:
            return
        if known.certificate:
            forwarded.append(known.pair[1])
            return
        self.judged.append(known.pair)
        if known.read:
            self.read.append(known.pair)
        if not known.context:
            self.shown += known.shown

    def _check(self, once: dict[bytes, bytes]) -> None:
        method, path = once.get(b":method"), once.get(b":path")
        authority = once.get(b":authority") or once.get(b"host")
        if not method or not path or not once.get(b":scheme") or not authority:
            self.malformed = "no method, path, scheme or authority"
            return
        self.path, self.authority = path.decode("latin-1"), authority.decode("latin-1")
        kind = once.get(b"content-type", b"")
        if method != b"POST":
            self.http = 405
        elif not kind.startswith(b"application/grpc") or kind[16:17] not in (b"", b"+", b";"):
            self.http = 415
        elif once.get(b"te") != b"trailers":
            self.problem = "Error parsing 'te' metadata"
        elif found := host_problem(self.authority):
            self.problem = f"the request has {found}"
        if kind[16:17] == b"+":
            self.judged[0] = ("content-type", kind.decode("latin-1"))
        if (said := once.get(b"grpc-timeout")) is not None:
            if match := _TIMEOUT.match(said):
                waits = int(match[1]) * _UNITS[match[2]]
                self.waits = waits if waits < LONGEST_TIMEOUT else None
            else:
                self.problem = "Error parsing 'grpc-timeout' metadata"
        self.encoding = once.get(b"grpc-encoding", b"identity").decode("latin-1")
        self.accepts = once.get(b"grpc-accept-encoding", b"")

    @property
    def unsupported(self) -> bool:
        """Whether its messages are compressed in a way that we do not know."""
        return self.encoding not in ENCODINGS

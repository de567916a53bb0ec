"""Trace context on the wire: W3C Trace Context and Zipkin's B3, in and out.

Sources: https://www.w3.org/TR/trace-context/ and https://github.com/openzipkin/b3-propagation. What a peer sends is
bounded and checked; anything malformed is as if it were absent, as both texts ask.
"""

import enum
import re
from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import NamedTuple

from proxyless.telemetry.identifiers import Supply, bits, digits

TRACE_HEADERS = frozenset(
    {
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    }
)
_B3_MULTI = ("x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?\Z")
# Of version 00 with nothing strange about it: ids are not all zeros.
_PLAIN_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])\Z")
_B3_SINGLE = re.compile(r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?\Z", re.I)
_HEX_64_OR_128 = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{16})\Z", re.I)
_HEX_64 = re.compile(r"[0-9a-f]{16}\Z", re.I)
_STATE_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}\Z")
# The W3C text: at most 32 members; at least 512 characters must be propagated, so that is what we take.
_STATE_MEMBERS = 32
_STATE_LIMIT = 512
_TRACEPARENT_LIMIT = 256


class Formats(enum.Flag):
    """Which B3 formats came in, so that they go out again. W3C always goes out."""

    NONE = 0
    B3_SINGLE = 1
    B3_MULTI = 2


# Looking a member up in an enum's class costs Python 3.11 more than comparing with it.
NO_FORMATS = Formats.NONE
_ODD = frozenset("13579bdf")


class TraceContext(NamedTuple):
    """One position in one trace. Ids are lower-case hex of 32 and 16 characters."""

    trace_id: str
    span_id: str
    sampled: bool = False
    state: str = ""
    formats: Formats = Formats.NONE
    debug: bool = False


def _traces(count: int) -> list[TraceContext]:
    spans = _SPANS.findall(digits(16 * count))
    if _NO_SPAN in spans:  # once in 2**64 times
        return _traces(count)
    rest = (repeat(each) for each in TraceContext("", "")[2:])
    fields = zip(_TRACES.findall(digits(32 * count)), spans, *rest, strict=False)
    # In one go, and past the function that makes a named tuple: it is a tuple.
    return list(map(partial(tuple.__new__, TraceContext), fields))


def new_span_id() -> str:
    return f"{bits(64) or 1:016x}"


_TRACES, _SPANS = re.compile(".{32}"), re.compile(".{16}")
_NO_SPAN = "0" * 16
# One that starts here, and the first span in it; whether it is sampled is still to be decided.
new_trace = Supply(_traces).take


class Incoming(NamedTuple):
    """What headers said. context: None when no usable ids came. sampled: the decision, None if none came."""

    context: TraceContext | None = None
    sampled: bool | None = None
    formats: Formats = Formats.NONE


_NOTHING = Incoming()
_Lines = dict[str, list[str]]


def extract(headers: Iterable[tuple[str, str]]) -> Incoming:
    """Read trace context from lower-case header lines. W3C wins over B3, single B3 over multi."""
    return incoming([line for line in headers if line[0] in TRACE_HEADERS])


def incoming(lines: list[tuple[str, str]]) -> Incoming:
    """As ``extract``, of no lines but those of TRACE_HEADERS."""
    if not lines:
        return _NOTHING
    if len(lines) == 1 and lines[0][0] == "traceparent":
        # What the mesh's own clients send, nearly always.
        context = _parent(lines[0][1])
        return _NOTHING if context is None else Incoming(context, context.sampled)
    found: _Lines = {}
    for name, value in lines:
        found.setdefault(name, []).append(value)
    context = _w3c(found)
    b3_single = _only(found, "b3")
    has_multi = not found.keys().isdisjoint(_B3_MULTI)
    if context is not None and b3_single is None and not has_multi:
        return Incoming(context, context.sampled)
    formats = Formats.NONE
    if b3_single is not None:
        formats |= Formats.B3_SINGLE
    if has_multi:
        formats |= Formats.B3_MULTI
    sampled: bool | None = None if context is None else context.sampled
    if context is None and b3_single is not None:
        context, sampled = _single(b3_single)
    if context is None and sampled is None and has_multi:
        context, sampled = _multi(found)
    if context is not None:
        # W3C has no debug flag: B3's, if it came beside, goes on.
        debug = context.debug or _only(found, "x-b3-flags") == "1"
        context = context._replace(formats=formats, debug=debug)
    return Incoming(context, sampled, formats)


def traceparent(context: TraceContext) -> str:
    """The value of the header that always goes out."""
    return f"00-{context.trace_id}-{context.span_id}-0{'1' if context.sampled else '0'}"


def inject(context: TraceContext) -> list[tuple[str, str]]:
    """The header lines that carry ``context``."""
    return [("traceparent", traceparent(context)), *inject_further(context)]


def inject_further(context: TraceContext) -> list[tuple[str, str]]:
    """Those of them beside ``traceparent``; most contexts have none."""
    lines = [("tracestate", context.state)] if context.state else []
    if context.formats is NO_FORMATS:
        return lines
    flag = "1" if context.sampled else "0"
    if Formats.B3_SINGLE in context.formats:
        lines.append(("b3", f"{context.trace_id}-{context.span_id}-{'d' if context.debug else flag}"))
    if Formats.B3_MULTI in context.formats:
        lines.append(("x-b3-traceid", context.trace_id))
        lines.append(("x-b3-spanid", context.span_id))
        # B3: the debug flag implies sampled, which is then not sent.
        lines.append(("x-b3-flags", "1") if context.debug else ("x-b3-sampled", flag))
    return lines


def _only(found: _Lines, name: str) -> str | None:
    """The value of a header that may come once. Twice is ambiguous, so it counts as absent (W3C section 3.2.1)."""
    lines = found.get(name)
    if lines is None or len(lines) != 1 or len(lines[0]) > _TRACEPARENT_LIMIT:
        return None
    return lines[0].strip(" \t")


def _w3c(found: _Lines) -> TraceContext | None:
    line = _only(found, "traceparent")
    state = found.get("tracestate")
    return _parent(line, state) if line else None


def _parent(line: str, state: list[str] | None = None) -> TraceContext | None:
    """line: the one of ``traceparent``. state: those of ``tracestate``."""
    if state is None and (match := _PLAIN_TRACEPARENT.match(line)) is not None:
        trace_id, span_id, flag = match.groups()
        return TraceContext(trace_id, span_id, flag in _ODD)
    match = _TRACEPARENT.match(line.strip(" \t")) if len(line) <= _TRACEPARENT_LIMIT else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Version 00 has exactly four fields; ff is forbidden; later versions may append fields.
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), _tracestate(state) if state else "")


def _tracestate(lines: Iterable[str]) -> str:
    """All lines joined, or "" if any part is malformed or too long (the W3C text lets us discard it as a whole)."""
    members: list[str] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if size > _STATE_LIMIT + 1:
            return ""
        members += [member for part in line.split(",") if (member := part.strip(" \t"))]
    if len(members) > _STATE_MEMBERS or not all(map(_STATE_MEMBER.match, members)):
        return ""
    return ",".join(members)


def _single(value: str) -> tuple[TraceContext | None, bool | None]:
    if value in ("0", "1", "d"):
        return None, value != "0"
    match = _B3_SINGLE.match(value)
    if match is None:
        return None, None
    trace_id, span_id, state = match.groups()
    # No state defers the decision to us.
    decision = None if state is None else state != "0"
    return _b3_context(trace_id, span_id, bool(decision), state in ("d", "D")), decision


def _multi(found: _Lines) -> tuple[TraceContext | None, bool | None]:
    trace_id, span_id = _only(found, "x-b3-traceid"), _only(found, "x-b3-spanid")
    sampled, debug = _only(found, "x-b3-sampled"), _only(found, "x-b3-flags") == "1"
    decision = True if debug or sampled in ("1", "true") else False if sampled in ("0", "false") else None
    if trace_id and span_id and _HEX_64_OR_128.match(trace_id) and _HEX_64.match(span_id):
        return _b3_context(trace_id, span_id, bool(decision), debug), decision
    return None, decision


def _b3_context(trace_id: str, span_id: str, sampled: bool, debug: bool) -> TraceContext | None:
    trace_id, span_id = trace_id.lower().zfill(32), span_id.lower()
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, sampled, debug=debug)

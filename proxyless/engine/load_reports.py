"""Reading what a server says of its load (ORCA, gRFC A51) from the lines of its answer. A peer's bytes: nothing raises.

The formats are Envoy's (orca_parser.cc): a header that says its own, and one for the protobuf message, which gRPC sends
as well. The message is read here rather than by protobuf's classes: it is eight fields, of numbers and of numbers by
name.
"""

import base64
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxyless.model.load_report import BINARY, HEADER, MAPS, NUMBERS, LoadReport

# Characters of a report, and metrics in one of its maps; a larger one is nobody's load.
_LONGEST = 16 * 1024
_MOST = 256
_FIELDS = {
    1: "cpu_utilization", 2: "mem_utilization", 4: "request_cost", 5: "utilization", 6: "rps_fractional", 7: "eps",
    8: "named_metrics", 9: "application_utilization",
}  # fmt: skip
# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DOUBLE = struct.Struct("<d")


def read(headers: Iterable[tuple[str, str]]) -> LoadReport | None:
    """headers: with lower case names. None without a report, and for what is none."""
    for name, value in headers:
        if name in (BINARY, HEADER) and len(value) <= _LONGEST:
            try:
                return _report(_message(value) if name == BINARY else _said(value))
            except (ValueError, RecursionError):  # of json and base64 as well
                return None
    return None


def _said(value: str) -> Mapping[str, Any]:
    kind, _, rest = value.strip().partition(" ")
    match kind:
        case "JSON":
            found = json.loads(rest)
            if not isinstance(found, dict):
                raise ValueError("not an object")
            # protobuf's JSON has names in either spelling.
            return {_snake(name): value for name, value in found.items()}
        case "BIN":
            return _message(rest)
        case "TEXT":
            return _text(rest)
    raise ValueError("no format")


def _snake(name: str) -> str:
    if name.islower():
        return name
    return "".join(f"_{letter.lower()}" if "A" <= letter <= "Z" else letter for letter in name)


def _text(text: str) -> Mapping[str, Any]:
    """``key=value`` or ``key:value``, joined by commas; ``named_metrics.NAME`` is one of a map."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        at = min((place for place in (part.find("="), part.find(":")) if place >= 0), default=-1)
        if at < 0:
            raise ValueError("no value")
        name, value = part[:at].strip(), float(part[at + 1 :])
        group, _, key = name.partition(".")
        if group in MAPS:
            found.setdefault(group, {})[key] = value
        else:
            found[name] = value
    return found


def _message(text: str) -> Mapping[str, Any]:
    """The fields of the protobuf message, which is in base64."""
    # Several values of one name are joined by a comma (gRPC over HTTP/2): the first counts.
    raw = text.split(",", 1)[0].strip().rstrip("=")
    data = base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
    found: dict[str, Any] = {}
    for number, value in _fields(data):
        name = _FIELDS.get(number, "")
        if name in MAPS:
            if isinstance(value, bytes):
                entry = dict(_fields(value))
                key = entry.get(1, b"")
                if isinstance(key, bytes):
                    found.setdefault(name, {})[key.decode()] = entry.get(2, 0.0)
        elif name:
            found[name] = value
    return found


def _fields(data: bytes) -> Iterator[tuple[int, float | bytes]]:
    """Doubles and bytes of a message; other types are passed over."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _FIXED32:
            at += 4
        elif kind == _FIXED64:
            if at + 8 > end:
                raise ValueError("cut short")
            yield number, _DOUBLE.unpack_from(data, at)[0]
            at += 8
        elif kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("cut short")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError("not a message")
    if at > end:
        raise ValueError("cut short")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("cut short")


def _report(found: Mapping[str, Any]) -> LoadReport:
    """What is no number is an error; a number that is none (not finite) as well."""
    numbers = {ours: _number(found[name]) for name, ours in NUMBERS.items() if name in found}
    maps: dict[str, Mapping[str, float]] = {}
    for name in MAPS:
        if (values := found.get(name)) is not None:
            if not isinstance(values, dict) or len(values) > _MOST:
                raise ValueError("not metrics by name")
            maps[name] = {key: _number(value) for key, value in values.items()}
    return LoadReport(**numbers, **maps)  # type: ignore[arg-type]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number

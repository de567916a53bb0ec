"""YAML (and JSON) text to a tree that knows the line of everything, within bounds, refusing what Kubernetes refuses.

The tree is built from parser events rather than by PyYAML's composer: a hostile file can then neither nest nor alias
its way out of its bounds, duplicate keys are seen, and scalars resolve as in kubectl (``12:30`` and dates are texts).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import yaml

from proxyless.control_plane.resources.paths import child

MAX_TEXT = 16 * 1024 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 64
MAX_DOCUMENTS = 50_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_DOCUMENT_START = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
# A line that is neither blank, nor a comment, nor a directive.
_CONTENT = re.compile(r"^(?![ \t]*(?:#|$)|%)", re.MULTILINE)
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
_FALSE = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}


class TreeError(Exception):
    """The text cannot be read. ``line`` is 1-based within the whole text."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


Value: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Node:
    """size: how many nodes it has when every alias in it is written out. block: a ``|`` or ``>`` scalar."""

    value: Value
    line: int
    size: int = 1
    block: bool = False

    def data(self) -> Any:
        """Plain Python data."""
        match self.value:
            case dict():
                return {key: node.data() for key, node in self.value.items()}
            case list():
                return [node.data() for node in self.value]
            case _:
                return self.value

    def get(self, key: str) -> "Node | None":
        return self.value.get(key) if isinstance(self.value, dict) else None

    def lines(self, path: str = "") -> Iterator[tuple[str, int]]:
        """Every path below this node with its line."""
        if path:
            yield path, self.line
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                yield from node.lines(child(path, key))
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                yield from node.lines(child(path, index))


def from_data(data: Any, line: int = 0) -> Node:
    """Plain JSON data as a tree that is all on one line; raises TreeError beyond the bounds."""
    budget = [MAX_NODES]

    def build(value: Any, depth: int) -> Node:
        budget[0] -= 1
        if budget[0] < 0 or depth > MAX_DEPTH:
            raise TreeError(f"more than {MAX_NODES} values or nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(value, Mapping):
            return Node({str(key): build(item, depth + 1) for key, item in value.items()}, line)
        if isinstance(value, list | tuple):
            return Node([build(item, depth + 1) for item in value], line)
        return Node(value if isinstance(value, bool | int | float | str) else None, line)

    return build(data, 0)


def split(text: str) -> list[tuple[str, int]]:
    """The documents of a stream as (text, number of lines before it): a fault in one leaves the others alone."""
    starts = [match.start() for match in _DOCUMENT_START.finditer(text)]
    # The first marker ends the stream's directives and comments, not a document.
    if starts and not _CONTENT.search(text, 0, starts[0]):
        del starts[0]
    bounds = [0, *[start for start in starts if start], len(text)]
    parts: list[tuple[str, int]] = []
    line = 0
    for begin, end in pairwise(bounds):
        part = text[begin:end]
        parts.append((part, line))
        line += part.count("\n")
    return parts


def read(text: str, first_line: int = 0) -> list[Node]:
    """The documents in one part of a stream (more than one only with ``...``); raises TreeError and nothing else."""
    loader = None
    try:
        text.encode()
        loader = _Loader(text)
        return list(_Builder(loader, first_line).documents())
    except UnicodeEncodeError:
        raise TreeError("not valid Unicode text; save the file as UTF-8", first_line + 1) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line + (mark.line if mark else 0) + 1
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if mark and any(re.match(r" *\t", one) for one in text.split("\n")[mark.line : mark.line + 1]):
            message += "; indent with spaces, not with tabs"
        raise TreeError(f"not valid YAML: {message}", line) from None
    except yaml.YAMLError as error:
        message = str(error).splitlines()[0] if str(error) else "unreadable"
        raise TreeError(f"not valid YAML: {message}", first_line + 1) from None
    except RecursionError:
        raise TreeError(f"nested deeper than {MAX_DEPTH} levels", first_line + 1) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Turns the events of one stream into nodes."""

    def __init__(self, loader: Any, first_line: int) -> None:
        self._loader = loader
        self._first_line = first_line
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def documents(self) -> Iterator[Node]:
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                self._nodes = 0
                yield self._node(self._next(), 0)

    def _next(self) -> Any:
        return self._loader.get_event()

    def _line(self, event: Any) -> int:
        return self._first_line + int(event.start_mark.line) + 1

    def _count(self, line: int, nodes: int = 1) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise TreeError(f"more than {MAX_NODES} values in one document; split it (aliases count written out)", line)

    def _node(self, event: Any, depth: int) -> Node:
        line = self._line(event)
        if depth > MAX_DEPTH:
            raise TreeError(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.AliasEvent):
            target = self._anchors.get(event.anchor or "")
            if target is None:
                raise TreeError(f"alias *{event.anchor} is used before (or inside) what it names", line)
            self._count(line, target.size)
            return target
        self._count(line)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event, line), line, block=event.style in ("|", ">"))
        elif isinstance(event, yaml.SequenceStartEvent):
            _only_tag(event.tag, "seq", line)
            node = self._sequence(line, depth)
        else:
            _only_tag(event.tag, "map", line)
            node = self._mapping(line, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(items, line, 1 + sum(item.size for item in items))

    def _mapping(self, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key_line = self._line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise TreeError("a key must be a plain text", key_line)
            key = event.value
            value = self._node(self._next(), depth + 1)
            if key == "<<" and not event.style:
                self._merge(merged, value, key_line)
            elif key in entries:
                raise TreeError(f'key "{key}" appears twice in the same mapping; remove one', key_line)
            else:
                # A field is where its key is, not where its value begins.
                entries[key] = Node(value.value, key_line, value.size, value.block)
        entries = {**{key: node for key, node in merged.items() if key not in entries}, **entries}
        return Node(entries, line, 1 + sum(node.size for node in entries.values()))

    def _merge(self, merged: dict[str, Node], value: Node, line: int) -> None:
        for source in value.value if isinstance(value.value, list) else [value]:
            if not isinstance(source.value, dict):
                raise TreeError("<< merges mappings only", line)
            for key, node in source.value.items():
                merged.setdefault(key, node)


def _only_tag(tag: str | None, name: str, line: int) -> None:
    if tag not in (None, "!", _TAG + name):
        raise TreeError(f"tag {tag} is not supported; remove it", line)


def _scalar(event: Any, line: int) -> str | int | float | bool | None:
    text: str = event.value
    tag = event.tag
    if tag in (None, "!") or event.implicit[0]:
        # The C parser gives a plain scalar the style "", the Python one None.
        if event.style or tag == "!":
            return text
        return _plain(text, line)
    if tag == _TAG + "str":
        return text
    if tag in {_TAG + name for name in ("int", "float", "bool", "null")}:
        return _plain(text, line)
    raise TreeError(f"tag {tag} is not supported; remove it", line)


def _plain(text: str, line: int) -> str | int | float | bool | None:
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.match(text):
        return _integer(text, line)
    if _FLOAT.match(text):
        return float(text)
    if text.lower() in _SPECIAL:
        return float(_SPECIAL[text.lower()])
    return text


def _integer(text: str, line: int) -> int:
    if len(text) > 80:
        raise TreeError("an integer of more than 80 digits", line)
    digits = text.replace("_", "")
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    # YAML 1.1, and so kubectl, reads a leading 0 as octal.
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)

"""Collects problems of one resource, and the checks that several kinds share."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxyless.control_plane.resources.base import Percent, StringMatch
from proxyless.control_plane.resources.names import is_dns_label
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.problem import MAX_MESSAGE, Level, Problem
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.resources.validation.header_format import format_fault

SCHEMA = "SchemaValidationError"

# Istio's and Envoy's limits: a longer expression may compile to a program that a proxy refuses.
MAX_REGEX = 1024
SHORTEST_DURATION = 0.001

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_LABEL_NAME = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")


class Checks:
    """``error`` and ``warning`` take the path of the field that is at fault and a sentence with the remedy."""

    def __init__(self, resource: Resource[Any]) -> None:
        self.resource = resource
        self.problems: list[Problem] = []

    def error(self, path: str, message: str, code: str = SCHEMA) -> None:
        self._add(code, Level.ERROR, path, message)

    def warning(self, path: str, message: str, code: str = SCHEMA) -> None:
        self._add(code, Level.WARNING, path, message)

    def _add(self, code: str, level: Level, path: str, message: str) -> None:
        source = self.resource.source
        text = f"{path}: {message}"[:MAX_MESSAGE]
        self.problems.append(
            Problem(code, level, text, *self.resource.key, file=source.file, line=source.line_of(path), field=path)
        )

    def duration(self, path: str, seconds: float | None, *, zero: bool = False) -> None:
        """At least a millisecond; 0 too, if it means "none" here."""
        if seconds is not None and seconds < SHORTEST_DURATION and not (zero and seconds == 0):
            self.error(path, "must be at least 1ms")

    def percentage(self, path: str, percentage: Percent | None) -> None:
        if percentage is not None and not 0 <= percentage.value <= 100:
            self.error(child(path, "value"), f"{percentage.value:g} is not a percentage from 0 to 100")

    def not_negative(self, path: str, number: int) -> None:
        if number < 0:
            self.error(path, "must not be negative")

    def status(self, path: str, status: int) -> None:
        if not 200 <= status <= 599:
            self.error(path, f"HTTP status {status} is not in the range 200 to 599")

    def regex(self, path: str, source: str) -> None:
        if not source:
            self.error(path, "a regex must not be empty")
        elif len(source) > MAX_REGEX:
            self.error(path, f"a regex may have at most {MAX_REGEX} characters")
        elif reason := regex_fault(source):
            self.error(path, f"{reason}; regexes are RE2's (https://github.com/google/re2/wiki/Syntax)")

    def string_match(self, path: str, match: StringMatch | None, *, presence: bool = False) -> None:
        """presence: here an empty match means "is present"."""
        if match is None:
            return
        if match.regex is not None:
            self.regex(child(path, "regex"), match.regex)
        elif match.prefix == "":
            self.error(child(path, "prefix"), "a prefix must not be empty; leave the match out to match everything")
        elif match.is_presence and not presence:
            self.error(path, "one of exact, prefix, regex is required")

    def header_name(self, path: str, name: str) -> None:
        if not _HEADER_NAME.match(name.removeprefix(":")):
            self.error(path, f"{name!r} is not an HTTP header name")

    def header_value(self, path: str, value: str) -> None:
        if not _HEADER_VALUE.match(value):
            self.error(path, "a header value must not contain line breaks or control characters")
        elif reason := format_fault(value):
            self.error(path, reason)

    def labels(self, path: str, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            prefix, slash, name = key.rpartition("/")
            if not _LABEL_NAME.match(name) or (slash and not prefix):
                self.error(child(path, key), "is not a valid label key")
            if value and not _LABEL_NAME.match(value):
                self.error(child(path, key), f"{value!r} is not a valid label value")

    def export_to(self, path: str, namespaces: Sequence[str]) -> None:
        for index, namespace in enumerate(namespaces):
            if namespace not in (".", "*") and not (namespace == "~" or is_dns_label(namespace)):
                self.error(child(path, index), f'{namespace!r} is not a namespace; use a name, "." or "*"')
        if len(set(namespaces)) != len(namespaces):
            self.error(path, "lists a namespace twice")
        if len(namespaces) > 1 and ("*" in namespaces or "~" in namespaces):
            self.error(path, 'with "*" or "~" no other namespace may be listed')


# What clients of ours accept; a program that is larger would be refused by each of them.
_MAX_REGEX_MEMORY = 1 << 20


def regex_fault(source: str) -> str:
    """Why RE2 refuses an expression; empty if it does not."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_REGEX_MEMORY
    try:
        re2.compile(source, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "invalid"
        return f"not a valid regex: {reason.decode(errors='replace') if isinstance(reason, bytes) else reason}"
    return ""


def substitution_fault(source: str, rewrite: str) -> str:
    """Why RE2 refuses a replacement for what a valid ``source`` matches; empty if it does not."""
    import re2

    groups = int(re2.compile(source).groups)
    for found in re.finditer(r"\\(.?)", rewrite, re.DOTALL):
        if found[1] == "\\":
            continue
        if not (found[1].isascii() and found[1].isdigit()):
            return "a backslash must come before a group's number or another backslash"
        if int(found[1]) > groups:
            return f"names group {found[1]}, but match has {groups}"
    return ""


def is_set(message: Any) -> bool:
    """Does a message set any field?"""
    return bool(message.model_fields_set)

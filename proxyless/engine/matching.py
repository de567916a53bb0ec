"""Evaluates matchers against a request, as Envoy's router and its header, query and path matchers do.

One function a matcher; ``route_matches`` is what a call uses, ``explain`` asks the same functions for the reason.
"""

import re
from collections.abc import Iterable, Mapping

from proxyless.engine.request import Request
from proxyless.model.domains import ascii_lower
from proxyless.model.matching import (
    HeaderMatcher,
    IntRange,
    PathKind,
    PathMatcher,
    QueryMatcher,
    RouteMatch,
    StringKind,
    StringMatcher,
)

# absl::SimpleAtoi<int64>: what int() takes beyond this (underscores, other scripts' digits) must not match.
_INT = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]{1,19}[ \t\n\v\f\r]*\Z")
_INT64 = range(-(2**63), 2**63)


# Looking a member up in an enum's class costs Python 3.11 more than comparing with it.
_STRING_EXACT, _STRING_PREFIX, _STRING_SUFFIX = StringKind.EXACT, StringKind.PREFIX, StringKind.SUFFIX
_STRING_CONTAINS, _STRING_REGEX, _STRING_NEVER = StringKind.CONTAINS, StringKind.REGEX, StringKind.NEVER
_PATH_EXACT, _PATH_PREFIX = PathKind.EXACT, PathKind.PREFIX
_PATH_SEPARATED_PREFIX, _PATH_REGEX = PathKind.SEPARATED_PREFIX, PathKind.REGEX


class Subject:
    """A request with the parts that several matchers need, taken apart once."""

    __slots__ = ("_query", "path", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.path = request.path_only
        self._query: Mapping[str, str] | None = None

    @property
    def query(self) -> Mapping[str, str]:
        if self._query is None:
            self._query = parse_query(self.request.path)
        return self._query


def parse_query(path: str) -> dict[str, str]:
    """Query parameters as Envoy's router sees them: not percent-decoded, the first of equal names wins, no ``=`` is
    empty.
    """
    query = path.partition("?")[2].partition("#")[0]
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        parameters.setdefault(name, value)
    return parameters


def string_matches(matcher: StringMatcher, text: str) -> bool:
    """Envoy's StringMatcher. ``ignore_case`` is for ASCII letters and not for regexes."""
    kind = matcher.kind
    if kind is _STRING_REGEX:
        return matcher.regex is not None and bool(matcher.regex.fullmatch(text))
    value = matcher.value
    if matcher.ignore_case:
        text, value = ascii_lower(text), ascii_lower(value)
    if kind is _STRING_EXACT:
        return text == value
    if kind is _STRING_PREFIX:
        return text.startswith(value)
    if kind is _STRING_SUFFIX:
        return text.endswith(value)
    if kind is _STRING_CONTAINS:
        return value in text
    return False


def header_matches(matcher: HeaderMatcher, request: Request) -> bool:
    """Envoy's HeaderMatcher: some line of the header must match, inverted none may; absent ones: see ``HeaderMatcher``.

    Envoy before 1.39 joined the lines with a comma, and gRPC still does (gRFC A28); Envoy 1.40 was asked. An unknown
    value matcher (``NEVER``) does not match even inverted: ignoring it must not widen a route.
    """
    wanted = matcher.value
    if isinstance(wanted, StringMatcher) and wanted.kind is _STRING_NEVER:
        return False
    lines = _lines(matcher.name, request)
    if not lines:
        if not matcher.missing_as_empty:
            return wanted is None and matcher.invert
        lines = [""]
    if wanted is None:
        return not matcher.invert
    if isinstance(wanted, IntRange):
        return any(_in_range(wanted, text) for text in lines) is not matcher.invert
    return any(string_matches(wanted, text) for text in lines) is not matcher.invert


def headers_match(matchers: Iterable[HeaderMatcher], request: Request) -> bool:
    for matcher in matchers:  # noqa: SIM110  a generator costs more than what it runs over
        if not header_matches(matcher, request):
            return False
    return True


def query_matches(matcher: QueryMatcher, parameters: Mapping[str, str]) -> bool:
    """Envoy's QueryParameterMatcher on the parameters of ``parse_query``."""
    text = parameters.get(matcher.name)
    if text is None:
        return False
    return matcher.value is None or string_matches(matcher.value, text)


def path_matches(matcher: PathMatcher, path: str) -> bool:
    """Envoy's path specifiers; ``path`` is without query and fragment."""
    kind, value = matcher.kind, matcher.value
    if kind is _PATH_REGEX:
        return matcher.regex is not None and bool(matcher.regex.fullmatch(path))
    if not matcher.case_sensitive:
        path, value = ascii_lower(path), ascii_lower(value)
    if kind is _PATH_PREFIX:
        return path.startswith(value)
    if kind is _PATH_EXACT:
        return path == value
    if kind is _PATH_SEPARATED_PREFIX:
        return path.startswith(value) and (len(path) == len(value) or path[len(value)] == "/")
    return False


def fraction_matches(fraction: int | None, draw: float) -> bool:
    """``draw`` is uniform in [0, 1) and the same for all routes of one request, as Envoy's per-stream random value."""
    return fraction is None or draw * 1_000_000 < fraction


def route_matches(match: RouteMatch, subject: Subject, draw: float) -> bool:
    """Whether a request meets a route. The cheap and selective part, the path, is asked first."""
    return path_matches(match.path, subject.path) and conditions_match(match, subject, draw)


def conditions_match(match: RouteMatch, subject: Subject, draw: float) -> bool:
    """All of a route's match but its path."""
    return (
        (not match.headers or headers_match(match.headers, subject.request))
        and (not match.query or all(query_matches(matcher, subject.query) for matcher in match.query))
        and (match.fraction is None or fraction_matches(match.fraction, draw))
    )


def _lines(name: str, request: Request) -> list[str]:
    if name.startswith(":") or name == "host":
        text = request.header(name)
        return [text] if text is not None else []
    return [value for key, value in request.headers if key == name]


def _in_range(wanted: IntRange, text: str) -> bool:
    if not _INT.match(text):
        return False
    number = int(text)
    return number in _INT64 and wanted.start <= number < wanted.end

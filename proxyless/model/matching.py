"""Matchers as data. ``engine.matching`` evaluates them; ``xds_client.compile`` builds them from xDS.

A matcher that we do not know becomes ``NEVER``: it never matches, so nothing is widened by being ignored.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field


class StringKind(enum.Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Regex:
    """An RE2 expression, compiled when the snapshot was built, never on a request.

    ``fullmatch`` takes the subject and says whether all of it matches (Envoy's safe_regex is a full match).
    """

    source: str
    fullmatch: Callable[[str], bool] = field(compare=False, repr=False)
    # pattern, replacement in RE2's "\\1" form, subject -> subject with every match replaced
    substitute: Callable[[str, str], str] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class StringMatcher:
    """Envoy's type.matcher.v3.StringMatcher. ``value`` is the text or the regex source."""

    kind: StringKind
    value: str = ""
    ignore_case: bool = False
    regex: Regex | None = None


NEVER = StringMatcher(StringKind.NEVER)


@dataclass(frozen=True, slots=True)
class IntRange:
    """A half-open range of int64: start <= value < end (Envoy's Int64Range)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class HeaderMatcher:
    """Envoy's route.v3.HeaderMatcher. ``name`` is lower case; ``:method``, ``:path``, ``:authority``, ``:scheme`` work.

    ``value`` None asks for presence. A header that is absent never matches a value, inverted or not, unless
    ``missing_as_empty`` (Envoy: treat_missing_header_as_empty; an inverted value match on an absent header matches
    only then, but an inverted *presence* match on an absent header does match).
    """

    name: str
    value: StringMatcher | IntRange | None = None
    invert: bool = False
    missing_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatcher:
    """Envoy's route.v3.QueryParameterMatcher. ``value`` None asks for presence."""

    name: str
    value: StringMatcher | None = None


class PathKind(enum.Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    # Matches /a and /a/b, not /ab (Envoy: path_separated_prefix).
    SEPARATED_PREFIX = "separated_prefix"
    REGEX = "regex"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class PathMatcher:
    """What the path, without its query, must look like."""

    kind: PathKind
    value: str = ""
    case_sensitive: bool = True
    regex: Regex | None = None


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All parts must match (Envoy's route.v3.RouteMatch). ``fraction`` is a share in parts per million, or None for
    all.
    """

    path: PathMatcher
    headers: tuple[HeaderMatcher, ...] = ()
    query: tuple[QueryMatcher, ...] = ()
    fraction: int | None = None

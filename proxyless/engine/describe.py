"""Matchers in words, and why a route does not match: evaluated as for a call, kept apart because no call needs it."""

from proxyless.engine.matching import Subject, header_matches, path_matches, query_matches
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


def why_not(match: RouteMatch, subject: Subject) -> str:
    """The first part of a route's match that this request does not meet, or "" when it meets all of them."""
    if not path_matches(match.path, subject.path):
        return f"path {subject.path} is not {path(match.path)}"
    for matcher in match.headers:
        if not header_matches(matcher, subject.request):
            found = subject.request.header(matcher.name)
            return f"header {matcher.name} is {_found(found)}, wanted {header(matcher)}"
    for parameter in match.query:
        if not query_matches(parameter, subject.query):
            return f"query {parameter.name} is {_found(subject.query.get(parameter.name))}, wanted {query(parameter)}"
    return ""


def string(matcher: StringMatcher) -> str:
    if matcher.kind is StringKind.NEVER:
        return "nothing (an unknown matcher)"
    case = " (any case)" if matcher.ignore_case else ""
    return f"{matcher.kind.value} {_quoted(matcher.value)}{case}"


def header(matcher: HeaderMatcher) -> str:
    wanted = matcher.value
    if wanted is None:
        return "absent" if matcher.invert else "present"
    text = f"from {wanted.start} to below {wanted.end}" if isinstance(wanted, IntRange) else string(wanted)
    return f"not {text}" if matcher.invert else text


def query(matcher: QueryMatcher) -> str:
    return "present" if matcher.value is None else string(matcher.value)


def path(matcher: PathMatcher) -> str:
    case = "" if matcher.case_sensitive else " (any case)"
    match matcher.kind:
        case PathKind.NEVER:
            return "matchable (its matcher is unknown)"
        case PathKind.SEPARATED_PREFIX:
            return f"{matcher.value} or below it{case}"
        case PathKind.PREFIX:
            return f"prefix {matcher.value}{case}"
        case PathKind.EXACT:
            return f"exact {matcher.value}{case}"
        case PathKind.REGEX:
            return f"regex {matcher.value}"


def matcher(match: RouteMatch) -> str:
    """A whole route match on one line."""
    parts = [f"path {path(match.path)}"]
    parts += [f"header {one.name} {header(one)}" for one in match.headers]
    parts += [f"query {one.name} {query(one)}" for one in match.query]
    if match.fraction is not None:
        parts.append(f"{match.fraction / 10_000:g}% of requests")
    return ", ".join(parts)


def _found(text: str | None) -> str:
    return "absent" if text is None else _quoted(text)


def _quoted(text: str) -> str:
    return f'"{text[:120]}"'

"""Matchers: type.matcher.v3 and those of config.route.v3. One that we do not know becomes NEVER, inverted or not."""

from typing import Any

import re2

from proxyless.model.matching import (
    NEVER,
    HeaderMatcher,
    IntRange,
    PathKind,
    PathMatcher,
    QueryMatcher,
    Regex,
    RouteMatch,
    StringKind,
    StringMatcher,
)
from proxyless.xds_client.compile.decode import FieldError, has_unknown, parts_per_million

# What a control plane may make us compile: RE2 is linear in its input, this bounds the program (a 1 KiB pattern fits
# easily).
MAX_REGEX = 4096
_MAX_REGEX_MEMORY = 1 << 20

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = _MAX_REGEX_MEMORY

_NEVER_PATH = PathMatcher(PathKind.NEVER)
_GRPC_CONTENT = r"application/grpc([+;].*)?"


def regex(source: str, what: str) -> Regex:
    """An RE2 expression; Envoy and gRPC refuse a resource with one that does not compile, and so do we."""
    if len(source) > MAX_REGEX:
        raise FieldError(f"{what} is a regex of {len(source)} characters, at most {MAX_REGEX} are accepted")
    try:
        # Bytes in and out: re2 spares the translation between offsets in UTF-8 and in the str.
        compiled = re2.compile(source.encode("utf-8", "surrogatepass"), _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise FieldError(f"{what} is not a valid RE2 expression: {reason}") from error

    def fullmatch(subject: str) -> bool:
        return compiled.fullmatch(subject.encode("utf-8", "surrogateescape")) is not None

    def substitute(replacement: str, subject: str) -> str:
        pieces = _rewrite(replacement)
        data = subject.encode("utf-8", "surrogateescape")

        def expand(match: Any) -> bytes:
            return b"".join(
                piece if isinstance(piece, bytes) else (match.group(piece) or b"" if piece <= compiled.groups else b"")
                for piece in pieces
            )

        result: bytes = compiled.sub(expand, data)
        return result.decode("utf-8", "surrogateescape")

    return Regex(source, fullmatch, substitute)


def _rewrite(replacement: str) -> list[bytes | int]:
    r"""RE2's rewrite syntax: ``\0`` to ``\9`` are groups, ``\\`` is a backslash."""
    pieces: list[bytes | int] = []
    rest = replacement
    while rest:
        before, slash, rest = rest.partition("\\")
        pieces.append(before.encode("utf-8", "surrogateescape"))
        if slash:
            if rest[:1] == "\\":
                pieces.append(b"\\")
            elif rest[:1] in tuple("0123456789"):
                pieces.append(int(rest[0]))
            else:
                raise FieldError(
                    f"substitution {replacement!r} has a backslash that RE2 does not know (only \\0 to \\9 and \\\\)"
                )
            rest = rest[1:]
    return pieces


def substitution(text: str, pattern: Regex, what: str) -> str:
    """Check a substitution once, when the resource is compiled, as RE2::CheckRewriteString does."""
    try:
        groups = [piece for piece in _rewrite(text) if isinstance(piece, int)]
    except FieldError as error:
        raise FieldError(f"{what}: {error}") from error
    available = int(re2.compile(pattern.source.encode("utf-8", "surrogatepass"), _OPTIONS).groups)
    if any(group > available for group in groups):
        raise FieldError(f"{what} names group {max(groups)}, the pattern has {available}")
    return text


def string(matcher: Any, what: str) -> StringMatcher:
    """A type.matcher.v3.StringMatcher."""
    if has_unknown(matcher):
        return NEVER
    ignore_case = bool(matcher.ignore_case)
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return StringMatcher(StringKind.EXACT, matcher.exact, ignore_case)
        case "prefix" if matcher.prefix:
            return StringMatcher(StringKind.PREFIX, matcher.prefix, ignore_case)
        case "suffix" if matcher.suffix:
            return StringMatcher(StringKind.SUFFIX, matcher.suffix, ignore_case)
        case "contains" if matcher.contains:
            return StringMatcher(StringKind.CONTAINS, matcher.contains, ignore_case)
        case "safe_regex":
            source = matcher.safe_regex.regex
            # Envoy: ignore_case has no effect on safe_regex.
            return StringMatcher(StringKind.REGEX, source, False, regex(source, what))
        case "prefix" | "suffix" | "contains" as kind:
            raise FieldError(f"{what} has an empty {kind}: it would match everything")
        case _:
            return NEVER


def header(matcher: Any, what: str) -> HeaderMatcher:
    """A config.route.v3.HeaderMatcher, with the deprecated forms that Envoy still takes."""
    if not matcher.name:
        raise FieldError(f"{what} has no header name")
    name = matcher.name.lower()
    value: StringMatcher | IntRange | None
    invert = bool(matcher.invert_match)
    match matcher.WhichOneof("header_match_specifier"):
        case None:
            value = NEVER if has_unknown(matcher) else None
        case "present_match":
            value, invert = None, invert != (not matcher.present_match)
        case "range_match":
            value = IntRange(matcher.range_match.start, matcher.range_match.end)
        case "string_match":
            value = string(matcher.string_match, f"{what} ({name})")
        case "safe_regex_match":
            source = matcher.safe_regex_match.regex
            value = StringMatcher(StringKind.REGEX, source, False, regex(source, f"{what} ({name})"))
        case "exact_match" | "prefix_match" | "suffix_match" | "contains_match" as kind:
            text = getattr(matcher, kind)
            if not text and kind != "exact_match":
                raise FieldError(f"{what} ({name}) has an empty {kind}: it would match everything")
            value = StringMatcher(StringKind(kind.removesuffix("_match")), text)
        case _:
            value = NEVER
    if has_unknown(matcher):
        value = NEVER
    if value == NEVER:
        return never_header(name)
    return HeaderMatcher(name, value, invert, bool(matcher.treat_missing_header_as_empty))


def never_header(name: str) -> HeaderMatcher:
    """Not inverted whatever the rule said: an unknown matcher that is inverted must not match everything."""
    return HeaderMatcher(name, NEVER)


def headers(matchers: Any, what: str) -> tuple[HeaderMatcher, ...]:
    return tuple(header(matcher, f"{what}[{index}]") for index, matcher in enumerate(matchers))


def _query(matcher: Any, what: str) -> QueryMatcher:
    if not matcher.name:
        raise FieldError(f"{what} has no parameter name")
    if has_unknown(matcher):
        return QueryMatcher(matcher.name, NEVER)
    match matcher.WhichOneof("query_parameter_match_specifier"):
        case "string_match":
            return QueryMatcher(matcher.name, string(matcher.string_match, f"{what} ({matcher.name})"))
        case "present_match":
            # Envoy: present_match false asks for nothing else than presence true does not; absence cannot be asked for.
            return QueryMatcher(matcher.name, None if matcher.present_match else NEVER)
        case _:
            return QueryMatcher(matcher.name)


def _path(match: Any, what: str) -> PathMatcher:
    sensitive = match.case_sensitive.value if match.HasField("case_sensitive") else True
    kind = match.WhichOneof("path_specifier")
    if kind in ("prefix", "path") and not getattr(match, kind).startswith("/") and getattr(match, kind):
        # It can never match a path (all start with "/"), as in Envoy; "*" for OPTIONS is a whole path.
        return PathMatcher(PathKind.PREFIX if kind == "prefix" else PathKind.EXACT, getattr(match, kind), sensitive)
    match kind:
        case "prefix":
            return PathMatcher(PathKind.PREFIX, match.prefix, sensitive)
        case "path":
            return PathMatcher(PathKind.EXACT, match.path, sensitive)
        case "path_separated_prefix":
            value = match.path_separated_prefix
            if not value.startswith("/") or value.endswith("/") or "?" in value or "#" in value:
                raise FieldError(f"{what}.path_separated_prefix {value!r} must start with '/' and not end with it")
            return PathMatcher(PathKind.SEPARATED_PREFIX, value, sensitive)
        case "safe_regex":
            source = match.safe_regex.regex
            return PathMatcher(PathKind.REGEX, source, True, regex(source, f"{what}.safe_regex"))
        case _:
            return _NEVER_PATH


def route(match: Any, what: str) -> tuple[RouteMatch, list[str]]:
    """A config.route.v3.RouteMatch, and what makes it match nothing, if anything does."""
    path = _path(match, what)
    unknown = []
    if path.kind is PathKind.NEVER:
        unknown.append(f"{what}: path matcher {match.WhichOneof('path_specifier') or '(unknown)'}")
    if has_unknown(match):
        unknown.append(f"{what}: a field of a newer API")
    unknown += [f"{what}.{field}" for field in ("tls_context",) if match.HasField(field)]
    unknown += [f"{what}.{field}" for field in ("dynamic_metadata", "filter_state") if getattr(match, field)]
    matchers = list(headers(match.headers, f"{what}.headers"))
    query = tuple(_query(one, f"{what}.query_parameters[{i}]") for i, one in enumerate(match.query_parameters))
    unknown += [f"{what}.headers: matcher of {one.name}" for one in matchers if one.value == NEVER]
    unknown += [f"{what}.query_parameters: matcher of {one.name}" for one in query if one.value == NEVER]
    if match.HasField("grpc"):
        content = StringMatcher(StringKind.REGEX, _GRPC_CONTENT, False, regex(_GRPC_CONTENT, what))
        matchers.append(HeaderMatcher("content-type", content))
    fraction = parts_per_million(match.runtime_fraction.default_value) if match.HasField("runtime_fraction") else None
    never = [f"{reason} is not supported: the route matches nothing" for reason in unknown]
    return RouteMatch(_NEVER_PATH if never else path, tuple(matchers), query, fraction), never

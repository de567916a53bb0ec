import pytest
from engine_world import regex, request

from proxyless.engine.matching import (
    Subject,
    fraction_matches,
    header_matches,
    parse_query,
    path_matches,
    query_matches,
    route_matches,
    string_matches,
)
from proxyless.model.matching import (
    NEVER,
    HeaderMatcher,
    IntRange,
    PathKind,
    PathMatcher,
    QueryMatcher,
    RouteMatch,
    StringKind,
    StringMatcher,
)

EXACT = StringMatcher(StringKind.EXACT, "a,b")
DOT_STAR = StringMatcher(StringKind.REGEX, ".*", regex=regex(".*"))


@pytest.mark.parametrize(
    ("matcher", "yes", "no"),
    [
        (StringMatcher(StringKind.EXACT, "ab"), ["ab"], ["abc", "Ab", ""]),
        (StringMatcher(StringKind.EXACT, ""), [""], ["a"]),
        (StringMatcher(StringKind.PREFIX, "ab"), ["ab", "abc"], ["cab", "AB"]),
        (StringMatcher(StringKind.SUFFIX, "ab"), ["ab", "cab"], ["abc"]),
        (StringMatcher(StringKind.CONTAINS, "ab"), ["ab", "cabc"], ["a b"]),
        (StringMatcher(StringKind.EXACT, "Ab", ignore_case=True), ["aB", "AB"], ["a"]),
        (StringMatcher(StringKind.PREFIX, "K", ignore_case=True), ["ka", "KA"], ["\N{KELVIN SIGN}a"]),
        (StringMatcher(StringKind.SUFFIX, "B", ignore_case=True), ["ab"], ["ba"]),
        (StringMatcher(StringKind.CONTAINS, "B", ignore_case=True), ["abc"], ["ac"]),
        # A regex matches the whole text, and ignore_case is not for regexes.
        (StringMatcher(StringKind.REGEX, "a+", regex=regex("a+")), ["a", "aa"], ["ab", "ba", ""]),
        (StringMatcher(StringKind.REGEX, "a", ignore_case=True, regex=regex("a")), ["a"], ["A"]),
        # One that could not be compiled never matches.
        (StringMatcher(StringKind.REGEX, "("), [], ["(", ""]),
        (NEVER, [], ["", "anything"]),
    ],
)
def test_string(matcher: StringMatcher, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes + no if string_matches(matcher, text)] == yes


HEADERS = [
    ("x-two", "a"),
    ("x-two", "b"),
    ("x-joined", "a,b"),
    ("x-empty", ""),
    ("x-number", "42"),
    ("x-number-list", "1"),
    ("x-number-list", "2"),
]


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        # Any line, not only the first, and not the lines joined.
        (HeaderMatcher("x-two", StringMatcher(StringKind.EXACT, "a")), True),
        (HeaderMatcher("x-two", StringMatcher(StringKind.EXACT, "b")), True),
        (HeaderMatcher("x-two", EXACT), False),
        (HeaderMatcher("x-joined", EXACT), True),
        # Inverted: no line.
        (HeaderMatcher("x-two", StringMatcher(StringKind.EXACT, "b"), invert=True), False),
        (HeaderMatcher("x-two", EXACT, invert=True), True),
        # Presence.
        (HeaderMatcher("x-empty"), True),
        (HeaderMatcher("x-empty", invert=True), False),
        (HeaderMatcher("x-absent"), False),
        (HeaderMatcher("x-absent", invert=True), True),
        # A value on an absent header: not even inverted, unless it counts as empty.
        (HeaderMatcher("x-absent", EXACT), False),
        (HeaderMatcher("x-absent", EXACT, invert=True), False),
        (HeaderMatcher("x-absent", EXACT, invert=True, missing_as_empty=True), True),
        (HeaderMatcher("x-absent", EXACT, missing_as_empty=True), False),
        (HeaderMatcher("x-absent", StringMatcher(StringKind.EXACT, ""), missing_as_empty=True), True),
        (HeaderMatcher("x-absent", DOT_STAR), False),
        # Unknown matchers never match, inverted or not.
        (HeaderMatcher("x-two", NEVER), False),
        (HeaderMatcher("x-two", NEVER, invert=True), False),
        (HeaderMatcher("x-absent", NEVER, invert=True, missing_as_empty=True), False),
        # Ranges are half-open and want a number.
        (HeaderMatcher("x-number", IntRange(42, 43)), True),
        (HeaderMatcher("x-number", IntRange(0, 42)), False),
        (HeaderMatcher("x-number", IntRange(0, 42), invert=True), True),
        (HeaderMatcher("x-number-list", IntRange(2, 3)), True),
        (HeaderMatcher("x-number-list", IntRange(2, 3), invert=True), False),
        (HeaderMatcher("x-two", IntRange(0, 100)), False),
        (HeaderMatcher("x-absent", IntRange(-1, 1), missing_as_empty=True), False),
        # Pseudo-headers.
        (HeaderMatcher(":method", StringMatcher(StringKind.EXACT, "PUT")), True),
        (HeaderMatcher(":path", StringMatcher(StringKind.SUFFIX, "?q=1")), True),
        (HeaderMatcher(":authority", StringMatcher(StringKind.EXACT, "books.example")), True),
        (HeaderMatcher("host", StringMatcher(StringKind.EXACT, "books.example")), True),
        (HeaderMatcher(":scheme", StringMatcher(StringKind.EXACT, "http")), True),
    ],
)
def test_header(matcher: HeaderMatcher, expected: bool) -> None:
    head = request("/p?q=1", "PUT", HEADERS, authority="books.example")
    assert header_matches(matcher, head) is expected


@pytest.mark.parametrize("text", ["4_2", "٤٢", "42.0", "0x2a", "", "99999999999999999999", " 4 2"])
def test_a_range_takes_only_what_envoy_takes_for_a_number(text: str) -> None:
    head = request(headers=[("n", text)])
    assert not header_matches(HeaderMatcher("n", IntRange(-(2**63), 2**63 - 1)), head)


@pytest.mark.parametrize("text", ["42", "+42", " 42 ", "0042"])
def test_numbers_of_a_range(text: str) -> None:
    assert header_matches(HeaderMatcher("n", IntRange(42, 43)), request(headers=[("n", text)]))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", {}),
        ("/?a=1&b=2", {"a": "1", "b": "2"}),
        ("/?a=1&a=2", {"a": "1"}),
        ("/?a", {"a": ""}),
        ("/?a=b=c", {"a": "b=c"}),
        ("/?a=%41+b", {"a": "%41+b"}),
        ("/?a=1#b=2", {"a": "1"}),
        ("/#?a=1", {"a": "1"}),
    ],
)
def test_query_is_not_decoded_and_the_first_wins(path: str, expected: dict[str, str]) -> None:
    assert {name: value for name, value in parse_query(path).items() if name} == expected


def test_query_matchers() -> None:
    parameters = parse_query("/?a=1&b")
    one = StringMatcher(StringKind.EXACT, "1")
    table = [
        (QueryMatcher("a"), True),
        (QueryMatcher("b"), True),
        (QueryMatcher("c"), False),
        (QueryMatcher("a", one), True),
        (QueryMatcher("b", one), False),
        (QueryMatcher("c", NEVER), False),
        (QueryMatcher("a", NEVER), False),
    ]
    assert [query_matches(matcher, parameters) for matcher, _ in table] == [expected for _, expected in table]


@pytest.mark.parametrize(
    ("matcher", "yes", "no"),
    [
        (PathMatcher(PathKind.EXACT, "/a"), ["/a", "/a?b=1", "/a#f"], ["/a/", "/A", "/ab"]),
        (PathMatcher(PathKind.PREFIX, "/a"), ["/a", "/ab", "/a/b", "/a?x"], ["/A", "/", "/b?/a"]),
        (PathMatcher(PathKind.SEPARATED_PREFIX, "/a"), ["/a", "/a/b", "/a/", "/a?x=1"], ["/ab", "/A"]),
        (PathMatcher(PathKind.REGEX, "/a[0-9]", regex=regex("/a[0-9]")), ["/a1", "/a1?x"], ["/a12", "/b/a1"]),
        (PathMatcher(PathKind.EXACT, "/Ab", case_sensitive=False), ["/aB"], ["/a"]),
        (PathMatcher(PathKind.PREFIX, "/Ab", case_sensitive=False), ["/aBc"], ["/a"]),
        (PathMatcher(PathKind.SEPARATED_PREFIX, "/Ab", case_sensitive=False), ["/aB/c"], ["/abc"]),
        (PathMatcher(PathKind.NEVER), [], ["/", ""]),
        (PathMatcher(PathKind.REGEX, "("), [], ["/"]),
    ],
)
def test_path(matcher: PathMatcher, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes + no if path_matches(matcher, request(path).path_only)] == yes


def test_a_route_wants_all_its_parts() -> None:
    match = RouteMatch(
        PathMatcher(PathKind.PREFIX, "/a"), (HeaderMatcher("x"),), (QueryMatcher("q"),), fraction=500_000
    )
    table = [
        ("/a?q", [("x", "1")], 0.4999, True),
        ("/a?q", [("x", "1")], 0.5, False),
        ("/a", [("x", "1")], 0.0, False),
        ("/a?q", [], 0.0, False),
        ("/b?q", [("x", "1")], 0.0, False),
    ]
    for path, headers, draw, expected in table:
        assert route_matches(match, Subject(request(path, headers=headers)), draw) is expected


def test_fractions_at_their_ends() -> None:
    assert not fraction_matches(0, 0.0)
    assert fraction_matches(1_000_000, 0.999999999)
    assert fraction_matches(None, 0.5)

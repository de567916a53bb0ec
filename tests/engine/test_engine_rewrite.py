import pytest
from engine_world import regex, request

from proxyless.engine.mutations import apply, apply_all
from proxyless.engine.rewrite import redirect_location, rewrite_path
from proxyless.model.matching import PathKind, PathMatcher
from proxyless.model.route import HeaderAction, HeaderMutations, HeaderSet, Redirect, RegexRewrite

HEADERS = [("a", "1"), ("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    ("mutations", "expected"),
    [
        (HeaderMutations(), HEADERS),
        (HeaderMutations(removes=("a", "absent")), [("b", "2")]),
        (HeaderMutations((HeaderSet("a", "4", HeaderAction.APPEND),)), [*HEADERS, ("a", "4")]),
        (HeaderMutations((HeaderSet("c", "4", HeaderAction.APPEND),)), [*HEADERS, ("c", "4")]),
        (HeaderMutations((HeaderSet("a", "4", HeaderAction.OVERWRITE),)), [("b", "2"), ("a", "4")]),
        (HeaderMutations((HeaderSet("c", "4", HeaderAction.OVERWRITE),)), [*HEADERS, ("c", "4")]),
        (HeaderMutations((HeaderSet("a", "4", HeaderAction.ADD_IF_ABSENT),)), HEADERS),
        (HeaderMutations((HeaderSet("c", "4", HeaderAction.ADD_IF_ABSENT),)), [*HEADERS, ("c", "4")]),
        (HeaderMutations((HeaderSet("a", "4", HeaderAction.OVERWRITE_IF_EXISTS),)), [("b", "2"), ("a", "4")]),
        (HeaderMutations((HeaderSet("c", "4", HeaderAction.OVERWRITE_IF_EXISTS),)), HEADERS),
        # Removals come first.
        (
            HeaderMutations((HeaderSet("a", "4", HeaderAction.ADD_IF_ABSENT),), ("a",)),
            [("b", "2"), ("a", "4")],
        ),
        # Host and pseudo-headers are no matter of mutations.
        (HeaderMutations((HeaderSet("host", "x", HeaderAction.OVERWRITE),), (":path", "host")), HEADERS),
    ],
)
def test_mutations(mutations: HeaderMutations, expected: list[tuple[str, str]]) -> None:
    original = list(HEADERS)
    assert apply(mutations, original) == expected
    assert original == HEADERS


def test_the_last_level_wins() -> None:
    levels = [
        HeaderMutations((HeaderSet("a", who, HeaderAction.OVERWRITE),)) for who in ("cluster", "route", "virtual host")
    ]
    assert apply_all(levels, []) == [("a", "virtual host")]


PREFIX, EXACT = PathMatcher(PathKind.PREFIX, "/v1/"), PathMatcher(PathKind.EXACT, "/v1/x")
SEPARATED = PathMatcher(PathKind.SEPARATED_PREFIX, "/v1")
ANYWHERE = PathMatcher(PathKind.REGEX, ".*", regex=regex(".*"))


@pytest.mark.parametrize(
    ("path", "match", "prefix", "expected"),
    [
        ("/v1/x?q=/v1/", PREFIX, "/v2/", "/v2/x?q=/v1/"),
        ("/v1/x", PREFIX, "/", "/x"),
        ("/v1/x?q", EXACT, "/y", "/y?q"),
        ("/v1", SEPARATED, "/v2", "/v2"),
        ("/v1/x", SEPARATED, "/v2", "/v2/x"),
        ("/any/x?q=1", ANYWHERE, "/y", "/y?q=1"),
        ("/V1/x", PathMatcher(PathKind.PREFIX, "/v1/", case_sensitive=False), "/w/", "/w/x"),
        ("/v1/x", PREFIX, None, "/v1/x"),
        ("/v1/x", PREFIX, "", "/v1/x"),
    ],
)
def test_prefix_rewrite(path: str, match: PathMatcher, prefix: str | None, expected: str) -> None:
    assert rewrite_path(path, match, prefix, None) == expected


@pytest.mark.parametrize(
    ("path", "source", "substitution", "expected"),
    [
        ("/a/b/c?a=/a", "/a", "/x", "/x/b/c?a=/a"),
        ("/one/two", r"/(\w+)/(\w+)", r"/\2/\1", "/two/one"),
        ("/aaa", "a", "b", "/bbb"),
        # Nothing left: the path stays, as in Envoy.
        ("/a?q", ".*", "", "/a?q"),
    ],
)
def test_regex_rewrite_works_on_the_whole_path_without_query(
    path: str, source: str, substitution: str, expected: str
) -> None:
    assert rewrite_path(path, PREFIX, None, RegexRewrite(regex(source), substitution)) == expected


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        (Redirect(), "http://books.example:8080/v1/x?q=1"),
        (Redirect(https=True), "https://books.example:8080/v1/x?q=1"),
        (Redirect(scheme="ftp", https=True), "ftp://books.example:8080/v1/x?q=1"),
        (Redirect(host="other"), "http://other/v1/x?q=1"),
        (Redirect(host="other", port=99), "http://other:99/v1/x?q=1"),
        (Redirect(port=99), "http://books.example:99/v1/x?q=1"),
        (Redirect(path="/y"), "http://books.example:8080/y?q=1"),
        (Redirect(path="y"), "http://books.example:8080/y?q=1"),
        (Redirect(path="/y?z=2"), "http://books.example:8080/y?z=2"),
        (Redirect(path="/y?z=2", strip_query=True), "http://books.example:8080/y?z=2"),
        (Redirect(path="/y", strip_query=True), "http://books.example:8080/y"),
        (Redirect(strip_query=True), "http://books.example:8080/v1/x"),
        (Redirect(prefix_rewrite="/v2/"), "http://books.example:8080/v2/x?q=1"),
        (Redirect(regex_rewrite=RegexRewrite(regex("x$"), "y")), "http://books.example:8080/v1/y?q=1"),
    ],
)
def test_redirect_location(redirect: Redirect, expected: str) -> None:
    head = request("/v1/x?q=1", authority="books.example:8080")
    assert redirect_location(head, PREFIX, redirect) == expected


@pytest.mark.parametrize(
    ("authority", "redirect", "expected"),
    [
        # The old scheme's default port goes with the old scheme.
        ("a:80", Redirect(https=True), "https://a/"),
        ("a:443", Redirect(https=True), "https://a:443/"),
        ("a:80", Redirect(), "http://a:80/"),
        ("[::1]:80", Redirect(https=True), "https://[::1]/"),
        ("[::1]", Redirect(port=8), "http://[::1]:8/"),
    ],
)
def test_port_of_a_redirect(authority: str, redirect: Redirect, expected: str) -> None:
    head = request("/", authority=authority)
    assert redirect_location(head, PathMatcher(PathKind.PREFIX, "/"), redirect) == expected

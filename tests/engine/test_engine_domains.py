import pytest

from proxyless.model.domains import domain_matches, search, split_port

HOSTS = [
    ("exact", ("reviews", "reviews:80", "www.a.com")),
    ("suffix", ("*.a.com",)),
    ("longer suffix", ("*-b.a.com",)),
    ("prefix", ("www.*",)),
    ("longer prefix", ("www.c.*",)),
    ("any", ("*",)),
]


@pytest.mark.parametrize(
    ("authority", "name", "domain"),
    [
        ("reviews", "exact", "reviews"),
        ("REVIEWS:80", "exact", "reviews:80"),
        ("www.a.com", "exact", "www.a.com"),
        ("x.a.com", "suffix", "*.a.com"),
        ("x-b.a.com", "longer suffix", "*-b.a.com"),
        # A suffix wins over a prefix, whatever their lengths.
        ("www.c.a.com", "suffix", "*.a.com"),
        ("www.b.org", "prefix", "www.*"),
        ("www.c.org", "longer prefix", "www.c.*"),
        # A wildcard stands for at least one character.
        (".a.com", "any", "*"),
        ("www.", "any", "*"),
        # The port is part of the authority.
        ("x.a.com:80", "any", "*"),
    ],
)
def test_the_most_specific_domain_wins(authority: str, name: str, domain: str) -> None:
    found = search([domains for _, domains in HOSTS], authority)
    assert found is not None
    assert (HOSTS[found[0]][0], found[1]) == (name, domain)


def test_no_domain_no_virtual_host() -> None:
    assert search([("a",), ("*.b",)], "c") is None


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        ([("reviews",)], "reviews"),
        ([("reviews",), ("reviews:80",)], "reviews:80"),
        ([("*",), ("reviews",)], "reviews"),
        # An exact name without the port wins over a wildcard that has it.
        ([("*:80",), ("reviews",)], "reviews"),
    ],
)
def test_several_spellings_of_one_authority(domains: list[tuple[str, ...]], expected: str) -> None:
    found = search(domains, "reviews:80", "reviews")
    assert found is not None
    assert found[1] == expected


def test_only_ascii_letters_have_two_cases() -> None:
    assert domain_matches("BooKs", "bOOkS")
    assert not domain_matches("books", "boo\N{KELVIN SIGN}s")


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("reviews:80", ("reviews", 80)),
        ("reviews", ("reviews", None)),
        ("[::1]:8080", ("[::1]", 8080)),
        ("[::1]", ("[::1]", None)),
        ("::1", ("::1", None)),
        ("reviews:http", ("reviews:http", None)),
        (":80", (":80", None)),
        ("reviews:", ("reviews:", None)),
    ],
)
def test_split_port(authority: str, expected: tuple[str, int | None]) -> None:
    assert split_port(authority) == expected

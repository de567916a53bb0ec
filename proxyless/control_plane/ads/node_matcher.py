"""Which clients a CSDS request asks for: ``envoy.type.matcher.v3.NodeMatcher``, as far as a node's id goes."""

from collections.abc import Callable, Iterable
from typing import Any

import re2

from proxyless.model.errors import ConfigurationError

Matches = Callable[[str], bool]


def node_matcher(matchers: Iterable[Any]) -> Matches:
    """Whether a node id is asked for by one of the matchers; without any, all are.

    Raises ConfigurationError for what cannot be matched: showing more than was asked for would be wrong.
    """
    compiled = [_one(matcher) for matcher in matchers]
    return lambda node: not compiled or any(matches(node) for matches in compiled)


def _one(matcher: Any) -> Matches:
    if matcher.node_metadatas:
        raise ConfigurationError("a node matcher matches node_id here, not node_metadatas")
    return _string(matcher.node_id) if matcher.HasField("node_id") else lambda _: True


def _string(matcher: Any) -> Matches:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        try:
            pattern = re2.compile(matcher.safe_regex.regex)
        except re2.error:
            raise ConfigurationError("the regular expression of a node matcher is not one of RE2's") from None
        return lambda node: pattern.fullmatch(node) is not None
    if kind not in ("exact", "prefix", "suffix", "contains"):
        raise ConfigurationError("a node matcher's node_id must be exact, prefix, suffix, contains or safe_regex")

    def folded(text: str) -> str:
        return text.lower() if matcher.ignore_case else text

    wanted = folded(getattr(matcher, kind))
    tests: dict[str, Matches] = {
        "exact": lambda node: folded(node) == wanted,
        "prefix": lambda node: folded(node).startswith(wanted),
        "suffix": lambda node: folded(node).endswith(wanted),
        "contains": lambda node: wanted in folded(node),
    }
    return tests[kind]

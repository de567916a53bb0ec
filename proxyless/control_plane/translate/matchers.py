"""Istio's StringMatch and percentages in Envoy's form."""

from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2

from proxyless.control_plane.resources.base import StringMatch

MILLION = percent_pb2.FractionalPercent.MILLION


def regex(source: str) -> regex_pb2.RegexMatcher:
    return regex_pb2.RegexMatcher(regex=source)


def is_presence(match: StringMatch) -> bool:
    """No condition, or the regex ``*``, which is none in RE2 and which Istio reads as presence."""
    return match.is_presence or match.regex == "*"


def string_matcher(match: StringMatch) -> string_pb2.StringMatcher:
    """Of a match that is not a presence match. Envoy refuses an empty prefix, which matches every text."""
    if match.exact is not None:
        return string_pb2.StringMatcher(exact=match.exact)
    if match.prefix:
        return string_pb2.StringMatcher(prefix=match.prefix)
    return string_pb2.StringMatcher(safe_regex=regex(".*" if match.prefix is not None else match.regex or ""))


def fraction(percent: float) -> percent_pb2.FractionalPercent:
    """0 to 100 percent in parts per million, as precise as Envoy has it."""
    return percent_pb2.FractionalPercent(numerator=round(min(max(percent, 0.0), 100.0) * 10_000), denominator=MILLION)

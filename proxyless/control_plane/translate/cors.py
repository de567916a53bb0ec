"""Istio's CorsPolicy as Envoy's CORS filter has it."""

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from proxyless.control_plane.resources.virtual_service import CorsPolicy, UnmatchedPreflights
from proxyless.control_plane.translate.matchers import fraction, string_matcher

FILTER = "envoy.filters.http.cors"


def cors_policy(asked: CorsPolicy) -> cors_pb2.CorsPolicy:
    """``allowOrigins`` counts; the deprecated ``allowOrigin`` only without it."""
    policy = cors_pb2.CorsPolicy(
        allow_methods=",".join(asked.allow_methods),
        allow_headers=",".join(asked.allow_headers),
        expose_headers=",".join(asked.expose_headers),
        max_age=str(int(asked.max_age)) if asked.max_age is not None else "",
    )
    policy.filter_enabled.default_value.CopyFrom(fraction(100.0))
    policy.forward_not_matching_preflights.CopyFrom(
        BoolValue(value=asked.unmatched_preflights is not UnmatchedPreflights.IGNORE)
    )
    if asked.allow_credentials is not None:
        policy.allow_credentials.CopyFrom(BoolValue(value=asked.allow_credentials))
    if asked.allow_origins:
        policy.allow_origin_string_match.extend(
            string_matcher(origin) for origin in asked.allow_origins if not origin.is_presence
        )
    else:
        policy.allow_origin_string_match.extend(string_pb2.StringMatcher(exact=origin) for origin in asked.allow_origin)
    return policy

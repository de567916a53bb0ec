"""Envoy's local rate limit filter: the filter's own configuration, and what a route says instead of it."""

from typing import Any

from proxyless.model.rate_limit import NO_LIMIT, RateLimit
from proxyless.xds_client.compile.decode import FieldError, parts_per_million, seconds, set_fields
from proxyless.xds_client.compile.headers import sets

# Without them more requests take from the one bucket there is, so that nobody passes whom Envoy would refuse.
_IGNORED = (
    "request_headers_to_add_when_not_enforced", "descriptors", "local_rate_limit_per_downstream_connection",
    "local_cluster_rate_limit", "enable_x_ratelimit_headers", "vh_rate_limits", "rate_limits",
    "max_dynamic_descriptors",
)  # fmt: skip
_SHORTEST = 0.05
_TOO_MANY_REQUESTS = 429


def rate_limit(message: Any, ignored: list[str], what: str, place: str) -> RateLimit:
    """An extensions.filters.http.local_ratelimit.v3.LocalRateLimit. place: what tells its bucket from others."""
    ignored += set_fields(message, _IGNORED, what)
    if not message.HasField("token_bucket"):
        return NO_LIMIT
    bucket = message.token_bucket
    tokens = bucket.tokens_per_fill.value if bucket.HasField("tokens_per_fill") else 1
    if not bucket.max_tokens or not tokens:
        raise FieldError(f"{what}.token_bucket: max_tokens and tokens_per_fill must be more than 0")
    interval = seconds(bucket.fill_interval, f"{what}.token_bucket.fill_interval")
    # Envoy refuses the same.
    if interval < _SHORTEST:
        raise FieldError(f"{what}.token_bucket.fill_interval must be at least {_SHORTEST * 1000:g} ms")
    status = int(message.status.code)
    added = sets(message.response_headers_to_add, ignored, f"{what}.response_headers_to_add")
    return RateLimit(
        place,
        message.stat_prefix,
        int(bucket.max_tokens),
        int(tokens),
        interval,
        _share(message, "filter_enabled"),
        _share(message, "filter_enforced"),
        status if status >= 400 else _TOO_MANY_REQUESTS,
        tuple((one.name, one.value) for one in added),
        bool(message.rate_limited_as_resource_exhausted),
    )


def _share(message: Any, field: str) -> int:
    """Envoy: of no request, if nothing is said."""
    return parts_per_million(getattr(message, field).default_value) if message.HasField(field) else 0

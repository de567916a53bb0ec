"""Retry policies: config.route.v3.RetryPolicy (gRFC A44 is its subset for gRPC)."""

from typing import Any

from proxyless.model.route import RetryPolicy
from proxyless.xds_client.compile.decode import FieldError, seconds, set_fields
from proxyless.xds_client.compile.matching import headers

# Envoy: RetryOn names of x-envoy-retry-on and x-envoy-retry-grpc-on; the last one is ours.
CONDITIONS = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
        "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
        "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
        "reset-idempotent",
    }
)  # fmt: skip
_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_IGNORED = ("retry_priority", "rate_limited_retry_back_off", "per_try_idle_timeout", "retry_options_predicates")
_BASE = 0.025


def retry(policy: Any, ignored: list[str], what: str) -> RetryPolicy:
    asked = {name.strip().lower() for name in policy.retry_on.split(",") if name.strip()}
    ignored += [f"{what}.retry_on: unknown condition {name!r}" for name in sorted(asked - CONDITIONS)]
    base, longest = _BASE, 10 * _BASE
    if policy.HasField("retry_back_off"):
        base = seconds(policy.retry_back_off.base_interval, f"{what}.retry_back_off.base_interval")
        if base <= 0:
            raise FieldError(f"{what}.retry_back_off.base_interval must be more than 0")
        longest = 10 * base
        if policy.retry_back_off.HasField("max_interval"):
            longest = seconds(policy.retry_back_off.max_interval, f"{what}.retry_back_off.max_interval")
            if longest < base:
                raise FieldError(f"{what}.retry_back_off.max_interval is less than base_interval")
    other_host = False
    for predicate in policy.retry_host_predicate:
        if predicate.typed_config.type_url.rpartition("/")[2] == _PREVIOUS_HOSTS or "previous_hosts" in predicate.name:
            other_host = True
        else:
            ignored.append(f"{what}.retry_host_predicate {predicate.name}")
    ignored += set_fields(policy, _IGNORED, what)
    # They narrow what is retried: acting without them would repeat requests that the rule did not mean.
    restricted = bool(policy.retriable_request_headers)
    if restricted:
        ignored.append(f"{what}.retriable_request_headers: nothing is retried")
    per_try = seconds(policy.per_try_timeout, f"{what}.per_try_timeout") if policy.HasField("per_try_timeout") else 0.0
    return RetryPolicy(
        conditions=frozenset() if restricted else frozenset(asked & CONDITIONS),
        num_retries=policy.num_retries.value if policy.HasField("num_retries") else 1,
        per_try_timeout=per_try or None,
        retriable_status_codes=frozenset(policy.retriable_status_codes),
        retriable_headers=headers(policy.retriable_headers, f"{what}.retriable_headers"),
        back_off_base=base,
        back_off_max=longest,
        retry_other_host=other_host,
        host_selection_attempts=max(1, int(policy.host_selection_retry_max_attempts)),
    )

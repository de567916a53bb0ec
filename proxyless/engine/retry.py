"""When a request is sent again, and after how long. Source: Envoy's router filter (x-envoy-retry-on) and its
RetryState.

``reset-idempotent`` is ours: the connection ended before a response, and the method may be repeated (RFC 9110 9.2.2).
"""

import random
import re

from proxyless.engine.matching import header_matches
from proxyless.engine.replies import is_grpc
from proxyless.engine.request import IDEMPOTENT, Request
from proxyless.engine.steps import Answered, Failed, FailureKind, Outcome
from proxyless.model.route import RetryPolicy

# grpc-status of a response head (a trailers-only response) and the condition that retries it.
_GRPC = {
    "1": "cancelled",
    "4": "deadline-exceeded",
    "8": "resource-exhausted",
    "13": "internal",
    "14": "unavailable",
}
GATEWAY_ERRORS = frozenset({502, 503, 504})
_PUSHBACK = re.compile(r"[0-9]{1,9}\Z")
# Envoy counts a reset as a 5xx, because it becomes one.
_ANY_RESET = ("5xx", "gateway-error", "reset")
CONDITIONS = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "reset-idempotent",
        *_GRPC.values(),
    }
)


def wants_retry(policy: RetryPolicy, request: Request, outcome: Outcome) -> str | None:
    """The condition that asks for a retry of this outcome, or None. Says nothing of counts, time or bodies."""
    if isinstance(outcome, Answered):
        return _for_answer(policy, outcome)
    return _for_failure(policy.conditions, request, outcome)


def replayable(request: Request, outcome: Outcome) -> bool:
    """Whether the request can be sent again at all: a body that was read once and cannot be read again forbids it."""
    return request.replayable or (isinstance(outcome, Failed) and not outcome.body_consumed)


def back_off(policy: RetryPolicy, retry: int, rng: random.Random) -> float:
    """Seconds before the n-th retry (from 1): uniform in [0, min(base * (2**n - 1), max)), as Envoy documents it."""
    # Bounded exponent: no number of retries may overflow a float.
    ceiling = min(policy.back_off_base * ((1 << min(retry, 64)) - 1), policy.back_off_max)
    return max(0.0, ceiling) * rng.random()


def pushback(request: Request, outcome: Outcome) -> float | None:
    """Seconds that a gRPC server asks to wait before the next attempt; below 0: there shall be none. None: it asks
    for nothing. Source: gRFC A6, "Pushback" (``grpc-retry-pushback-ms``; what is no number forbids too).
    """
    if not isinstance(outcome, Answered) or not is_grpc(request):
        return None
    for name, value in outcome.headers:
        if name == "grpc-retry-pushback-ms":
            return int(value) / 1000 if _PUSHBACK.match(value) else -1.0
    return None


def _for_answer(policy: RetryPolicy, answer: Answered) -> str | None:
    conditions, status = policy.conditions, answer.status
    grpc_status: str | None = None
    for name, value in answer.headers:
        if name == "x-envoy-ratelimited":
            return "envoy-ratelimited" if "envoy-ratelimited" in conditions else None
        if name == "grpc-status" and grpc_status is None:
            grpc_status = value
    if status >= 500:
        if "5xx" in conditions and status < 600:
            return "5xx"
        if "gateway-error" in conditions and status in GATEWAY_ERRORS:
            return "gateway-error"
    if status == 409 and "retriable-4xx" in conditions:
        return "retriable-4xx"
    if status in policy.retriable_status_codes and "retriable-status-codes" in conditions:
        return "retriable-status-codes"
    if "retriable-headers" in conditions and policy.retriable_headers:
        # The same matcher as for requests; ``:status`` is the one pseudo-header of a response.
        head = Request("", "", "", authority="-", headers=[*answer.headers, (":status", str(status))])
        if any(header_matches(matcher, head) for matcher in policy.retriable_headers):
            return "retriable-headers"
    if grpc_status is not None:
        condition = _GRPC.get(grpc_status.strip())
        return condition if condition in conditions else None
    return None


def _for_failure(conditions: frozenset[str], request: Request, failed: Failed) -> str | None:
    kind = failed.kind
    if kind is FailureKind.OVERFLOW:
        return None
    for condition in _ANY_RESET:
        if condition in conditions:
            return condition
    if not failed.request_sent and "reset-before-request" in conditions:
        return "reset-before-request"
    if kind is FailureKind.CONNECT and "connect-failure" in conditions:
        return "connect-failure"
    if kind is FailureKind.REFUSED_STREAM and "refused-stream" in conditions:
        return "refused-stream"
    if kind is FailureKind.RESET and request.method in IDEMPOTENT and "reset-idempotent" in conditions:
        return "reset-idempotent"
    return None

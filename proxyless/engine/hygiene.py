"""Headers between the application and the mesh. Source: Envoy's router filter and Istio's outbound listeners.

The application may steer its own call with Envoy's documented ``x-envoy-*`` request headers, as behind a sidecar;
none of them leaves, and neither does what only the mesh may say (a forwarded client certificate, the attempt's number).
"""

from dataclasses import replace
from typing import NamedTuple

from proxyless.engine.request import NAME_OF, Request
from proxyless.model.matching import HeaderMatcher
from proxyless.model.route import Forward, RetryPolicy

_STEERING = frozenset(
    {
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-max-retries",
        "x-envoy-retriable-header-names",
        "x-envoy-retriable-status-codes",
        "x-envoy-retry-grpc-on",
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-rq-timeout-ms",
    }
)
_NEVER_SENT = _STEERING | {
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-internal",
    "x-envoy-original-path",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
    "x-forwarded-client-cert",
}
# Envoy's limit for a header-given count is 2**64; a request must not be able to hammer a service.
_MOST_RETRIES = 100


def concerned(headers: list[tuple[str, str]]) -> bool:
    """Whether any of this file is about these headers: some steer the mesh, or must not leave."""
    return not _NEVER_SENT.isdisjoint(map(NAME_OF, headers))


def sendable(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A new list without what must not leave."""
    return [line for line in headers if line[0] not in _NEVER_SENT]


class Effort(NamedTuple):
    """How much is done for a call: seconds for the whole and for one try (None: no limit), and its retries.

    hedge: what takes longer than ``per_try`` is not ended, but gets another attempt beside it.
    """

    timeout: float | None
    per_try: float | None
    retry: RetryPolicy | None
    hedge: bool


def effort(request: Request, action: Forward, *, concerned: bool = True) -> Effort:
    """What the route says, changed by what the request says. concerned: of its headers, if that was asked already."""
    policy = action.retry
    per_try = policy.per_try_timeout if policy is not None else None
    if not concerned:
        return Effort(action.timeout, per_try, policy, action.hedge)
    return Effort(
        _steered_timeout(request, action.timeout),
        _steered_per_try(request, per_try),
        _steered_retry(request, policy),
        _steered_hedge(request, action.hedge),
    )


def _steered_timeout(request: Request, timeout: float | None) -> float | None:
    """The route's timeout unless ``x-envoy-upstream-rq-timeout-ms`` says otherwise (0: no limit)."""
    asked = _number(request.header("x-envoy-upstream-rq-timeout-ms"))
    return timeout if asked is None else (asked / 1000 or None)


def _steered_per_try(request: Request, per_try: float | None) -> float | None:
    asked = _number(request.header("x-envoy-upstream-rq-per-try-timeout-ms"))
    return per_try if asked is None else (asked / 1000 or None)


def _steered_retry(request: Request, policy: RetryPolicy | None) -> RetryPolicy | None:
    """The route's retry policy with the request's conditions, codes and header names added, and its count if it gives
    one.
    """
    conditions = _tokens(request, "x-envoy-retry-on") | _tokens(request, "x-envoy-retry-grpc-on")
    if policy is None:
        if not conditions:
            return None
        policy = RetryPolicy(frozenset())
    codes = {int(code) for code in _tokens(request, "x-envoy-retriable-status-codes") if _number(code) is not None}
    names = sorted(_tokens(request, "x-envoy-retriable-header-names"))
    most = _number(request.header("x-envoy-max-retries"))
    return replace(
        policy,
        conditions=policy.conditions | conditions,
        retriable_status_codes=policy.retriable_status_codes | codes,
        retriable_headers=policy.retriable_headers + tuple(HeaderMatcher(name) for name in names),
        num_retries=policy.num_retries if most is None else min(most, _MOST_RETRIES),
    )


def _steered_hedge(request: Request, hedge: bool) -> bool:
    asked = request.header("x-envoy-hedge-on-per-try-timeout")
    return asked == "true" if asked in ("true", "false") else hedge


def _tokens(request: Request, name: str) -> frozenset[str]:
    return frozenset(token.strip().lower() for token in (request.header(name) or "").split(",") if token.strip())


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None

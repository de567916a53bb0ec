"""Faults on purpose, and timeouts."""

from dataclasses import replace

from table_case import Case, Expected, Lacks
from table_rows import FIRST, HANG, V1, grpc_status, matching, retrying, rule
from table_rows_gateway_api import TWO, route


def faulty(fault: str, rest: str = V1) -> str:
    return rule(f"- fault: {{{fault}}}\n  {rest}")


def limited(rules: str, rate: str) -> str:
    annotations = f'metadata: {{annotations: {{proxyless.io/rate-limit: "{rate}"}}, '
    return rules.replace("metadata: {", annotations)


ALWAYS = "percentage: {value: 100}"


FAULTS = [
    Case(
        "abort",
        faulty("abort: {httpStatus: 555, percentage: {value: 100}}"),
        Expected(555, grpc="UNKNOWN", flags="FI", attempts=0, body="fault filter abort"),
    ),
    Case(
        "abort 503",
        faulty("abort: {httpStatus: 503, percentage: {value: 100}}"),
        Expected(503, grpc="UNAVAILABLE", flags="FI", attempts=0),
    ),
    Case(
        "abort is not retried",
        faulty(f"abort: {{httpStatus: 503, {ALWAYS}}}", f"retries: {{attempts: 3, retryOn: 5xx}}\n  {V1}"),
        Expected(503, grpc="UNAVAILABLE", attempts=0),
    ),
    Case(
        "abort with a grpc status",
        faulty("abort: {grpcStatus: ABORTED, percentage: {value: 100}}"),
        Expected(200, grpc="ABORTED", flags="FI", attempts=0),
        grpc=None,
    ),
    Case(
        "abort with a grpc status to grpc",
        faulty("abort: {grpcStatus: ABORTED, percentage: {value: 100}}"),
        Expected(200, grpc="ABORTED", received={"grpc-status": "10", "content-type": "application/grpc"}, attempts=0),
        method="POST",
        headers=(("content-type", "application/grpc"),),
        grpc=Lacks.HTTP,
    ),
    Case("abort 0 percent", faulty("abort: {httpStatus: 555, percentage: {value: 0}}"), FIRST),
    Case("abort without percentage", faulty("abort: {httpStatus: 555}"), Expected(by="reviews-v1", flags="")),
    Case(
        "delay",
        faulty("delay: {fixedDelay: 0.2s, percentage: {value: 100}}"),
        Expected(by="reviews-v1", seconds=0.2, flags="DI"),
    ),
    Case(
        "delay and abort",
        faulty(f"delay: {{fixedDelay: 0.2s, {ALWAYS}}}, abort: {{httpStatus: 400, {ALWAYS}}}"),
        Expected(400, grpc="INTERNAL", seconds=0.2, flags="DI,FI", attempts=0),
    ),
    Case(
        "delay is no part of the timeout",
        rule(f"- fault: {{delay: {{fixedDelay: 2.2s, percentage: {{value: 100}}}}}}\n  timeout: 2s\n  {V1}"),
        Expected(by="reviews-v1", seconds=2.2),
        grpc=Lacks.HTTP,
    ),
]

TIMEOUTS = [
    Case(
        "timeout",
        rule(f"- timeout: 0.3s\n  {V1}"),
        Expected(504, grpc="DEADLINE_EXCEEDED", attempts=1, flags="UT", body="upstream request timeout", seconds=0.3),
        answers=(HANG,),
        grpc=Lacks.SOON,
    ),
    Case(
        "timeout of seconds",
        rule(f"- timeout: 3s\n  {V1}"),
        Expected(504, grpc="DEADLINE_EXCEEDED", attempts=1, flags="UT", seconds=0.5),
        answers=(HANG,),
    ),
    Case(
        "per try timeout",
        retrying("attempts: 1, perTryTimeout: 2s, retryOn: 5xx, backoff: 1ms"),
        Expected(200, attempts=2, seconds=1),
        answers=(HANG,),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "per try timeout too often",
        retrying("attempts: 1, perTryTimeout: 0.2s, retryOn: 5xx, backoff: 1ms"),
        Expected(504, attempts=2, flags="UT,URX", seconds=0.4),
        answers=(HANG,) * 3,
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "per try timeout is a gateway error",
        retrying("attempts: 1, perTryTimeout: 2s, retryOn: gateway-error, backoff: 1ms"),
        Expected(200, attempts=2),
        answers=(HANG,),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "per try timeout is not retried by default",
        retrying("attempts: 2, perTryTimeout: 0.2s"),
        Expected(504, attempts=1, flags="UT", body="upstream request timeout"),
        answers=(HANG,),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "timeout of the whole",
        rule(f"- timeout: 1s\n  retries: {{attempts: 5, perTryTimeout: 0.7s, retryOn: 5xx, backoff: 1ms}}\n  {V1}"),
        Expected(504, grpc="DEADLINE_EXCEEDED", attempts=2, flags="UT", seconds=1),
        answers=(HANG,) * 6,
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "timeout by request header",
        "",
        Expected(504, grpc="DEADLINE_EXCEEDED", attempts=1, flags="UT"),
        answers=(HANG,),
        headers=(("x-envoy-upstream-rq-timeout-ms", "300"),),
        grpc=Lacks.STEERING,
    ),
    Case(
        "expected timeout",
        rule(f"- timeout: 30s\n  {V1}"),
        Expected(sent={"x-envoy-upstream-rq-timeout-ms": None}),
        headers=(("x-envoy-upstream-rq-timeout-ms", "25000"),),
        grpc=Lacks.STEERING,
    ),
]

TOO_MANY = Expected(
    429,
    grpc="RESOURCE_EXHAUSTED",
    flags="RL",
    attempts=0,
    received={"x-envoy-ratelimited": "true"},
)
# A client that sends a row by two means has one bucket for both: nobody gets a second one through.
LIMITS = [
    Case(
        "rate limit",
        limited(matching("{uri: {prefix: /v2}}"), "1/h"),
        replace(TOO_MANY, body="local_rate_limited"),
        "http://HOST/v2",
        times=2,
        grpc=Lacks.LIMIT,
    ),
    Case(
        "rate limit of an http route",
        limited(route(f"- {TWO}"), "1/h"),
        TOO_MANY,
        times=2,
        grpc=Lacks.LIMIT,
    ),
    Case(
        "rate limit that nobody reaches", limited(rule(f"- {V1}"), "1/h; burst=1000"), FIRST, times=3, grpc=Lacks.LIMIT
    ),
    Case(
        "a retry needs no token",
        limited(retrying("attempts: 2, retryOn: unavailable, backoff: 1ms"), "1/h; burst=4"),
        Expected(by="reviews-v1", attempts=3),
        answers=(grpc_status(14), grpc_status(14)),
        method="POST",
        headers=(("content-type", "application/grpc"),),
        grpc=Lacks.LIMIT,
    ),
    Case(
        "a fault needs no token",
        limited(faulty("abort: {httpStatus: 555, percentage: {value: 100}}"), "1/h"),
        Expected(555, grpc="UNKNOWN", flags="FI"),
        times=3,
        grpc=Lacks.LIMIT,
    ),
]

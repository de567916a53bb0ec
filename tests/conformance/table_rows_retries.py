"""What is tried again, and what is not."""

from table_case import Case, Differs, Expected, Lacks
from table_rows import RESET, V1, answering, grpc_status, retrying, rule

REFUSED = rule("- route: [{destination: {host: down}}]")


# Another host is a matter of chance: after ten draws it has been found.
FLAKY = retrying("attempts: 10", "route: [{destination: {host: flaky}}]")

ON_5XX = retrying("attempts: 3, retryOn: 5xx, backoff: 1ms")

RETRIES = [
    # Istio's default stopped retrying a service's own 503 with 1.24: istio/istio#52111.
    Case("own 503 is not retried", "", Expected(503, attempts=1), answers=(answering(503),), grpc=Lacks.STATUS),
    Case("own 500 is not retried", "", Expected(500, attempts=1), answers=(answering(500),), grpc=Lacks.STATUS),
    Case("unavailable is retried", "", Expected(200, attempts=2), answers=(grpc_status(14),)),
    Case("cancelled is retried", "", Expected(200, attempts=2), answers=(grpc_status(1),)),
    Case("internal is not retried", "", Expected(200, grpc="INTERNAL", attempts=1), answers=(grpc_status(13),)),
    Case(
        "unavailable twice at most", "", Expected(200, grpc="UNAVAILABLE", attempts=3), answers=(grpc_status(14),) * 5
    ),
    Case(
        "internal on demand",
        retrying("attempts: 3, retryOn: internal, backoff: 1ms"),
        Expected(200, attempts=3),
        answers=(grpc_status(13),) * 2,
    ),
    Case(
        "resource exhausted on demand",
        retrying("attempts: 2, retryOn: 'resource-exhausted,deadline-exceeded', backoff: 1ms"),
        Expected(200, attempts=3),
        answers=(grpc_status(8), grpc_status(4)),
    ),
    Case(
        "retries off",
        retrying("attempts: 0"),
        Expected(200, grpc="UNAVAILABLE", attempts=1),
        answers=(grpc_status(14),),
    ),
    Case(
        "refused",
        REFUSED,
        Expected(
            503,
            grpc="UNAVAILABLE",
            attempts=0,
            flags="UF,URX",
            body="upstream connect error or disconnect/reset before headers. "
            "retried and the latest reset reason: remote connection failure",
        ),
    ),
    Case("refused then another host", FLAKY, Expected(200, by="reviews-v1", attempts=1)),
    Case(
        "refused post then another host",
        FLAKY,
        Expected(200, by="reviews-v1", attempts=1, text="body"),
        method="POST",
        body="body",
    ),
    Case("lost get", "", Expected(200, attempts=2), answers=(RESET,), grpc=Lacks.STATUS, envoy=Differs.IDEMPOTENT),
    Case("lost post", "", Expected(503, attempts=1, flags="UC"), method="POST", answers=(RESET,), grpc=Lacks.STATUS),
    Case(
        "5xx",
        ON_5XX,
        Expected(200, attempts=4),
        answers=(answering(502), answering(500), answering(503)),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "5xx too often",
        ON_5XX,
        Expected(502, attempts=4, flags="URX"),
        answers=(answering(502),) * 5,
        grpc=Lacks.CONDITION,
    ),
    Case("reset is a 5xx", ON_5XX, Expected(200, attempts=2), method="POST", answers=(RESET,), grpc=Lacks.CONDITION),
    Case(
        "5xx with a body",
        ON_5XX,
        Expected(200, attempts=2, text="body"),
        method="POST",
        body="body",
        answers=(answering(503),),
        grpc=Lacks.CONDITION,
    ),
    Case("404 is no 5xx", ON_5XX, Expected(404, attempts=1), answers=(answering(404),), grpc=Lacks.CONDITION),
    Case(
        "gateway error",
        retrying("attempts: 2, retryOn: gateway-error, backoff: 1ms"),
        Expected(500, attempts=2),
        answers=(answering(504), answering(500)),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "reset",
        retrying("attempts: 2, retryOn: reset, backoff: 1ms"),
        Expected(500, attempts=2),
        answers=(RESET, answering(500)),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "reset before request",
        retrying("attempts: 2, retryOn: reset-before-request, backoff: 1ms"),
        Expected(503, attempts=1),
        answers=(RESET,),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "retriable 4xx",
        retrying("attempts: 2, retryOn: retriable-4xx, backoff: 1ms"),
        Expected(400, attempts=2),
        answers=(answering(409), answering(400)),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "retriable status codes",
        retrying("attempts: 2, retryOn: '418,429', backoff: 1ms"),
        Expected(200, attempts=3),
        answers=(answering(418), answering(429)),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "rate limited",
        retrying("attempts: 2, retryOn: 5xx, backoff: 1ms"),
        Expected(503, attempts=1),
        answers=(answering(503, ("x-envoy-ratelimited", "true")),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "rate limited on demand",
        retrying("attempts: 2, retryOn: envoy-ratelimited, backoff: 1ms"),
        Expected(200, attempts=2),
        answers=(answering(429, ("x-envoy-ratelimited", "true")),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "retry to another host",
        retrying("attempts: 1, retryOn: 5xx, backoff: 1ms", "route: [{destination: {host: reviews}}]"),
        Expected(200, attempts=2),
        answers=(answering(500),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "attempt count of a retry",
        ON_5XX,
        Expected(200, attempts=2, sent={"x-envoy-attempt-count": "2"}),
        answers=(answering(503),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "retries by request header",
        "",
        Expected(200, attempts=2),
        headers=(("x-envoy-retry-on", "5xx"),),
        answers=(answering(500),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "number by request header",
        ON_5XX,
        Expected(500, attempts=2),
        headers=(("x-envoy-max-retries", "1"),),
        answers=(answering(500),) * 3,
        grpc=Lacks.CONDITION,
    ),
    Case(
        "codes by request header",
        "",
        Expected(200, attempts=2),
        headers=(("x-envoy-retry-on", "retriable-status-codes"), ("x-envoy-retriable-status-codes", "418")),
        answers=(answering(418),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "header names by request header",
        "",
        Expected(200, attempts=2),
        headers=(("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", "x-again")),
        answers=(answering(200, ("x-again", "")),),
        grpc=Lacks.STEERING,
    ),
    Case(
        "retries by request header where they are off",
        retrying("attempts: 0"),
        Expected(200, attempts=2),
        headers=(("x-envoy-retry-on", "5xx"),),
        answers=(answering(500),),
        grpc=Lacks.CONDITION,
    ),
    Case(
        "rewrite once for all attempts",
        rule(f"- rewrite: {{uri: /b}}\n  retries: {{attempts: 2, retryOn: 5xx, backoff: 1ms}}\n  {V1}"),
        Expected(200, attempts=2, path="/ba"),
        "http://HOST/a",
        answers=(answering(500),),
        grpc=Lacks.CONDITION,
    ),
]

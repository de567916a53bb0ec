"""A second attempt beside one that is late. Who is late waits for the other to arrive."""

from dataclasses import replace

from table_case import Answer, Case, Expected, Lacks
from table_rows import HANG, V1, retrying, rule
from table_rows_gateway_api import route

ANNOTATED = "namespace: NAMESPACE, annotations: {proxyless.io/hedge-on-per-try-timeout: 'true'}}"
POLICY = "attempts: 1, perTryTimeout: 0.2s, retryOn: '5xx,unavailable', backoff: 1ms"
LATE = Answer(headers=(("x-which", "late"),), beside=2)
SECOND = Answer(headers=(("x-which", "second"),))
FAILING = Answer(headers=(("grpc-status", "14"),))


def hedged(text: str) -> str:
    return text.replace("namespace: NAMESPACE}", ANNOTATED)


HEDGED = hedged(retrying(POLICY))

HEDGES = [
    Case(
        "hedge",
        HEDGED,
        Expected(200, attempts=2, sent={"x-envoy-attempt-count": "2"}, received={"x-which": "second"}),
        answers=(HANG, SECOND),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge with a body",
        HEDGED,
        Expected(200, attempts=2, text="body", received={"x-which": "second"}),
        method="POST",
        body="body",
        answers=(HANG, SECOND),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge whatever else is retried",
        hedged(retrying("attempts: 1, perTryTimeout: 0.2s, retryOn: unavailable")),
        Expected(200, attempts=2, received={"x-which": "second"}),
        answers=(HANG, SECOND),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge that loses",
        HEDGED,
        Expected(200, attempts=2, received={"x-which": "late"}),
        answers=(LATE, HANG),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge beside an error",
        HEDGED,
        Expected(200, attempts=2, received={"x-which": "second"}),
        answers=(replace(FAILING, beside=2), replace(SECOND, after=0.5)),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge that fails",
        HEDGED,
        Expected(200, attempts=2, received={"x-which": "late"}),
        answers=(replace(LATE, after=0.5), FAILING),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge in vain",
        HEDGED,
        Expected(200, grpc="UNAVAILABLE", attempts=2, flags="URX"),
        answers=(replace(FAILING, beside=2), FAILING),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge beside a 404",
        HEDGED,
        Expected(404, attempts=2, received={"x-which": "late"}),
        answers=(replace(LATE, status=404), HANG),
        grpc=Lacks.STATUS,
    ),
    Case(
        "hedge until the timeout",
        hedged(rule(f"- timeout: 1s\n  retries: {{{POLICY}}}\n  {V1}")),
        Expected(504, grpc="DEADLINE_EXCEEDED", attempts=2, seconds=1),
        answers=(HANG,) * 3,
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "hedge on demand",
        retrying(POLICY),
        Expected(200, attempts=2, received={"x-which": "late"}),
        headers=(("x-envoy-hedge-on-per-try-timeout", "true"),),
        answers=(LATE, HANG),
        grpc=Lacks.STEERING,
    ),
    Case(
        "hedge of a route",
        hedged(
            route(
                "- timeouts: {backendRequest: 200ms}\n  retry: {attempts: 1, backoff: 1ms}\n"
                "  backendRefs: [{name: reviews-one, port: 80}]"
            )
        ),
        Expected(200, attempts=2, received={"x-which": "late"}),
        answers=(LATE, HANG),
        grpc=Lacks.PER_TRY,
    ),
]

"""What a rule means, from its YAML to the step the engine takes: one table for all parts together."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from pipeline import Pipeline

from proxyless.engine.steps import Answered, Failed, FailureKind

V1 = "route: [{destination: {host: reviews, subset: v1}}]"
V2 = "route: [{destination: {host: reviews, subset: v2}}]"
RESET = Failed(FailureKind.RESET, "gone", request_sent=True)
REFUSED = Failed(FailureKind.CONNECT, "refused")
UNAVAILABLE = Answered(503, [])


def rule(http: str, hosts: str = "[reviews]", extra: str = "") -> str:
    lines = "\n".join("    " + line for line in http.strip().splitlines())
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: rule}}\n"
        f"spec:\n  hosts: {hosts}\n{extra}  http:\n{lines}\n"
    )


@dataclass(frozen=True)
class Case:
    """``expected``: attributes of the outcome, by name."""

    name: str
    rules: str
    expected: dict[str, Any]
    url: str = "http://reviews/"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    answers: tuple[Answered | Failed, ...] = ()
    namespace: str = "default"
    labels: dict[str, str] = field(default_factory=dict)


def matching(match: str) -> str:
    """v2 for what matches, v1 for the rest."""
    return rule(f"- match: [{match}]\n  {V2}\n- {V1}")


PREFIX = matching("{uri: {prefix: /api/}}")
EXACT = matching("{uri: {exact: /Api}}")
NOCASE = matching("{uri: {exact: /Api}, ignoreUriCase: true}")
REGEX = matching("{uri: {regex: '/v[0-9]+/.*'}}")
HEADER = matching("{headers: {end-user: {exact: jason}}}")
PRESENT = matching("{headers: {x-canary: {}}}")
HEADER_PREFIX = matching("{headers: {user-agent: {prefix: 'curl/'}}}")
WITHOUT = matching("{withoutHeaders: {end-user: {exact: jason}}}")
QUERY = matching("{queryParams: {version: {exact: '2'}}}")
METHOD = matching("{method: {exact: POST}}")
AUTHORITY = matching("{authority: {exact: beta.example.com}}")
AND = matching("{uri: {prefix: /a}, headers: {k: {exact: v}}}")
OR = matching("{uri: {prefix: /a}}, {headers: {k: {exact: v}}}")
LABELS = matching("{sourceLabels: {app: web}}")
NAMESPACE = matching("{sourceNamespace: front}")
PORT = matching("{port: 8081}")
REWRITE = rule(f"- match: [{{uri: {{prefix: /api/}}}}]\n  rewrite: {{uri: /, authority: other.example}}\n  {V1}")
REGEX_REWRITE = rule(f"- rewrite: {{uriRegexRewrite: {{match: '^/([a-z]+)/(.*)$', rewrite: '/\\2/\\1'}}}}\n  {V1}")
REDIRECT = rule("- redirect: {uri: /new, authority: other.example, redirectCode: 307}")
DIRECT = rule("- directResponse: {status: 418, body: {string: short and stout}}")
HEADERS = rule(
    f"- headers:\n    request: {{set: {{a: one}}, add: {{b: two}}, remove: [c]}}\n"
    f"    response: {{set: {{d: three}}, remove: [server]}}\n  {V1}"
)
ABORT = rule(f"- fault: {{abort: {{httpStatus: 555, percentage: {{value: 100}}}}}}\n  {V1}")
DELAY = rule(f"- fault: {{delay: {{fixedDelay: 7s, percentage: {{value: 100}}}}}}\n  {V1}")
NO_PERCENTAGE = rule(f"- fault: {{abort: {{httpStatus: 555}}}}\n  {V1}")
TIMEOUT = rule(f"- timeout: 3s\n  {V1}")
PER_TRY = rule(f"- timeout: 3s\n  retries: {{attempts: 2, perTryTimeout: 1s}}\n  {V1}")
NO_RETRIES = rule(f"- retries: {{attempts: 0}}\n  {V1}")
ON_5XX = rule(f"- retries: {{attempts: 3, retryOn: 5xx}}\n  {V1}")
ON_STATUS = rule(f"- retries: {{attempts: 1, retryOn: '418'}}\n  {V1}")
MISSING_SERVICE = rule("- route: [{destination: {host: nowhere}}]")
MISSING_SUBSET = rule("- route: [{destination: {host: reviews, subset: v9}}]")
UNMATCHED = rule(f"- match: [{{uri: {{prefix: /only}}}}]\n  {V1}")
OTHER_SERVICE = rule("- route: [{destination: {host: ratings}}]")
OTHER_NAMESPACE = rule("- route: [{destination: {host: vault.secrets.svc.cluster.local}}]")
ZERO = rule(
    "- route: [{destination: {host: reviews, subset: v1}, weight: 0},"
    " {destination: {host: reviews, subset: v2}, weight: 100}]"
)
PRIVATE = rule(f"- {V2}", extra="  exportTo: ['.']\n")
REGISTRY_ONLY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}
"""

CASES = [
    Case("no rule", "", {"status": 200, "attempts": 1, "timeout": None, "path": "/"}),
    Case("prefix", PREFIX, {"cluster": "v2/reviews"}, "http://reviews/api/x"),
    Case("prefix is not met", PREFIX, {"cluster": "v1/reviews"}, "http://reviews/api"),
    Case("exact", EXACT, {"cluster": "v2/reviews"}, "http://reviews/Api?q=1"),
    Case("exact minds case", EXACT, {"cluster": "v1/reviews"}, "http://reviews/api"),
    Case("unless told not to", NOCASE, {"cluster": "v2/reviews"}, "http://reviews/aPI"),
    Case("regex", REGEX, {"cluster": "v2/reviews"}, "http://reviews/v12/x"),
    Case("regex matches all or nothing", REGEX, {"cluster": "v1/reviews"}, "http://reviews/x/v12/x"),
    Case("header", HEADER, {"cluster": "v2/reviews"}, headers={"End-User": "jason"}),
    Case("header differs", HEADER, {"cluster": "v1/reviews"}, headers={"end-user": "Jason"}),
    Case("header is absent", HEADER, {"cluster": "v1/reviews"}),
    Case("presence", PRESENT, {"cluster": "v2/reviews"}, headers={"x-canary": ""}),
    Case("no presence", PRESENT, {"cluster": "v1/reviews"}),
    Case("header prefix", HEADER_PREFIX, {"cluster": "v2/reviews"}, headers={"user-agent": "curl/8"}),
    Case("without header", WITHOUT, {"cluster": "v1/reviews"}, headers={"end-user": "jason"}),
    Case("without header, another value", WITHOUT, {"cluster": "v2/reviews"}, headers={"end-user": "ann"}),
    Case("query", QUERY, {"cluster": "v2/reviews"}, "http://reviews/?a=b&version=2"),
    Case("query differs", QUERY, {"cluster": "v1/reviews"}, "http://reviews/?version=22"),
    Case("method", METHOD, {"cluster": "v2/reviews"}, method="POST"),
    Case("another method", METHOD, {"cluster": "v1/reviews"}),
    Case("authority", AUTHORITY, {"cluster": "v2/reviews"}, headers={"host": "beta.example.com"}),
    Case("both conditions", AND, {"cluster": "v2/reviews"}, "http://reviews/a", headers={"k": "v"}),
    Case("one of both conditions", AND, {"cluster": "v1/reviews"}, "http://reviews/a"),
    Case("one of two matches", OR, {"cluster": "v2/reviews"}, headers={"k": "v"}),
    Case("caller's labels", LABELS, {"cluster": "v2/reviews"}, labels={"app": "web"}),
    Case("another caller", LABELS, {"cluster": "v1/reviews"}, labels={"app": "batch"}),
    Case("caller's namespace", NAMESPACE, {"cluster": "v2/reviews"}, "http://reviews.default/", namespace="front"),
    Case("another namespace", NAMESPACE, {"cluster": "v1/reviews"}),
    Case("port", PORT, {"cluster": "v2/reviews"}, "http://reviews:8081/"),
    Case("another port", PORT, {"cluster": "v1/reviews"}, "http://reviews:80/"),
    Case("full name", HEADER, {"cluster": "v1/reviews"}, "http://reviews.default.svc.cluster.local/"),
    Case("weight 0 gets nothing", ZERO, {"cluster": "v2/reviews"}),
    Case("another service", OTHER_SERVICE, {"cluster": "/ratings", "authority": "reviews"}),
    Case("another namespace's service", OTHER_NAMESPACE, {"cluster": "/vault"}),
    Case("rewrite", REWRITE, {"path": "/x?q=1", "authority": "other.example"}, "http://reviews/api/x?q=1"),
    Case("regex rewrite", REGEX_REWRITE, {"path": "/tail/head?q"}, "http://reviews/head/tail?q"),
    Case(
        "redirect",
        REDIRECT,
        {"status": 307, "attempts": 0, "response_headers": {"location": "http://other.example/new"}},
    ),
    Case("direct response", DIRECT, {"status": 418, "body": b"short and stout", "attempts": 0}),
    Case("abort", ABORT, {"status": 555, "flags": "FI", "attempts": 0}),
    Case("delay", DELAY, {"status": 200, "waited": 7.0, "flags": "DI"}),
    Case("a fault without percentage affects nobody", NO_PERCENTAGE, {"status": 200, "flags": ""}),
    Case("timeout", TIMEOUT, {"timeout": 3.0}),
    Case("per-try timeout", PER_TRY, {"timeout": 1.0}),
    # Istio's default stopped retrying a service's own 503 with 1.24: istio/istio#52111.
    Case("a service's own 503 is not retried", "", {"status": 503, "attempts": 1}, answers=(UNAVAILABLE,)),
    Case("a refused connection is retried", "", {"status": 200, "attempts": 2}, method="POST", answers=(REFUSED,)),
    Case("twice at most", "", {"status": 503, "attempts": 3, "flags": "UF,URX"}, answers=(REFUSED,) * 5),
    Case("a lost GET is retried", "", {"status": 200, "attempts": 2}, answers=(RESET,)),
    Case("a lost POST is not", "", {"status": 503, "attempts": 1, "flags": "UC"}, method="POST", answers=(RESET,)),
    Case("500 is not retried", "", {"status": 500, "attempts": 1}, answers=(Answered(500, []),)),
    Case("retries switched off", NO_RETRIES, {"status": 503, "attempts": 1}, answers=(UNAVAILABLE,)),
    Case("retries on 5xx", ON_5XX, {"status": 200, "attempts": 4}, answers=(Answered(502, []),) * 3),
    Case("a reset counts as 5xx", ON_5XX, {"status": 200, "attempts": 2}, method="POST", answers=(RESET,)),
    Case("retries on a status", ON_STATUS, {"status": 200, "attempts": 2}, answers=(Answered(418, []),)),
    Case("no such service", MISSING_SERVICE, {"status": 503, "attempts": 0, "flags": "NC"}),
    Case("no such subset", MISSING_SUBSET, {"status": 503, "attempts": 0, "flags": "NC"}),
    Case("no route matches", UNMATCHED, {"status": 404, "flags": "NR"}),
    Case("a private rule at home", PRIVATE, {"cluster": "v2/reviews"}),
    Case("a private rule elsewhere", PRIVATE, {"cluster": "/reviews"}, "http://reviews.default/", namespace="front"),
    Case("a stranger goes out as he is", "", {"cluster": "PassthroughCluster"}, "http://example.com/"),
    Case("unless only the registry counts", REGISTRY_ONLY, {"status": 502, "attempts": 0}, "http://example.com/"),
    Case("which knows its own", REGISTRY_ONLY, {"status": 200, "attempts": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rules(case: Case) -> None:
    pipeline = Pipeline(case.rules, namespace=case.namespace, labels=case.labels)
    outcome = pipeline.send(case.method, case.url, case.headers, case.answers)
    assert {name: getattr(outcome, name) for name in case.expected} == case.expected, outcome


def test_headers_are_set_added_and_removed() -> None:
    outcome = Pipeline(HEADERS).send(
        "GET", "http://reviews/", {"a": "zero", "b": "zero", "c": "zero"}, [Answered(200, [("server", "x")])]
    )
    assert outcome.request_headers["a"] == "one"
    assert outcome.request_headers["b"] == "two"  # the last line of two
    assert "c" not in outcome.request_headers
    assert outcome.response_headers == {"d": "three"}


@pytest.mark.parametrize("weight", [0, 1, 10, 50, 99, 100])
def test_shares_are_those_of_the_weights(weight: int) -> None:
    from proxyless.cli.demo.statistics import share_is_right

    pipeline = Pipeline(
        rule(
            f"- route: [{{destination: {{host: reviews, subset: v1}}, weight: {100 - weight}}},"
            f" {{destination: {{host: reviews, subset: v2}}, weight: {weight}}}]"
        )
    )
    snapshot = pipeline.snapshot("reviews:80")
    from proxyless.engine.url import request_for

    seen = 0
    for _ in range(2000):
        call = pipeline.engine.call(snapshot, request_for("GET", "http://reviews/", {}))
        call.next_step()
        seen += call.record.cluster is not None and "|v2|" in call.record.cluster.name
        call.finish()
    assert share_is_right(seen, 2000, weight / 100)

"""HTTPRoute and GRPCRoute attached to a Service: whom they are for, what comes first, and what their filters do."""

from dataclasses import replace

from table_case import Case, Expected, Lacks
from table_rows import ANYWHERE, FIRST, HANG, SECOND, V1, answering, grpc_status, rule

PARENT = "{group: '', kind: Service, name: HOST}"
ONE = "backendRefs: [{name: reviews-one, port: 80}]"
TWO = "backendRefs: [{name: reviews-two, port: 80}]"
NO_ROUTE = Expected(404, grpc="UNAVAILABLE", flags="NR", attempts=0)
LOST = Expected(500, grpc="UNKNOWN", attempts=0)


def route(
    rules: str, kind: str = "HTTPRoute", *, parent: str = PARENT, namespace: str = "NAMESPACE", extra: str = ""
) -> str:
    lines = "\n".join("  " + line for line in rules.strip().splitlines())
    return (
        f"apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n"
        f"metadata: {{name: HOST{extra}, namespace: {namespace}}}\n"
        f"spec:\n  parentRefs: [{parent}]\n  rules:\n{lines}\n"
    )


def matching(match: str, kind: str = "HTTPRoute") -> str:
    """v2 for what matches, v1 for the rest, which is written first."""
    return route(f"- {ONE}\n- matches: [{match}]\n  {TWO}", kind)


def ranked(first: str, second: str) -> str:
    """The second is written later and comes first."""
    return route(f"- matches: [{first}]\n  {ONE}\n- matches: [{second}]\n  {TWO}")


def filtering(filters: str, match: str = "") -> str:
    matches = f"  matches: [{match}]\n" if match else ""
    return route(f"- filters: [{filters}]\n{matches}  {ONE}")


def redirecting(redirect: str, match: str = "") -> str:
    matches = f"  matches: [{match}]\n" if match else ""
    return route(f"- filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]\n{matches}")


def rewriting(path: str, prefix: str = "/a") -> str:
    rewrite = f"{{type: URLRewrite, urlRewrite: {{path: {{{path}}}}}}}"
    return filtering(rewrite, f"{{path: {{value: {prefix}}}}}")


def replaced(name: str, prefix: str, by: str, asked: str, sent: str) -> Case:
    """A row of the table in the Gateway API's documentation of ReplacePrefixMatch."""
    rules = rewriting(f"type: ReplacePrefixMatch, replacePrefixMatch: '{by}'", prefix)
    return Case(name, rules, Expected(path=sent), f"http://HOST{asked}", grpc=Lacks.REWRITE)


def redirected(name: str, rules: str, location: str, url: str = "http://HOST/a?q=1", status: int = 302) -> Case:
    case = Case(name, rules, Expected(status), url, grpc=Lacks.REDIRECT)
    expected = Expected(status, attempts=0, received={"location": location.replace("HOST", case.host)})
    return replace(case, expected=expected)


AWAY = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: NAMESPACE-secrets}\n"
    "spec: {selector: {app: vault}, ports: [{name: SPEAKS, port: 80}]}\n---\n"
)
AWAY_PARENT = "{group: '', kind: Service, name: HOST, namespace: NAMESPACE-secrets}"
AWAY_URL = "http://HOST.NAMESPACE-secrets/"
HERE = "backendRefs: [{name: reviews-two, namespace: NAMESPACE, port: 80}]"
ALSO_HERE = "backendRefs: [{name: reviews-one, namespace: NAMESPACE, port: 80}]"

ROUTES = [
    Case("route", route(f"- {TWO}"), SECOND),
    Case("route without a match for it", route(f"- matches: [{{path: {{value: /only}}}}]\n  {ONE}"), NO_ROUTE),
    Case(
        "route of another port",
        route(f"- {TWO}", parent="{group: '', kind: Service, name: HOST, port: 8081}"),
        Expected(by=ANYWHERE),
    ),
    Case(
        "route of this port by name",
        route(f"- {TWO}", parent="{group: core, kind: Service, name: HOST, sectionName: SPEAKS}"),
        SECOND,
    ),
    Case("route of a gateway", route(f"- {TWO}", parent="{name: HOST}"), Expected(by=ANYWHERE)),
    Case("route of the producer", AWAY + route(f"- {HERE}", namespace="NAMESPACE-secrets"), SECOND, AWAY_URL),
    Case("route of the consumer", AWAY + route(f"- {TWO}", parent=AWAY_PARENT), SECOND, AWAY_URL),
    Case(
        "route of the consumer before the producers",
        AWAY + route(f"- {TWO}", parent=AWAY_PARENT) + "---\n" + route(f"- {ALSO_HERE}", namespace="NAMESPACE-secrets"),
        SECOND,
        AWAY_URL,
    ),
    Case(
        "route of somebody else",
        AWAY + route(f"- {HERE}", parent=AWAY_PARENT, namespace="NAMESPACE-other"),
        Expected(by="vault"),
        AWAY_URL,
    ),
    Case("route and an older rule", f"{rule(f'- {V1}', name='a-HOST')}---\n{route(f'- {TWO}')}", SECOND),
    Case("both kinds of route", f"{route(f'- {ONE}')}---\n{route(f'- {TWO}', 'GRPCRoute')}", SECOND),
    Case(
        "two routes together",
        route(f"- {ONE}") + "---\n" + route(f"- matches: [{{path: {{value: /b}}}}]\n  {TWO}", extra="-2"),
        SECOND,
        "http://HOST/b/c",
    ),
    Case("route to nobody", route("- backendRefs: [{name: nobody, port: 80}]"), LOST, grpc=Lacks.DIRECT),
    Case("route to no port", route("- backendRefs: [{name: reviews-one, port: 81}]"), LOST, grpc=Lacks.DIRECT),
    Case(
        "route with weight 0",
        route("- backendRefs: [{name: reviews-one, port: 80, weight: 0}]"),
        LOST,
        grpc=Lacks.DIRECT,
    ),
    Case(
        "route without backends",
        route("- name: none"),
        Expected(404, grpc="UNIMPLEMENTED", attempts=0),
        grpc=Lacks.DIRECT,
    ),
    Case(
        "a large share of nobody",
        route("- backendRefs: [{name: nobody, port: 80, weight: 1000000}, {name: reviews-one, port: 80}]"),
        LOST,
        grpc=Lacks.DIRECT,
    ),
    Case(
        "a small share of nobody",
        route("- backendRefs: [{name: nobody, port: 80}, {name: reviews-two, port: 80, weight: 1000000}]"),
        SECOND,
    ),
]

HTTP_ROUTES = [
    Case("path prefix", matching("{path: {value: /api}}"), SECOND, "http://HOST/api"),
    Case("path prefix and more", matching("{path: {value: /api/}}"), SECOND, "http://HOST/api/x"),
    Case("path prefix of a segment", matching("{path: {value: /api}}"), FIRST, "http://HOST/apis"),
    Case("path prefix of a root with meaning", matching("{path: {value: /a.c}}"), FIRST, "http://HOST/abc"),
    Case("exact path", matching("{path: {type: Exact, value: /Api/Get}}"), SECOND, "http://HOST/Api/Get"),
    Case("exact path and more", matching("{path: {type: Exact, value: /Api/Get}}"), FIRST, "http://HOST/Api/Get/x"),
    Case("path regex", matching("{path: {type: RegularExpression, value: '/v[0-9]+'}}"), SECOND, "http://HOST/v12"),
    Case("route header", matching("{headers: [{name: K, value: v}]}"), SECOND, headers=(("k", "v"),)),
    Case("route header differs", matching("{headers: [{name: K, value: v}]}"), FIRST, headers=(("k", "w"),)),
    Case(
        "route header regex",
        matching("{headers: [{type: RegularExpression, name: k, value: 'v+'}]}"),
        SECOND,
        headers=(("k", "vv"),),
    ),
    Case(
        "route query", matching("{queryParams: [{name: q, value: '1'}]}"), SECOND, "http://HOST/?q=1", grpc=Lacks.QUERY
    ),
    Case("route method", matching("{method: PUT}"), SECOND, method="PUT", grpc=Lacks.PSEUDO),
    Case(
        "exact before prefix",
        ranked("{path: {value: /a/b}}", "{path: {type: Exact, value: /a/b}}"),
        SECOND,
        "http://HOST/a/b",
    ),
    Case("longer before shorter", ranked("{path: {value: /a}}", "{path: {value: /a/b}}"), SECOND, "http://HOST/a/b/c"),
    Case(
        "prefix before regex",
        ranked("{path: {type: RegularExpression, value: '/a/.*'}}", "{path: {value: /a}}"),
        SECOND,
        "http://HOST/a/b",
    ),
    Case(
        "method before headers",
        ranked("{headers: [{name: a, value: v}, {name: b, value: v}]}", "{method: PUT}"),
        SECOND,
        method="PUT",
        headers=(("a", "v"), ("b", "v")),
        grpc=Lacks.PSEUDO,
    ),
    Case(
        "two headers before one",
        ranked("{headers: [{name: a, value: v}]}", "{headers: [{name: a, value: v}, {name: b, value: v}]}"),
        SECOND,
        headers=(("a", "v"), ("b", "v")),
    ),
    Case(
        "headers before query",
        ranked("{queryParams: [{name: q, value: '1'}]}", "{headers: [{name: a, value: v}]}"),
        SECOND,
        "http://HOST/?q=1",
        headers=(("a", "v"),),
        grpc=Lacks.QUERY,
    ),
    Case("first rule before second", ranked("{path: {value: /}}", "{path: {value: /}}"), FIRST),
    Case(
        "route request headers",
        filtering(
            "{type: RequestHeaderModifier, requestHeaderModifier: "
            "{set: [{name: a, value: 5%}], add: [{name: b, value: two}], remove: [C]}}"
        ),
        Expected(by="reviews-v1", sent={"a": "5%", "b": "zero, two", "c": None}),
        headers=(("a", "zero"), ("b", "zero"), ("c", "zero")),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "route response headers",
        filtering(
            "{type: ResponseHeaderModifier, responseHeaderModifier: "
            "{set: [{name: d, value: three}], add: [{name: f, value: five}], remove: [g]}}"
        ),
        Expected(received={"d": "three", "f": "0, five", "g": None}),
        answers=(answering(200, ("d", "0"), ("f", "0"), ("g", "0")),),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "headers of a backend",
        route(
            "- backendRefs:\n  - {name: reviews-one, port: 80, filters: "
            "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: one}]}}]}"
        ),
        Expected(by="reviews-v1", sent={"a": "one"}),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "rewrite by a backend of several",
        route(
            "- backendRefs:\n  - {name: reviews-one, port: 80, filters: "
            "[{type: URLRewrite, urlRewrite: {hostname: other.example}}]}\n"
            "  - {name: reviews-two, port: 80, weight: 0}"
        ),
        Expected(by="reviews-v1", host="other.example"),
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite the hostname",
        filtering("{type: URLRewrite, urlRewrite: {hostname: other.example}}"),
        Expected(host="other.example", path="/a?q=1"),
        "http://HOST/a?q=1",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "replace the full path",
        rewriting(r"type: ReplaceFullPath, replaceFullPath: '/n\1'"),
        Expected(path=r"/n\1?q=1"),
        "http://HOST/a/b?q=1",
        grpc=Lacks.REWRITE,
    ),
    replaced("prefix of a path", "/foo", "/xyz", "/foo/bar?q=1", "/xyz/bar?q=1"),
    replaced("prefix by one with a slash", "/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
    replaced("prefix with a slash", "/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
    replaced("prefix of its own", "/foo", "/xyz", "/foo", "/xyz"),
    replaced("prefix and a slash", "/foo", "/xyz", "/foo/", "/xyz/"),
    replaced("prefix taken away", "/foo", "", "/foo/bar", "/bar"),
    replaced("prefix by the root", "/foo", "/", "/foo", "/"),
    replaced("prefix and a slash by the root", "/foo", "/", "/foo/", "/"),
    replaced("prefix of every path", "/", "/xyz", "/bar", "/xyz/bar"),
    redirected(
        "redirect to a hostname",
        redirecting("hostname: other.example, statusCode: 301"),
        "http://other.example/a?q=1",
        status=301,
    ),
    redirected(
        "redirect to a hostname on this port",
        redirecting("hostname: other.example"),
        "http://other.example:8081/a",
        "http://HOST:8081/a",
    ),
    redirected("redirect to a scheme", redirecting("scheme: https"), "https://HOST/a?q=1"),
    redirected(
        "redirect from a port to a scheme",
        redirecting("scheme: https"),
        "https://HOST:443/a",
        "http://HOST:8081/a",
    ),
    redirected("redirect to another port", redirecting("port: 8080"), "http://HOST:8080/a?q=1"),
    redirected(
        "redirect to a full path",
        redirecting("path: {type: ReplaceFullPath, replaceFullPath: /new}"),
        "http://HOST/new?q=1",
    ),
    redirected(
        "redirect with another prefix",
        redirecting("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", "{path: {value: /a}}"),
        "http://HOST/new/b?q=1",
        "http://HOST/a/b?q=1",
    ),
    Case(
        "route timeout",
        route(f"- timeouts: {{request: 300ms}}\n  {ONE}"),
        Expected(504, grpc="DEADLINE_EXCEEDED", flags="UT", attempts=1, seconds=0.3),
        answers=(HANG,),
        grpc=Lacks.SOON,
    ),
    Case(
        "route backend timeout",
        route(f"- timeouts: {{backendRequest: 200ms}}\n  {ONE}"),
        Expected(504, flags="UT", attempts=1),
        answers=(HANG,),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "route backend timeout is retried",
        route(f"- timeouts: {{backendRequest: 2s}}\n  retry: {{attempts: 1, backoff: 1ms}}\n  {ONE}"),
        Expected(200, attempts=2),
        answers=(HANG,),
        grpc=Lacks.PER_TRY,
    ),
    Case(
        "route retries",
        route(f"- retry: {{codes: [500, 429], attempts: 2, backoff: 1ms}}\n  {ONE}"),
        Expected(200, attempts=3),
        answers=(answering(500), answering(429)),
        grpc=Lacks.STATUS,
    ),
    Case(
        "route retries other codes",
        route(f"- retry: {{codes: [500], attempts: 2}}\n  {ONE}"),
        Expected(503, attempts=1),
        answers=(answering(503),),
        grpc=Lacks.STATUS,
    ),
    Case(
        "route retries gRPC",
        route(f"- retry: {{attempts: 1, backoff: 2ms}}\n  {ONE}"),
        Expected(200, attempts=2),
        answers=(grpc_status(14),),
    ),
    Case(
        "route retries nothing",
        route(f"- retry: {{attempts: 0}}\n  {ONE}"),
        Expected(200, grpc="UNAVAILABLE", attempts=1),
        answers=(grpc_status(14),),
    ),
]


def called(method: str) -> str:
    return matching(f"{{method: {{{method}}}}}", "GRPCRoute")


GRPC_ROUTES = [
    Case("grpc method", called("service: a.B, method: Get"), SECOND, "http://HOST/a.B/Get"),
    Case("grpc another method", called("service: a.B, method: Get"), FIRST, "http://HOST/a.B/Set"),
    Case("grpc any method", called("service: a.B"), SECOND, "http://HOST/a.B/Set"),
    Case("grpc another service", called("service: a.B"), FIRST, "http://HOST/a.BC/Set"),
    Case("grpc any service", called("method: Get"), SECOND, "http://HOST/a.B/Get"),
    Case("grpc any service another method", called("method: Get"), FIRST, "http://HOST/a.B/GetAll"),
    Case(
        "grpc service regex",
        called("type: RegularExpression, service: 'a[.](B|C)'"),
        SECOND,
        "http://HOST/a.C/Get",
    ),
    Case(
        "grpc method regex",
        called("type: RegularExpression, service: a.B, method: 'Get|List'"),
        SECOND,
        "http://HOST/a.B/List",
    ),
    Case(
        "grpc regexes are whole",
        called("type: RegularExpression, service: a.B, method: 'Get|List'"),
        FIRST,
        "http://HOST/a.B/Lists",
    ),
    Case(
        "grpc header",
        matching("{headers: [{name: k, value: v}]}", "GRPCRoute"),
        SECOND,
        "http://HOST/a.B/Get",
        headers=(("k", "v"),),
    ),
    Case(
        "grpc longer service first",
        route(
            f"- matches: [{{method: {{method: Get}}}}]\n  {ONE}\n- matches: [{{method: {{service: a.B}}}}]\n  {TWO}",
            "GRPCRoute",
        ),
        SECOND,
        "http://HOST/a.B/Get",
    ),
    Case(
        "grpc unmatched",
        route(f"- matches: [{{method: {{service: a.B}}}}]\n  {ONE}", "GRPCRoute"),
        NO_ROUTE,
        "http://HOST/a.C/Get",
    ),
    Case(
        "grpc to nobody",
        route("- backendRefs: [{name: nobody, port: 80}]", "GRPCRoute"),
        Expected(503, grpc="UNAVAILABLE", attempts=0),
        "http://HOST/a.B/Get",
    ),
    Case(
        "grpc request headers",
        route(
            "- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: b, value: two}]}}]\n"
            f"  {ONE}",
            "GRPCRoute",
        ),
        Expected(sent={"b": "zero, two"}),
        headers=(("b", "zero"),),
        grpc=Lacks.HEADERS,
    ),
]

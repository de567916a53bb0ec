"""What is changed on the way: headers, paths, hosts; and redirects and answers instead of a way."""

from table_case import Case, Expected, Lacks
from table_rows import HANG, V1, answering, rule

HEADERS = rule(
    "- headers:\n"
    "    request: {set: {a: one}, add: {b: two}, remove: [c]}\n"
    "    response: {set: {d: three, e: four}, add: {f: five}, remove: [g]}\n"
    f"  {V1}"
)
OF_ROUTE = "- headers: {request: {set: {a: route, b: route}, add: {c: route}}, response: {set: {d: route}}}\n  route:\n"
OF_DESTINATION = (
    "  - destination: {host: reviews, subset: v1}\n"
    "    headers:\n"
    "      request: {set: {a: destination}, add: {c: destination}, remove: [x]}\n"
    "      response: {set: {d: destination}, add: {e: destination}}\n"
)
PER_DESTINATION = rule(OF_ROUTE + OF_DESTINATION)
WEIGHTED_HEADERS = rule(
    OF_ROUTE + OF_DESTINATION + "    weight: 100\n  - {destination: {host: reviews, subset: v2}, weight: 0}\n"
)
ASKED = (("a", "zero"), ("b", "zero"), ("c", "zero"))


def local(name: str, action: str, status: int, grpc: str | None = None) -> Case:
    """The mesh answers itself, with the route's response headers."""
    return Case(
        name,
        rule(f"- headers: {{response: {{set: {{d: three}}}}}}\n  {action}"),
        Expected(status, grpc=grpc, received={"d": "three"}),
        answers=(HANG,),
        grpc=Lacks.HEADERS,
    )


HEADER_CHANGES = [
    Case(
        "request headers",
        HEADERS,
        Expected(by="reviews-v1", sent={"a": "one", "b": "zero, two", "c": None}),
        headers=ASKED,
        grpc=Lacks.HEADERS,
    ),
    Case(
        "request headers that are not there",
        HEADERS,
        Expected(sent={"a": "one", "b": "two", "c": None}),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "response headers",
        HEADERS,
        Expected(received={"d": "three", "e": "four", "f": "0, five", "g": None}),
        answers=(answering(200, ("d", "0"), ("d", "1"), ("f", "0"), ("g", "0")),),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "headers of a destination",
        PER_DESTINATION,
        Expected(
            sent={"a": "destination", "b": "route", "c": "route, destination", "x": None},
            received={"d": "destination", "e": "destination"},
        ),
        headers=(("x", "0"),),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "headers of a weighted destination",
        WEIGHTED_HEADERS,
        Expected(sent={"a": "route", "b": "route", "x": None}, received={"d": "route", "e": "destination"}),
        headers=(("x", "0"),),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "set an empty value",
        rule(f"- headers: {{request: {{set: {{a: ''}}}}}}\n  {V1}"),
        Expected(sent={"a": ""}),
        headers=ASKED,
        grpc=Lacks.HEADERS,
    ),
    Case("set many lines", HEADERS, Expected(sent={"a": "one"}), headers=(("a", "1"), ("a", "2")), grpc=Lacks.HEADERS),
    Case(
        "set the host",
        rule(f"- headers: {{request: {{set: {{Host: other.example}}}}}}\n  {V1}"),
        Expected(host="other.example"),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "names without case",
        rule(f"- headers: {{request: {{set: {{X-Mixed: '1'}}, remove: [X-Gone]}}}}\n  {V1}"),
        Expected(sent={"x-mixed": "1", "x-gone": None}),
        headers=(("x-gone", "1"),),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "format of a value",
        rule(f"- headers: {{request: {{set: {{a: '100%%'}}}}}}\n  {V1}"),
        Expected(sent={"a": "100%"}),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "headers of a direct response",
        rule("- headers: {response: {set: {d: three}}}\n  directResponse: {status: 200, body: {string: hi}}"),
        Expected(grpc="UNKNOWN", body="hi", received={"d": "three", "content-type": "text/plain"}, attempts=0),
        grpc=Lacks.DIRECT,
    ),
    Case(
        "headers of a fault",
        rule(
            "- headers: {response: {set: {d: three}}}\n"
            f"  fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}\n  {V1}"
        ),
        Expected(418, received={"d": "three"}),
        grpc=Lacks.HEADERS,
    ),
    local("headers of a 503 without endpoints", "route: [{destination: {host: empty}}]", 503),
    local("headers of a 503 without cluster", "route: [{destination: {host: nowhere}}]", 503),
    local("headers of a 503 without connection", "route: [{destination: {host: down}}]", 503),
    local("headers of a 504", f"timeout: 0.2s\n  {V1}", 504, "DEADLINE_EXCEEDED"),
    local("headers of a redirect", "redirect: {uri: /b}", 301),
    Case(
        "attempt count",
        "",
        Expected(sent={"x-envoy-attempt-count": "1", "x-envoy-internal": None, "x-forwarded-for": None}),
        grpc=Lacks.HEADERS,
    ),
    Case(
        "forged mesh headers",
        "",
        Expected(sent={"x-envoy-attempt-count": "1", "x-envoy-retry-on": None, "x-envoy-max-retries": None}),
        headers=(("x-envoy-attempt-count", "9"), ("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "1")),
        grpc=Lacks.STEERING,
    ),
]

REWRITES = [
    Case(
        "rewrite prefix",
        rule(f"- match: [{{uri: {{prefix: /api/}}}}]\n  rewrite: {{uri: /, authority: other.example}}\n  {V1}"),
        Expected(path="/x?q=1", host="other.example", sent={"x-envoy-original-path": "/api/x?q=1"}),
        "http://HOST/api/x?q=1",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite prefix without slash",
        rule(f"- match: [{{uri: {{prefix: /api}}}}]\n  rewrite: {{uri: /}}\n  {V1}"),
        Expected(path="//x"),
        "http://HOST/api/x",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite prefix without case",
        rule(f"- match: [{{uri: {{prefix: /Api}}, ignoreUriCase: true}}]\n  rewrite: {{uri: /new}}\n  {V1}"),
        Expected(path="/new/x"),
        "http://HOST/aPI/x",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite an exact path",
        rule(f"- match: [{{uri: {{exact: /a}}}}]\n  rewrite: {{uri: /b}}\n  {V1}"),
        Expected(path="/b?q"),
        "http://HOST/a?q",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite a regex path",
        rule(f"- match: [{{uri: {{regex: '/a.*'}}}}]\n  rewrite: {{uri: /b}}\n  {V1}"),
        Expected(path="/b?q"),
        "http://HOST/aaa?q",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite everything",
        rule(f"- rewrite: {{uri: /b}}\n  {V1}"),
        Expected(path="/ba?q"),
        "http://HOST/a?q",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "regex rewrite",
        rule(f"- rewrite: {{uriRegexRewrite: {{match: '^/([a-z]+)/(.*)$', rewrite: '/\\2/\\1'}}}}\n  {V1}"),
        Expected(path="/tail/head?q"),
        "http://HOST/head/tail?q",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "regex rewrite everywhere",
        rule(f"- rewrite: {{uriRegexRewrite: {{match: 'a', rewrite: 'bb'}}}}\n  {V1}"),
        Expected(path="/bb/bbx?a"),
        "http://HOST/a/ax?a",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "regex rewrite without a match",
        rule(f"- rewrite: {{uriRegexRewrite: {{match: 'zzz', rewrite: 'b'}}}}\n  {V1}"),
        Expected(path="/a", sent={"x-envoy-original-path": "/a"}),
        "http://HOST/a",
        grpc=Lacks.REWRITE,
    ),
    Case(
        "rewrite the host only",
        rule(f"- rewrite: {{authority: other.example:8080}}\n  {V1}"),
        Expected(path="/a?b", host="other.example:8080"),
        "http://HOST/a?b",
        grpc=Lacks.REWRITE,
    ),
]


def redirected(
    name: str, redirect: str, location: str, url: str = "http://HOST/a?q=1", status: int = 301, match: str = ""
) -> Case:
    prefix = f"match: [{match}]\n  " if match else ""
    host = Case(name, "", Expected()).host
    return Case(
        name,
        rule(f"- {prefix}redirect: {{{redirect}}}"),
        Expected(status, received={"location": location.replace("HOST", host)}, attempts=0),
        url,
        grpc=Lacks.REDIRECT,
    )


REDIRECTS = [
    redirected(
        "redirect", "uri: /new, authority: other.example, redirectCode: 307", "http://other.example/new?q=1", status=307
    ),
    redirected("redirect the path", "uri: /new", "http://HOST/new?q=1"),
    redirected("redirect the path with a query", "uri: '/new?r=2'", "http://HOST/new?r=2"),
    redirected(
        "redirect the host", "authority: other.example, redirectCode: 302", "http://other.example/a?q=1", status=302
    ),
    redirected("redirect the scheme", "scheme: https, redirectCode: 308", "https://HOST/a?q=1", status=308),
    redirected("redirect the scheme of a port", "scheme: https", "https://HOST:8081/a", "http://HOST:8081/a"),
    redirected("redirect to a port", "port: 8080", "http://HOST:8080/a?q=1"),
    redirected("redirect from a port to a port", "port: 8080", "http://HOST:8080/a", "http://HOST:8081/a"),
    redirected("redirect to the default port", "port: 80", "http://HOST:8081/a", "http://HOST:8081/a"),
    redirected("redirect to the port of the scheme", "scheme: https, port: 443", "https://HOST/a?q=1"),
    redirected(
        "redirect to the request port",
        "derivePort: FROM_REQUEST_PORT, authority: other.example",
        "http://other.example:8081/a",
        "http://HOST:8081/a",
    ),
    redirected(
        "redirect to the protocols port",
        "derivePort: FROM_PROTOCOL_DEFAULT, authority: other.example",
        "http://other.example/a",
        "http://HOST:8081/a",
    ),
    redirected("redirect what matched", "uri: /new", "http://HOST/new?q=1", match="{uri: {prefix: /a}}"),
    redirected("redirect 303", "uri: /new, redirectCode: 303", "http://HOST/new?q=1", status=303),
    Case(
        "direct response",
        rule("- directResponse: {status: 418, body: {string: short and stout}}"),
        Expected(418, body="short and stout", attempts=0),
        grpc=Lacks.DIRECT,
    ),
    Case(
        "direct response in bytes",
        rule("- directResponse: {status: 200, body: {bytes: aGVsbG8=}}"),
        Expected(200, grpc="UNKNOWN", body="hello", attempts=0),
        grpc=Lacks.DIRECT,
    ),
    Case(
        "direct response without body",
        rule("- directResponse: {status: 503}"),
        Expected(503, body="", attempts=0, received={"content-type": None}),
        grpc=Lacks.DIRECT,
    ),
    Case(
        "direct response to head",
        rule("- directResponse: {status: 200, body: {string: hello}}"),
        Expected(200, grpc="UNKNOWN", body="", attempts=0, received={"content-length": "5"}),
        method="HEAD",
        grpc=Lacks.DIRECT,
        wire=True,
    ),
]

"""Which route a request takes, and where it leads."""

from table_case import Case, Differs, Expected, Lacks
from table_rows import ANYWHERE, FIRST, SECOND, V1, V2, matching, rule, split

PREFIX = matching("{uri: {prefix: /api/}}")
EXACT = matching("{uri: {exact: /Api/Get}}")
NOCASE = matching("{uri: {exact: /Api/Get}, ignoreUriCase: true}")
NOCASE_PREFIX = matching("{uri: {prefix: /Api}, ignoreUriCase: true}")
REGEX = matching("{uri: {regex: '/v[0-9]+/.*'}}")
HEADER = matching("{headers: {end-user: {exact: jason}}}")
PRESENT = matching("{headers: {x-canary: {}}}")
HEADER_PREFIX = matching("{headers: {user-agent: {prefix: 'curl/'}}}")
HEADER_REGEX = matching("{headers: {cookie: {regex: '(.*; ?)?user=jason(;.*)?'}}}")
WITHOUT = matching("{withoutHeaders: {end-user: {exact: jason}}}")
WITHOUT_ANY = matching("{withoutHeaders: {end-user: {}}}")
QUERY = matching("{queryParams: {version: {exact: '2'}}}")
QUERY_PRESENT = matching("{queryParams: {debug: {}}}")
QUERY_REGEX = matching(r"{queryParams: {version: {regex: '\\d+'}}}".replace("\\\\", "\\"))
METHOD = matching("{method: {exact: PUT}}")
SCHEME = matching("{scheme: {exact: http}}")
AUTHORITY = rule(f"- match: [{{authority: {{exact: beta.HOST.example}}}}]\n  {V2}\n- {V1}", "['*.HOST.example']")
AND = matching("{uri: {prefix: /a}, headers: {k: {exact: v}}}")
OR = matching("{uri: {prefix: /a}}, {headers: {k: {exact: v}}}")
LABELS = matching("{sourceLabels: {app: caller}}")
OTHER_LABELS = matching("{sourceLabels: {app: batch}}")
MY_NAMESPACE = matching("{sourceNamespace: NAMESPACE}")
OTHER_NAMESPACE = matching("{sourceNamespace: elsewhere}")
PORT = matching("{port: 8081}")

MATCHES = [
    Case("no rule", "", Expected(by=ANYWHERE, attempts=1, path="/")),
    Case("prefix", PREFIX, SECOND, "http://HOST/api/x"),
    Case("prefix is not met", PREFIX, FIRST, "http://HOST/api"),
    Case("prefix with a query", PREFIX, SECOND, "http://HOST/api/?a=/b", grpc=Lacks.URL),
    Case("exact", EXACT, SECOND, "http://HOST/Api/Get"),
    Case("exact leaves the query out", EXACT, SECOND, "http://HOST/Api/Get?q=1", grpc=Lacks.URL),
    Case("exact minds case", EXACT, FIRST, "http://HOST/api/Get"),
    Case("exact minds a slash", EXACT, FIRST, "http://HOST/Api/Get/"),
    Case("exact without case", NOCASE, SECOND, "http://HOST/aPI/gET"),
    Case("prefix without case", NOCASE_PREFIX, SECOND, "http://HOST/aPI/X"),
    Case("regex", REGEX, SECOND, "http://HOST/v12/x"),
    Case("regex matches all or nothing", REGEX, FIRST, "http://HOST/x/v12/x"),
    Case(
        "regex leaves the query out",
        matching("{uri: {regex: '.*/end'}}"),
        SECOND,
        "http://HOST/end?x",
        grpc=Lacks.URL,
    ),
    Case("header", HEADER, SECOND, headers=(("End-User", "jason"),)),
    Case("header differs", HEADER, FIRST, headers=(("end-user", "Jason"),)),
    Case("header is absent", HEADER, FIRST),
    Case("header presence", PRESENT, SECOND, headers=(("x-canary", ""),)),
    Case("header absence", PRESENT, FIRST),
    Case("header prefix", HEADER_PREFIX, SECOND, headers=(("user-agent", "curl/8"),), grpc=Lacks.HTTP),
    Case("header regex", HEADER_REGEX, SECOND, headers=(("cookie", "a=b; user=jason; c=d"),)),
    Case("header regex is whole", HEADER_REGEX, FIRST, headers=(("cookie", "user=jasons"),)),
    Case(
        "one of two header lines",
        HEADER,
        SECOND,
        headers=(("end-user", "ann"), ("end-user", "jason")),
        grpc=Lacks.REPEATED,
    ),
    Case(
        "the comma of two header lines",
        matching("{headers: {end-user: {exact: 'ann,jason'}}}"),
        FIRST,
        headers=(("end-user", "ann"), ("end-user", "jason")),
        grpc=Lacks.REPEATED,
    ),
    Case("without header", WITHOUT, FIRST, headers=(("end-user", "jason"),)),
    Case("without header another value", WITHOUT, SECOND, headers=(("end-user", "ann"),)),
    Case("without header none", WITHOUT, SECOND),
    Case("without header of any value none", matching("{withoutHeaders: {end-user: {regex: '.*'}}}"), FIRST),
    Case(
        "without two headers",
        matching("{withoutHeaders: {a: {exact: x}, b: {prefix: y}}}"),
        SECOND,
        headers=(("b", "x"),),
    ),
    Case(
        "without two headers one",
        matching("{withoutHeaders: {a: {exact: x}, b: {prefix: y}}}"),
        FIRST,
        headers=(("b", "y"),),
    ),
    Case("without header any", WITHOUT_ANY, FIRST, headers=(("end-user", "x"),)),
    Case("without header any none", WITHOUT_ANY, SECOND),
    Case("query", QUERY, SECOND, "http://HOST/?a=b&version=2", grpc=Lacks.QUERY),
    Case("query differs", QUERY, FIRST, "http://HOST/?version=22", grpc=Lacks.QUERY),
    Case("query present", QUERY_PRESENT, SECOND, "http://HOST/?debug", grpc=Lacks.QUERY),
    Case("query regex", QUERY_REGEX, SECOND, "http://HOST/?version=22", grpc=Lacks.QUERY),
    Case(
        "query is not decoded",
        matching("{queryParams: {q: {exact: 'a b'}}}"),
        FIRST,
        "http://HOST/?q=a%20b",
        grpc=Lacks.QUERY,
    ),
    Case("query first of equal names", QUERY, FIRST, "http://HOST/?version=1&version=2", grpc=Lacks.QUERY),
    Case("method", METHOD, SECOND, method="PUT", grpc=Lacks.PSEUDO),
    Case("another method", METHOD, FIRST),
    Case("scheme", SCHEME, SECOND, grpc=Lacks.PSEUDO),
    Case("authority", AUTHORITY, SECOND, "http://beta.HOST.example/", grpc=Lacks.TARGET),
    Case("another authority", AUTHORITY, FIRST, "http://alpha.HOST.example/", grpc=Lacks.AUTHORITY),
    Case(
        "host header chooses no route",
        AUTHORITY,
        FIRST,
        "http://alpha.HOST.example/",
        headers=(("host", "unheard.of"),),
        grpc=Lacks.AUTHORITY,
        envoy=Differs.TARGET,
    ),
    Case("both conditions", AND, SECOND, "http://HOST/a", headers=(("k", "v"),)),
    Case("one of both conditions", AND, FIRST, "http://HOST/a"),
    Case("one of two matches", OR, SECOND, headers=(("k", "v"),)),
    Case("callers labels", LABELS, SECOND),
    Case("another callers labels", OTHER_LABELS, FIRST),
    Case("callers namespace", MY_NAMESPACE, SECOND),
    Case("another namespace", OTHER_NAMESPACE, FIRST),
    Case("port", PORT, SECOND, "http://HOST:8081/"),
    Case("another port", PORT, FIRST, "http://HOST:80/"),
    Case("full name", HEADER, FIRST, "http://HOST.NAMESPACE.svc.cluster.local/"),
    Case("name with namespace", HEADER, FIRST, "http://HOST.NAMESPACE/"),
    Case(
        "host without case",
        HEADER,
        FIRST,
        "http://HOST.Namespace.SVC/".replace("Namespace", "NAMESPACE"),
        grpc=Lacks.AUTHORITY,
    ),
    Case("trailing dot", HEADER, FIRST, "http://HOST.NAMESPACE.svc.cluster.local./", grpc=Lacks.AUTHORITY),
    Case(
        "host of a rule only",
        rule(f"- {V2}", "[HOST.example.com]"),
        SECOND,
        "http://HOST.example.com/",
        grpc=Lacks.PORT,
    ),
    Case(
        "wildcard host",
        rule(f"- {V2}", "['*.HOST.example.com']"),
        SECOND,
        "http://a.b.HOST.example.com/",
        grpc=Lacks.PORT,
    ),
    Case(
        "exact host before wildcard",
        rule(f"- {V1}", "['*.HOST.example.com']")
        + "---\n"
        + rule(f"- {V2}", "[a.HOST.example.com]", name="HOST-exact"),
        SECOND,
        "http://a.HOST.example.com/",
        grpc=Lacks.PORT,
    ),
    Case(
        "first match wins",
        rule(f"- match: [{{uri: {{prefix: /a}}}}]\n  {V1}\n- match: [{{uri: {{prefix: /a/b}}}}]\n  {V2}"),
        FIRST,
        "http://HOST/a/b",
    ),
    Case(
        "no route matches",
        rule(f"- match: [{{uri: {{prefix: /only}}}}]\n  {V1}"),
        Expected(404, grpc="UNAVAILABLE", flags="NR", attempts=0),
    ),
    Case("rule for another port", rule(f"- match: [{{port: 8081}}]\n  {V2}"), Expected(by=ANYWHERE)),
    Case("private rule at home", rule(f"- {V2}", extra="  exportTo: ['.']\n"), SECOND),
    Case(
        "private rule elsewhere",
        rule(f"- {V2}", "[vault.NAMESPACE-secrets.svc.cluster.local]", "  exportTo: ['.']\n").replace(
            "namespace: NAMESPACE}", "namespace: NAMESPACE-secrets}"
        ),
        Expected(by="vault"),
        "http://vault.NAMESPACE-secrets/",
    ),
]

DESTINATIONS = [
    Case("another service", rule("- route: [{destination: {host: ratings}}]"), Expected(by="ratings")),
    Case(
        "another namespaces service",
        rule("- route: [{destination: {host: vault.NAMESPACE-secrets.svc.cluster.local}}]"),
        Expected(by="vault"),
    ),
    Case(
        "destination port",
        rule("- route: [{destination: {host: ratings, port: {number: 8081}}}]"),
        Expected(by="ratings"),
    ),
    Case(
        "no such service",
        rule("- route: [{destination: {host: nowhere}}]"),
        Expected(503, grpc="UNAVAILABLE", flags="NC", attempts=0),
    ),
    Case(
        "no such subset",
        rule("- route: [{destination: {host: reviews, subset: v9}}]"),
        Expected(503, grpc="UNAVAILABLE", flags="NC", attempts=0),
    ),
    Case(
        "no endpoints",
        rule("- route: [{destination: {host: empty, port: {number: 80}}}]"),
        Expected(503, grpc="UNAVAILABLE", flags="UH", attempts=0, body="no healthy upstream"),
    ),
    Case("weight 0 gets nothing", split(0, 100), SECOND),
    Case("weight of an only one", rule("- route: [{destination: {host: reviews, subset: v2}, weight: 0}]"), SECOND),
    Case(
        "delegate",
        rule("- delegate: {name: HOST-more, namespace: NAMESPACE}\n  match: [{uri: {prefix: /a}}]\n" + f"- {V1}")
        + "---\n"
        + rule(f"- match: [{{uri: {{prefix: /a/b}}}}]\n  {V2}", "[]", name="HOST-more"),
        SECOND,
        "http://HOST/a/b",
    ),
]

"""Who may be called, who proves who he is, how calls are shared out, and what only sidecars do."""

import json

from table_case import Case, Expected, Lacks, Reported
from table_rows import ANYWHERE, FIRST, SECOND, V1, V2, rule, split
from table_rows_matches import HEADER

MIRRORED = rule(f"- mirror: {{host: ratings}}\n  mirrorPercentage: {{value: 100}}\n  {V1}")
CORS = rule(
    f"- corsPolicy: {{allowOrigins: [{{exact: 'https://a.example'}}], allowMethods: [GET], maxAge: 1h}}\n  {V1}"
)
ORIGIN = ("origin", "https://a.example")
PREFLIGHT = ("access-control-request-method", "GET")

BESIDE = [
    Case(
        "mirror",
        MIRRORED,
        Expected(by="reviews-v1", mirrored="ratings"),
        method="POST",
        body="b",
        grpc=Lacks.MIRROR,
        wire=True,
    ),
    Case(
        "cors preflight",
        CORS,
        Expected(
            200,
            attempts=0,
            received={
                "access-control-allow-origin": "https://a.example",
                "access-control-allow-methods": "GET",
                "access-control-max-age": "3600",
            },
        ),
        method="OPTIONS",
        headers=(ORIGIN, PREFLIGHT),
        grpc=Lacks.CORS,
        library=Reported.CORS,
    ),
    Case(
        "cors request",
        CORS,
        Expected(by="reviews-v1", received={"access-control-allow-origin": "https://a.example"}),
        headers=(ORIGIN,),
        grpc=Lacks.CORS,
        library=Reported.CORS,
    ),
    Case(
        "cors stranger",
        CORS,
        Expected(by="reviews-v1", received={"access-control-allow-origin": None}),
        headers=(("origin", "https://b.example"),),
        grpc=Lacks.CORS,
    ),
]

STRANGERS = [
    Case(
        "stranger goes out as he is",
        "",
        Expected(by="ratings", host="127.0.0.1:STRANGER", path="/a?b"),
        "http://127.0.0.1:STRANGER/a?b",
        grpc=Lacks.UNKNOWN,
    ),
    Case("port that is not declared", "", Expected(by="ratings"), "http://localhost:STRANGER/", grpc=Lacks.UNKNOWN),
    Case(
        "registry only refuses a stranger",
        "",
        Expected(502, attempts=0),
        "http://127.0.0.1:STRANGER/",
        grpc=Lacks.UNKNOWN,
        registry_only=True,
    ),
    Case(
        "registry only refuses a port",
        "",
        Expected(502, attempts=0),
        "http://HOST:8099/",
        grpc=Lacks.UNKNOWN,
        registry_only=True,
    ),
    Case("registry only knows its own", HEADER, FIRST, grpc=Lacks.UNKNOWN, registry_only=True),
    Case(
        "registry only knows rules",
        rule(f"- {V2}", "[HOST.example.com]"),
        SECOND,
        "http://HOST.example.com/",
        grpc=Lacks.UNKNOWN,
        registry_only=True,
    ),
]

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: secure, namespace: NAMESPACE}
spec: {selector: {matchLabels: {app: secure}}, mtls: {mode: STRICT}}
"""
# Says who called, as mutual TLS proved it.
PROVEN = json.dumps({"name": "secure", "peer": "spiffe://cluster.local/ns/http/sa/caller"})
SECURE = Case("mutual TLS", STRICT, Expected(200, body=PROVEN), "http://secure/", grpc=Lacks.TLS, wire=True)

IDENTITY = [
    SECURE,
    Case(
        "mutual TLS by a rule",
        rule("- match: [{uri: {prefix: /in}}]\n  rewrite: {uri: /}\n  route: [{destination: {host: secure}}]"),
        Expected(200, body=PROVEN),
        "http://HOST/in",
        grpc=Lacks.TLS,
        wire=True,
    ),
]

# Weights of v1 and v2: ``test_shares`` counts who answers.
SPLITS = [
    Case(f"split {first} {second}", split(first, second), Expected(by=ANYWHERE))
    for first, second in ((1, 1), (90, 10), (1, 2), (0, 1))
]

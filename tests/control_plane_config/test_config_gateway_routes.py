"""HTTPRoute and GRPCRoute: what is refused, what has no effect, and who loses a Service to whom."""

import pytest

from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level
from proxyless.control_plane.resources.validation.references import check_references

ROUTE = """\
apiVersion: gateway.networking.k8s.io/VERSION
kind: KIND
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  parentRefs: [PARENT]
  rules:
  - RULE
"""
PARENT = "{group: '', kind: Service, name: reviews, namespace: shop}"
BACKEND = "backendRefs: [{name: reviews, namespace: shop, port: 80}]"
RULE = "spec.rules[0]"


def route(
    rule: str = BACKEND,
    kind: str = "HTTPRoute",
    *,
    name: str = "r",
    namespace: str = "shop",
    parent: str = PARENT,
    version: str = "v1",
) -> str:
    text = ROUTE.replace("VERSION", version).replace("KIND", kind).replace("NAMESPACE", namespace)
    return text.replace("NAME", name).replace("PARENT", parent).replace("RULE", rule)


@pytest.mark.parametrize(
    ("kind", "version"), [("HTTPRoute", "v1"), ("HTTPRoute", "v1beta1"), ("GRPCRoute", "v1")], ids=str
)
def test_versions_are_read(kind: str, version: str) -> None:
    (resource,), problems = parse(route(kind=kind, version=version), "mesh.yaml")
    assert (resource.kind, problems) == (kind, [])
    assert resource.source.line_of("spec.rules[0].backendRefs[0].name") == 7


def test_a_route_without_rules_takes_everything_and_sends_it_nowhere() -> None:
    text = route().partition("  rules:")[0]
    (resource,), _ = parse(text, "mesh.yaml")
    assert len(resource.spec.rules) == 1


def found(text: str, level: Level) -> list[tuple[str, int]]:
    _, problems = parse(text, "mesh.yaml")
    assert {problem.level for problem in problems} <= {level}, [str(problem) for problem in problems]
    return [(problem.field, problem.line) for problem in problems]


FILTERS = f"{RULE}.filters[0]"
MODIFIER = "requestHeaderModifier"
PREFIX = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}"


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("matches: [{path: {value: a}}]", f"{RULE}.matches[0].path.value"),
        ("matches: [{path: {value: /a?b}}]", f"{RULE}.matches[0].path.value"),
        (f"matches: [{{path: {{value: /{'a' * 1024}}}}}]", f"{RULE}.matches[0].path.value"),
        ("matches: [{path: {value: //a}}]", f"{RULE}.matches[0].path.value"),
        ("matches: [{path: {type: Exact, value: /a/../b}}]", f"{RULE}.matches[0].path.value"),
        ("matches: [{path: {type: RegularExpression, value: '('}}]", f"{RULE}.matches[0].path.value"),
        ("matches: [{path: {type: Regex, value: a}}]", f"{RULE}.matches[0].path.type"),
        ("matches: [{method: get}]", f"{RULE}.matches[0].method"),
        ("matches: [{headers: [{name: ':path', value: x}]}]", f"{RULE}.matches[0].headers[0].name"),
        ("matches: [{headers: [{name: a, value: ''}]}]", f"{RULE}.matches[0].headers[0].value"),
        (
            "matches: [{queryParams: [{name: a, type: RegularExpression, value: '['}]}]",
            f"{RULE}.matches[0].queryParams[0].value",
        ),
        ("filters: [{type: RequestHeaderModifier}]", f"{FILTERS}.requestHeaderModifier"),
        ("filters: [{type: URLRewrite, urlRewrite: {}, cors: {}}]", f"{FILTERS}.cors"),
        ("filters: [{type: Unheard}]", f"{FILTERS}.type"),
        (
            f"filters: [{{type: RequestHeaderModifier, {MODIFIER}: {{remove: [Host]}}}}]",
            f"{FILTERS}.{MODIFIER}.remove[0]",
        ),
        (
            f'filters: [{{type: RequestHeaderModifier, {MODIFIER}: {{set: [{{name: a, value: "b\\nc"}}]}}}}]',
            f"{FILTERS}.{MODIFIER}.set[0].value",
        ),
        (
            f"filters: [{', '.join([f'{{type: RequestHeaderModifier, {MODIFIER}: {{}}}}'] * 2)}]",
            f"{RULE}.filters[1]",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}}}]",
            f"{FILTERS}.requestMirror.backendRef.port",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 101}}]",
            f"{FILTERS}.requestMirror.percent",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
            f"{FILTERS}.requestRedirect.statusCode",
        ),
        ("filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]", f"{FILTERS}.requestRedirect.scheme"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath}}}]",
            f"{FILTERS}.requestRedirect.path.replaceFullPath",
        ),
        (f"filters: [{{type: RequestRedirect, requestRedirect: {{}}}}]\n    {BACKEND}", f"{RULE}.backendRefs"),
        (f"filters: [{PREFIX}]\n    matches: [{{path: {{type: Exact, value: /a}}}}]", FILTERS),
        (f"filters: [{PREFIX}]\n    matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}]", FILTERS),
        ("backendRefs: [{name: a}]", f"{RULE}.backendRefs[0].port"),
        ("backendRefs: [{name: A_b, port: 80}]", f"{RULE}.backendRefs[0].name"),
        ("backendRefs: [{name: a, port: 80, weight: -1}]", f"{RULE}.backendRefs[0].weight"),
        (
            "backendRefs: [{name: a, port: 80, filters: [{type: CORS, cors: {}}]}]",
            f"{RULE}.backendRefs[0].filters[0]",
        ),
        (
            f"backendRefs: [{{name: a, port: 80}}, {{name: b, port: 80, filters: [{PREFIX}]}}]",
            f"{RULE}.backendRefs[1].filters[0]",
        ),
        ("timeouts: {request: 10}", f"{RULE}.timeouts.request"),
        ("timeouts: {request: 1s, backendRequest: 2s}", f"{RULE}.timeouts.backendRequest"),
        ("retry: {codes: [200]}", f"{RULE}.retry.codes[0]"),
        ("retry: {attempts: -1}", f"{RULE}.retry.attempts"),
    ],
)
def test_http_routes_that_are_refused(rule: str, field: str) -> None:
    ((at, line),) = found(route(rule), Level.ERROR)
    assert at == field
    assert line in (7, 8)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("matches: [{method: {}}]", f"{RULE}.matches[0].method"),
        (f"matches: [{{method: {{service: {'a' * 600}, method: {'b' * 600}}}}}]", f"{RULE}.matches[0].method"),
        ("matches: [{method: {service: a/b}}]", f"{RULE}.matches[0].method.service"),
        ("matches: [{method: {method: a.b}}]", f"{RULE}.matches[0].method.method"),
        ("matches: [{method: {type: RegularExpression, method: '('}}]", f"{RULE}.matches[0].method.method"),
        ("matches: [{path: {value: /}}]", f"{RULE}.matches[0].path"),
        ("filters: [{type: URLRewrite}]", f"{FILTERS}.type"),
        ("timeouts: {request: 1s}", f"{RULE}.timeouts"),
    ],
)
def test_grpc_routes_that_are_refused(rule: str, field: str) -> None:
    ((at, line),) = found(route(rule, "GRPCRoute"), Level.ERROR)
    assert (at, line) == (field, 7)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (route(parent="{name: gw}"), "spec.parentRefs[0]"),
        (route(parent="{group: networking.istio.io, kind: ServiceEntry, name: x}"), "spec.parentRefs[0]"),
        (route().replace("parentRefs: [", "parentRefs: [] # "), "spec.parentRefs"),
        (route().replace("  rules:", "  hostnames: [a.example.com]\n  rules:"), "spec.hostnames"),
        (route("sessionPersistence: {sessionName: a}"), f"{RULE}.sessionPersistence"),
        (route("sessionPersistence: {type: Header}", "GRPCRoute"), f"{RULE}.sessionPersistence"),
        (route("filters: [{type: CORS, cors: {}}]"), f"{FILTERS}.cors"),
        (
            route("filters: [{type: RequestMirror, requestMirror: {backendRef: {group: a.b, kind: C, name: d}}}]"),
            f"{FILTERS}.requestMirror.backendRef",
        ),
        (
            route("filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]"),
            f"{FILTERS}.extensionRef",
        ),
        (route("backendRefs: [{group: a.b, kind: Bucket, name: d}]"), f"{RULE}.backendRefs[0]"),
    ],
)
def test_what_has_no_effect_is_said(text: str, field: str) -> None:
    assert [at for at, line in found(text, Level.WARNING) if line >= 5] == [field]


WORLD = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{port: 80}]}
---
"""
VS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: shop}
spec: {hosts: [reviews], MOREhttp: [{route: [{destination: {host: reviews}}]}]}
"""
OTHER_PORT = PARENT.replace("}", ", port: 81}")
VS_LOSES = ("VirtualService", "ConflictingMeshGatewayVirtualServiceHosts", "spec.hosts")
ROUTE_LOSES = ("HTTPRoute", "ConflictingMeshGatewayVirtualServiceHosts", "spec.parentRefs[0]")


def vs(name: str = "z", more: str = "") -> str:
    return VS.replace("NAME", name).replace("MORE", more)


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([route()], []),
        ([route("backendRefs: [{name: nobody, port: 80}]")],
         [("HTTPRoute", "ReferencedResourceNotFound", f"{RULE}.backendRefs[0].name")]),
        ([route(parent=PARENT.replace("reviews", "nobody"))],
         [("HTTPRoute", "ReferencedResourceNotFound", "spec.parentRefs[0].name")]),
        ([route(), route(name="s")], []),
        ([route(), route(namespace="client")], []),
        ([route(), route(kind="GRPCRoute")], [("HTTPRoute", "Conflicted", "spec.parentRefs[0]")]),
        ([route(), route(kind="GRPCRoute", parent=OTHER_PORT)], [("HTTPRoute", "Conflicted", "spec.parentRefs[0]")]),
        ([route(parent=PARENT.replace("}", ", port: 80}")), route(kind="GRPCRoute", parent=OTHER_PORT)], []),
        ([route(), route(kind="GRPCRoute", namespace="client")], []),
        # As old as each other: by name.
        ([route(), vs("z")], [VS_LOSES]),
        ([route(), vs("a")], [VS_LOSES, ROUTE_LOSES]),
        ([route(), vs("a", "exportTo: [.], ")], [ROUTE_LOSES]),
        ([route(namespace="client"), vs("a")], [VS_LOSES]),
        ([route(namespace="client"), vs("a", "exportTo: [.], ")], []),
        ([route(namespace="client"), vs("a", "exportTo: [client], ")], [ROUTE_LOSES]),
        ([route(), vs("a", "gateways: [gw], ")], []),
    ],
)  # fmt: skip
def test_what_is_attached_to_nothing_or_loses_is_said(
    documents: list[str], expected: list[tuple[str, str, str]]
) -> None:
    resources, problems = parse(WORLD + "\n---\n".join(documents), "mesh.yaml")
    assert not [problem for problem in problems if problem.level is Level.ERROR]
    found = check_references({resource.key: resource for resource in resources})
    assert all(problem.level is Level.WARNING and problem.line for problem in found)
    assert sorted((one.kind, one.code, one.field) for one in found) == sorted(expected)

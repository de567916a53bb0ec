"""HTTPRoute and GRPCRoute in the mesh: which of them act, in which order, and what becomes of what is not there."""

from typing import Any

import pytest
from translate_world import ENVOY, GRPC, LIBRARY, destinations, fields, get, notes, routes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.discovery.route_rules import read_rules
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: http, port: 80}]}
---
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: KIND
metadata: {name: NAME, namespace: NAMESPACE, creationTimestamp: "CREATED"}
spec:
  parentRefs: [PARENT]
  rules: RULES
---
"""
PARENT = "{group: '', kind: Service, name: reviews, namespace: default}"
TARGET = "reviews.default.svc.cluster.local:80"
TO = "{backendRefs: [{name: ratings, namespace: default, port: 80}]}"
REVIEWS, RATINGS = (f"outbound|80||{name}.default.svc.cluster.local" for name in ("reviews", "ratings"))


def route(
    rules: str = f"[{TO}]",
    kind: str = "HTTPRoute",
    *,
    name: str = "r",
    namespace: str = "default",
    parent: str = PARENT,
    created: str = "2026-01-01T00:00:00Z",
) -> str:
    text = ROUTE.replace("KIND", kind).replace("NAMESPACE", namespace).replace("NAME", name)
    return text.replace("CREATED", created).replace("PARENT", parent).replace("RULES", rules)


def translator(*documents: str) -> Translator:
    return Translator(world(SERVICES + "".join(documents), workload("reviews")))


def rule_order(text: str) -> list[str]:
    """The names of rules as they are tried."""
    resources, problems = parse(text, "routes.yaml")
    assert not problems
    rules = [rule for resource in resources for rule in read_rules(resource, "cluster.local")]
    return [rule.http.name for rule in sorted(rules, key=lambda rule: rule.rank)]


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("HTTPRoute", "path: {type: Exact, value: /a}", "path: {value: /a/b/c}"),
        ("HTTPRoute", "path: {value: /aa}", "path: {value: /a}"),
        ("HTTPRoute", "path: {value: /a}", "path: {type: RegularExpression, value: /a.b.c.d}"),
        ("HTTPRoute", "path: {type: RegularExpression, value: /aa}", "path: {type: RegularExpression, value: /a}"),
        ("HTTPRoute", "path: {type: RegularExpression, value: /a}", "path: {value: /}"),
        ("HTTPRoute", "path: {value: /a}", "method: GET, headers: [{name: a, value: b}]"),
        ("HTTPRoute", "method: GET", "headers: [{name: a, value: b}]"),
        ("HTTPRoute", "headers: [{name: a, value: b}]", "queryParams: [{name: a, value: b}, {name: c, value: d}]"),
        ("HTTPRoute", "queryParams: [{name: a, value: b}]", "path: {value: /}"),
        # Of two conditions on one header the first counts, and they count as one.
        ("HTTPRoute", "headers: [{name: a, value: b}, {name: c, value: d}]",
         "headers: [{name: a, value: b}, {name: A, value: c}, {name: a, value: d}]"),
        ("GRPCRoute", "method: {service: a.Longer}", "method: {service: a.B, method: LongMethod}"),
        ("GRPCRoute", "method: {service: a.B, method: Get}", "method: {service: a.B}"),
        ("GRPCRoute", "method: {service: a}", "method: {method: Get}"),
        ("GRPCRoute", "method: {service: a}", "method: {type: RegularExpression, service: aaa.*}"),
        ("GRPCRoute", "method: {type: RegularExpression, service: a}", "headers: [{name: a, value: b}]"),
        ("GRPCRoute", "headers: [{name: a, value: b}]", ""),
    ],
)  # fmt: skip
def test_what_is_more_specific_comes_first(kind: str, first: str, second: str) -> None:
    for one, two in ((first, second), (second, first)):
        names = {first: "first", second: "second"}
        rules = [f"{{name: {names[each]}, matches: [{{{each}}}]}}" for each in (one, two)]
        assert rule_order(route(f"[{', '.join(rules)}]", kind)) == ["first", "second"]
        both = [route(f"[{rule}]", kind, name=name) for rule, name in zip(rules, ("a", "b"), strict=True)]
        assert rule_order("".join(both)) == ["first", "second"]


def test_of_equals_the_older_comes_first_then_the_name_then_the_first_rule() -> None:
    rules = "[{name: NAME-1, matches: [{path: {value: /a}}, {path: {value: /a}}]}, {name: NAME-2}]"
    texts = [
        route(rules.replace("NAME", "b"), name="b"),
        route(rules.replace("NAME", "old"), name="z", created="2020-01-01T00:00:00Z"),
        route(rules.replace("NAME", "a"), name="a"),
    ]
    expected = ["old-1", "old-1", "a-1", "a-1", "b-1", "b-1", "old-2", "a-2", "b-2"]
    assert rule_order("".join(texts)) == expected


CLIENT = Client(node_id="elsewhere", namespace="client")
PRODUCER, CONSUMER = route("[{name: producer}]"), route("[{name: consumer}]", namespace="client")
VS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: default, creationTimestamp: "2025-01-01T00:00:00Z"}
spec: {hosts: [reviews], MOREhttp: [{name: vs, route: [{destination: {host: reviews}}]}]}
---
"""
OLDER = VS.replace("NAME", "v").replace("MORE", "")
YOUNGER = OLDER.replace("2025", "2027")
PRIVATE = VS.replace("NAME", "v").replace("MORE", "exportTo: [default, client], ")
ON_81 = PARENT.replace("}", ", port: 81}")


@pytest.mark.parametrize(
    ("documents", "at_home", "elsewhere"),
    [
        ([PRODUCER], "producer", "producer"),
        ([CONSUMER], "default", "consumer"),
        ([PRODUCER, CONSUMER], "producer", "consumer"),
        ([route("[{name: third}]", namespace="third")], "default", "default"),
        ([route("[{name: r}]", parent=ON_81)], "default", "default"),
        ([PRODUCER, route("[{name: r}]", namespace="client", parent=ON_81)], "producer", "producer"),
        ([PRODUCER, route("[{name: grpc}]", "GRPCRoute")], "grpc", "grpc"),
        ([PRODUCER, route("[{name: grpc}]", "GRPCRoute", namespace="client")], "producer", "grpc"),
        ([PRODUCER, OLDER], "producer", "vs"),
        ([PRODUCER, YOUNGER], "producer", "producer"),
        ([CONSUMER, OLDER], "vs", "consumer"),
        ([PRODUCER, CONSUMER, PRIVATE.replace("2025", "2027")], "vs", "vs"),
        ([PRODUCER, OLDER.replace("[reviews]", "['*.svc.cluster.local']")], "producer", "producer"),
        ([PRODUCER, OLDER.replace("http: [{name: vs, route:", "tcp: [{route:")], "producer", "producer"),
    ],
)
def test_who_acts_for_whom(documents: list[str], at_home: str, elsewhere: str) -> None:
    made = translator(*documents)
    assert [one.name for one in routes(made, TARGET)] == [at_home]
    assert [one.name for one in routes(made, TARGET, CLIENT)] == [elsewhere]


def test_a_port_by_its_number_and_by_its_name() -> None:
    target = TARGET.replace(":80", ":81")
    for parent in (ON_81, PARENT.replace("}", ", sectionName: http-b}"), PARENT):
        made = translator(route(parent=parent))
        assert destinations(routes(made, target)[0]) == {RATINGS: 1}
    made = translator(route(parent=PARENT.replace("}", ", sectionName: http}")))
    assert routes(made, target)[0].name == "default"


def test_what_is_attached_but_empty_matches_nothing() -> None:
    (only,) = routes(translator(route("[]")), TARGET)
    assert only.direct_response.status == 404


@pytest.mark.parametrize(("kind", "status"), [("HTTPRoute", 500), ("GRPCRoute", 503)])
def test_the_share_of_a_missing_backend_is_answered(kind: str, status: int) -> None:
    refs = "[{name: ratings, port: 80, weight: 1}, {name: nobody, port: 80, weight: 2}, {name: ratings, port: 9}]"
    made = translator(route(f"[{{backendRefs: {refs}}}]", kind))
    for client in (LIBRARY, ENVOY, GRPC):
        found = get(made, client, type_urls.ROUTE, TARGET)
        lost, kept = found.virtual_hosts[0].routes
        assert lost.match.runtime_fraction.default_value.numerator == 750_000
        assert lost.direct_response.status == status
        assert destinations(kept) == {RATINGS: 1}
        assert not kept.match.HasField("runtime_fraction")
        said = notes(made, client, type_urls.ROUTE, TARGET)
        assert any("nobody" in note and "no port 9" in note and str(status) in note for note in said)


def test_a_backend_that_comes_is_used() -> None:
    rules = "[{backendRefs: [{name: later, port: 80}]}]"
    (lost,) = routes(translator(route(rules)), TARGET)
    assert lost.direct_response.status == 500
    (kept,) = routes(translator(route(rules), SERVICES.split("---")[1].replace("ratings", "later")), TARGET)
    assert destinations(kept) == {"outbound|80||later.default.svc.cluster.local": 1}


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("{backendRefs: [{name: ratings, port: 80, weight: 0}]}", 500),
        ("{name: nowhere}", 404),
        ("{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], backendRefs: "
         "[{name: ratings, port: 80}]}", 500),
        ("{backendRefs: [{group: a.b, kind: C, name: ratings, port: 80}]}", 500),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_answered_with_an_error(rule: str, status: int) -> None:
    (only,) = routes(translator(route(f"[{rule}]")), TARGET)
    assert only.direct_response.status == status


def test_mirrors_of_a_rule_and_of_its_only_backend() -> None:
    def mirror(to: str, share: str) -> str:
        return f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}"

    rule = (
        f"{{filters: [{mirror('reviews', '')}, {mirror('nobody', '')}], backendRefs: "
        f"[{{name: ratings, port: 80, filters: [{mirror('ratings', ', fraction: {numerator: 1, denominator: 8}')}]}}]}}"
    )
    (only,) = routes(translator(route(f"[{rule}]")), TARGET, ENVOY)
    shares = [(one.cluster, one.runtime_fraction.default_value.numerator) for one in only.route.request_mirror_policies]
    assert shares == [(REVIEWS, 1_000_000), (RATINGS, 125_000)]


def test_cors_is_for_envoys() -> None:
    cors = "{allowOrigins: ['https://*.example.com', 'http://a'], allowMethods: [GET], maxAge: 7}"
    made = translator(
        route(f"[{{filters: [{{type: CORS, cors: {cors}}}], backendRefs: [{{name: ratings, port: 80}}]}}]")
    )
    assert "envoy.filters.http.cors" in routes(made, TARGET, ENVOY)[0].typed_per_filter_config
    assert not routes(made, TARGET)[0].typed_per_filter_config


def test_grpc_takes_prefixes_of_segments_as_regexes() -> None:
    rules = "[{matches: [{path: {value: /a.b}}], backendRefs: [{name: ratings, port: 80}]}]"
    made = translator(route(rules))
    assert routes(made, TARGET)[0].match.path_separated_prefix == "/a.b"
    assert routes(made, TARGET, GRPC)[0].match.safe_regex.regex == r"\/a\.b(?:/.*)?"


def test_a_route_says_where_it_is_written() -> None:
    (only,) = routes(translator(route(f"[{TO}]", "GRPCRoute")), TARGET)
    assert fields(only.metadata, "proxyless")["origin"] == "GRPCRoute default/r rules[0]"
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/grpc-route/r"
    assert fields(only.metadata, "istio")["config"] == path


SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: client}
spec: {egress: [{hosts: [HOSTS]}]}
---
"""


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("default/reviews.default.svc.cluster.local", {RATINGS: 1}),
        ("'*/*'", {RATINGS: 1}),
        ("'client/*'", None),
    ],
)
def test_a_sidecar_imports_routes_and_knows_their_backends(hosts: str, expected: dict[str, int] | None) -> None:
    made = translator(route(), SIDECAR.replace("HOSTS", hosts))
    found: list[Any] = routes(made, TARGET, CLIENT)
    assert (destinations(found[0]) if found else None) == expected


@pytest.mark.parametrize("namespace", ["default", "client"])
@pytest.mark.parametrize("sidecar", ["", SIDECAR.replace("HOSTS", "'*/reviews.default.svc.cluster.local'")])
def test_an_envoy_has_the_clusters_of_backends_that_only_a_wildcard_declares(namespace: str, sidecar: str) -> None:
    wildcard = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: all}
spec: {hosts: ['*.legacy.svc.cluster.local'], ports: [{number: 80, name: http, protocol: HTTP}]}
---
"""
    backend = "[{backendRefs: [{name: old, namespace: legacy, port: 80}]}]"
    found = translator(wildcard, route(backend, namespace=namespace), sidecar)
    client = Client(ENVOY.kind, namespace=namespace)
    sent_to = {
        one.route.cluster
        for host in get(found, client, type_urls.ROUTE, "http_proxy").virtual_hosts
        for one in host.routes
        if one.HasField("route")
    }
    assert "outbound|80||old.legacy.svc.cluster.local" in sent_to
    assert sent_to <= found.resources(client, type_urls.CLUSTER, ["*"]).keys()

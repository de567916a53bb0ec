"""Text to resources: what is accepted, what is refused and how it is said."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyless.control_plane.resources import yaml_tree
from proxyless.control_plane.resources.base import format_duration, parse_duration
from proxyless.control_plane.resources.parse import documents, parse
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.render import to_document
from proxyless.control_plane.resources.resource import Key
from proxyless.control_plane.resources.yaml_tree import TreeError

VIRTUAL_SERVICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec:\n  ports: [{port: 80}]\n"


def service(name: str) -> str:
    return SERVICE.replace("NAME", name)


def only(text: str) -> Problem:
    resources, problems = parse(text, "mesh.yaml")
    assert not resources
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_istio_version_is_read(version: str) -> None:
    resources, problems = parse(VIRTUAL_SERVICE.replace("/v1", f"/{version}"), "mesh.yaml")
    assert not problems
    assert [resource.key for resource in resources] == [Key("VirtualService", "default", "reviews")]
    assert resources[0].spec.http[0].route[0].destination.host == "reviews"


def test_a_resource_knows_where_each_field_is() -> None:
    (resource,), _ = parse(f"# a comment\n---\n{VIRTUAL_SERVICE}", "mesh.yaml")
    assert resource.source.file == "mesh.yaml"
    assert resource.source.line == 3
    assert resource.source.line_of("spec.http[0].route[0].destination.host") == 12
    # An absent field is reported at its nearest parent.
    assert resource.source.line_of("spec.http[0].timeout") == 10


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "words"),
    [
        ("  - route:", "  - rout:", "UnknownField", 8, "spec.http[0].rout: unknown field; did you mean route?"),
        ("  hosts:", "  host:", "UnknownField", 6, "spec.host: unknown field; did you mean hosts?"),
        ("  - route:", "  - per_try: 1\n    route:", "UnknownField", 8, "known here: corsPolicy"),
        ("  - route:", "  - timeout: 5\n    route:", "SchemaValidationError", 8, "a duration needs a unit"),
        ("  - route:", "  - timeout: 5 s\n    route:", "SchemaValidationError", 8, "not a duration"),
        (
            "host: reviews",
            "host: no",
            "SchemaValidationError",
            10,
            "write it in quotes, for YAML reads yes, no, on and",
        ),
        ("  name: reviews", "  name:", "InvalidName", 4, "metadata.name: is required"),
        ("host: reviews", "host: 5", "SchemaValidationError", 10, 'must be a text; write "5" in quotes'),
        ("[reviews]", "reviews", "SchemaValidationError", 6, "spec.hosts: must be a list"),
        ("networking.istio.io/v1", "networking.istio.io/v2", "SchemaValidationError", 1, "use networking.istio.io/v1"),
        ("  name: reviews", "  name: Reviews", "InvalidName", 4, "metadata.name: must be a DNS-1123 name"),
        ("  name: reviews", "  nam: reviews", "UnknownField", 4, "metadata.nam"),
        ("spec:", "status: {}\nspce:", "UnknownField", 6, "spce: unknown field"),
        ("metadata:", "kind: VirtualService\nmetadata:", "InvalidYaml", 3, '"kind" appears twice'),
        ("        host: reviews", "      host: [", "InvalidYaml", 11, "not valid YAML"),
        ("        host: reviews", "      *nobody : x", "InvalidYaml", 10, ""),
    ],
)
def test_faults_are_named_with_line_and_remedy(old: str, new: str, code: str, line: int, words: str) -> None:
    assert old in VIRTUAL_SERVICE
    _, problems = parse(VIRTUAL_SERVICE.replace(old, new, 1), "mesh.yaml")
    found = [problem for problem in problems if problem.code == code]
    assert found, [str(problem) for problem in problems]
    assert found[0].level is Level.ERROR
    assert found[0].line == line
    assert words in str(found[0])


def test_a_faulty_document_is_refused_alone() -> None:
    text = "\n---\n".join([service("a"), "a: [", VIRTUAL_SERVICE.replace("route:", "rout:"), service("b"), "- 1", ""])
    resources, problems = parse(text, "mesh.yaml")
    assert [resource.name for resource in resources] == ["a", "b"]
    assert {problem.code for problem in problems} == {"InvalidYaml", "UnknownField"}


@pytest.mark.parametrize(
    ("document", "code", "level"),
    [
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}", "KindNotRead", Level.INFO),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: b}", "KindNotRead", Level.INFO),
        ("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}", "KindNotRead", Level.INFO),
        ("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: x}", "KindNotActedOn", Level.WARNING),
        ("apiVersion: telemetry.istio.io/v1\nkind: Telemetry", "KindNotActedOn", Level.WARNING),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute", "KindNotActedOn", Level.WARNING),
    ],
)
def test_other_kinds_are_skipped_and_said_to_be(document: str, code: str, level: Level) -> None:
    problem = only(document)
    assert (problem.code, problem.level) == (code, level)


@pytest.mark.parametrize("document", ["kind: Service", "apiVersion: v1\nmetadata: {name: x}", "5", "- 1", "just text"])
def test_a_document_that_does_not_say_what_it_is_is_an_error(document: str) -> None:
    assert all(problem.level is Level.ERROR for problem in parse(document, "mesh.yaml")[1])
    assert [found.key for found in documents(document, "mesh.yaml")] == [None]


@pytest.mark.parametrize("text", ["", "---", "---\n---\n", "# nothing\n", "---\n# nothing\n---\nnull\n"])
def test_empty_documents_are_nothing(text: str) -> None:
    assert parse(text, "mesh.yaml") == ([], [])


def test_a_list_holds_resources() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        "- " + service(name).replace("\n", "\n  ").rstrip() + "\n" for name in ("a", "b", "a")
    )
    resources, problems = parse(text, "mesh.yaml")
    assert [resource.name for resource in resources] == ["a", "b"]
    assert [(problem.code, problem.line) for problem in problems] == [("DuplicateResource", 14)]


def test_json_is_read_with_all_of_its_escapes() -> None:
    text = (
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": {"note": "\\ud83d\\ude00"}},'
        '\n\t"spec": {"ports": [{"port": "80"}]}}'
    )
    (resource,), problems = parse(text, "a.json")
    assert not problems
    assert resource.annotations == {"note": "\U0001f600"}
    assert resource.spec.ports[0].port == 80


def test_namespaces() -> None:
    text = "\n---\n".join(
        [
            service("a"),
            service("b").replace("{name: b}", "{name: b, namespace: books}"),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: books}",
        ]
    )
    resources, problems = parse(text, "mesh.yaml", namespace="shop")
    assert not problems
    assert [resource.key for resource in resources] == [
        Key("Service", "shop", "a"),
        Key("Service", "books", "b"),
        Key("Namespace", "", "books"),
    ]


def test_an_endpoint_slice_has_its_fields_at_the_top() -> None:
    text = (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        "metadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\n"
        "endpoints:\n- addresses: [10.0.0.1]\n  conditions: {ready: true}\nports: [{name: http, port: 80}]\n"
    )
    (resource,), problems = parse(text, "mesh.yaml")
    assert not problems
    assert resource.spec.endpoints[0].conditions.ready is True
    assert resource.source.line_of("endpoints[0].addresses[0]") == 6


def test_mesh_config_is_yaml_in_a_config_map() -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n"
        "    outboundTrafficPolicy:\n      mode: MODE\n    trustDomain: here\n"
    )
    (resource,), problems = parse(text.replace("MODE", "REGISTRY_ONLY"), "mesh.yaml")
    assert resource.spec.outbound_traffic_policy.mode == "REGISTRY_ONLY"
    assert [(problem.code, problem.line) for problem in problems] == [("FieldNotActedOn", 8)]
    problem = only(text.replace("MODE", "NOBODY"))
    assert problem.line == 7
    assert "data.mesh.outboundTrafficPolicy.mode" in problem.message


def test_creation_time_orders_resources() -> None:
    text = service("a").replace("{name: a}", '{name: a, creationTimestamp: "2026-01-01T00:00:00Z"}')
    (resource,), _ = parse(text, "mesh.yaml")
    assert resource.created == 1767225600.0


def test_a_resource_can_be_written_and_read_again() -> None:
    text = "\n---\n".join(
        [
            VIRTUAL_SERVICE.replace(
                "  - route:", "  - timeout: 1m30s\n    match: [{uri: {exact: /}, port: 80}]\n    route:"
            ),
            service("a").replace("{name: a}", "{name: a, labels: {x: y}, creationTimestamp: '2026-01-01T00:00:00Z'}"),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: books}",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nports: [{}]",
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n"
            "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\n"
            "data: {mesh: 'outboundTrafficPolicy: {mode: ALLOW_ANY}'}",
        ]
    )
    resources, _ = parse(text, "mesh.yaml")
    assert len(resources) == 6
    for resource in resources:
        (again,), problems = parse(json.dumps(to_document(resource)), "again.json")
        assert not [problem for problem in problems if problem.level is Level.ERROR]
        assert (again.key, again.spec, again.labels, again.created) == (
            *(resource.key, resource.spec, resource.labels, resource.created),
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 5", 5),
        ("a: '5'", "5"),
        ("a: !!str 5", "5"),
        ("a: 12:30", "12:30"),
        ("a: 2020-01-01", "2020-01-01"),
        ("a: 0x1f", 31),
        ("a: 010", 8),
        ("a: 1e3", 1000.0),
        ("a: yes", True),
        ("a: Off", False),
        ("a: ~", None),
        ("a:", None),
        ("a: &x {b: 1}\n", {"b": 1}),
        ("%YAML 1.2\n# c\n---\na: 1", 1),
        ("x: &x {b: 1, c: 1}\na: {<<: *x, c: 2}", {"b": 1, "c": 2}),
    ],
)
def test_scalars_are_those_of_kubectl(text: str, value: object) -> None:
    ((part, line),) = yaml_tree.split(text)
    (node,) = yaml_tree.read(part, line)
    assert node.data()["a"] == value


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [x]",
        "a: !own x",
        "a: &x [*x]",
        "? [a]\n: b",
        "[" * 10_000,
        "{a: " * 1_000,
        "- " * 2_000 + "x",
        "a: 9" + "9" * 5_000,
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
    ],
    ids=range(9),
)
def test_hostile_yaml_is_refused_within_bounds(text: str) -> None:
    with pytest.raises(TreeError):
        yaml_tree.read(text)
    assert parse(text, "mesh.yaml")[1]


def test_a_text_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_tree, "MAX_TEXT", 100)
    assert "split the file" in only(service("a") * 10).message


def test_a_flood_of_problems_is_cut() -> None:
    _, problems = parse("\n---\n".join(["a: ["] * 1500), "mesh.yaml")
    assert len(problems) == 1001
    assert "500 more" in problems[-1].message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1.5h", 5400),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("0", 0),
        ("0s", 0),
        ("-1s", -1),
        (".5s", 0.5),
        ("1us", 1e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1", "5 s", "1d", "1m-1s", "1e3s", "9" * 100 + "s", "99999999999999h", "١s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


_PIECES = st.sampled_from(
    [
        VIRTUAL_SERVICE,
        service("a"),
        "---\n",
        "kind: ",
        "apiVersion: v1\n",
        "metadata:\n",
        "  name: a\n",
        "spec:\n",
        "- ",
        ": ",
        "*a",
        "&a ",
        "{",
        "}",
        "[",
        "]",
        "|\n",
        "<<: ",
        "null",
        "items:\n",
        "List\n",
        "'",
        '"',
        "\t",
        "...\n",
        "%TAG ",
        "!!str ",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(_PIECES, st.text(max_size=5)), max_size=12).map("".join)))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_raises(text: str) -> None:
    resources, problems = parse(text, "mesh.yaml")
    assert all(isinstance(problem.line, int) and str(problem) for problem in problems)
    assert len({resource.key for resource in resources}) == len(resources)


_NAMES = st.sampled_from(
    [
        "hosts",
        "http",
        "route",
        "match",
        "uri",
        "exact",
        "regex",
        "headers",
        "timeout",
        "retries",
        "attempts",
        "fault",
        "delay",
        "percentage",
        "value",
        "destination",
        "host",
        "weight",
        "ports",
        "port",
        "subsets",
        "name",
        "trafficPolicy",
        "tls",
        "x",
        "endpoints",
        "addresses",
        "mtls",
        "mode",
        "selector",
        "matchLabels",
        "redirect",
        "directResponse",
        "status",
        "body",
    ]
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_KINDS = st.sampled_from(
    [
        ("networking.istio.io/v1", "VirtualService"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("networking.istio.io/v1", "ServiceEntry"),
        ("networking.istio.io/v1", "WorkloadEntry"),
        ("security.istio.io/v1", "PeerAuthentication"),
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("v1", "Service"),
        ("v1", "Namespace"),
    ]
)


@given(_KINDS, _JSON, st.dictionaries(_NAMES, _JSON, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_spec_raises(kind: tuple[str, str], spec: object, top: dict[str, object]) -> None:
    document = {**top, "apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "a"}, "spec": spec}
    resources, problems = parse(json.dumps(document), "a.json")
    assert resources or problems

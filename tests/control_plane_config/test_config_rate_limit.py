"""The annotation for rate limits, and annotations of our own that do nothing."""

import json
from typing import Any

import pytest

from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.rate_limit import RATE_LIMIT, Rate, parse_rates

SPECS: dict[str, dict[str, Any]] = {
    "Service": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80}, {"name": "grpc", "port": 81}]},
    "VirtualService": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]},
    "HTTPRoute": {"parentRefs": [{"kind": "Service", "group": "", "name": "a"}], "rules": []},
    "DestinationRule": {"host": "a"},
}
API = {
    "Service": "v1",
    "VirtualService": "networking.istio.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "DestinationRule": "networking.istio.io/v1",
}


def problems(kind: str, annotations: dict[str, str], spec: dict[str, Any] | None = None) -> list[Problem]:
    document = {
        "apiVersion": API[kind],
        "kind": kind,
        "metadata": {"name": "a", "annotations": annotations},
        "spec": spec or SPECS[kind],
    }
    _, found = parse(json.dumps(document, indent=1), "a.yaml")
    return [one for one in found if "annotations" in one.field]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100/s", [Rate(100, 1, 100)]),
        (" 5 / m ; burst = 9 ", [Rate(5, 60, 9)]),
        ("http=1/h,81=2/s;burst=3", [Rate(1, 3600, 1, "http"), Rate(2, 1, 3, "81")]),
    ],
)
def test_rates(text: str, expected: list[Rate]) -> None:
    assert list(parse_rates(text)) == expected
    assert problems("Service", {RATE_LIMIT: text}) == []


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("Service", "", "'' is not a rate; write requests per second, minute or hour"),
        ("Service", "100", "is not a rate"),
        ("Service", "100/d", "is not a rate"),
        ("Service", "1.5/s", "is not a rate"),
        ("Service", "-1/s", "is not a rate"),
        ("Service", "100/s; brust=5", "is not a rate"),
        ("Service", "100/s,", "is not a rate"),
        ("Service", "0/s", "from 1 to 4294967295"),
        ("Service", "5/s; burst=0", "from 1 to"),
        ("Service", "9999999999/s", "from 1 to"),
        ("Service", "5/s, 6/s", "two rates for all"),
        ("Service", "5/s, http=6/s", "name the port of each"),
        ("Service", "http=5/s, http=6/s", "names a port twice"),
        ("Service", "https=5/s", "has no port https; it has 80, 81, grpc, http"),
        ("VirtualService", "http=5/s", "only a Service has ports to name"),
        ("HTTPRoute", "often", "is not a rate"),
    ],
)
def test_mistakes_are_refused(kind: str, text: str, message: str) -> None:
    (problem,) = problems(kind, {RATE_LIMIT: text})
    assert (problem.level, problem.file, problem.line) == (Level.ERROR, "a.yaml", 7)
    assert problem.field == f'metadata.annotations["{RATE_LIMIT}"]'
    assert message in problem.message


@pytest.mark.parametrize(
    ("kind", "name", "code", "message"),
    [
        ("Service", "proxyless.io/rate-limits", "UnknownAnnotation", "did you mean proxyless.io/rate-limit?"),
        ("Service", "proxyless.io/x", "UnknownAnnotation", "known are "),
        ("DestinationRule", RATE_LIMIT, "MisplacedAnnotation", "put it on: Service, VirtualService"),
    ],
)
def test_annotations_that_do_nothing_are_warned_about(kind: str, name: str, code: str, message: str) -> None:
    (problem,) = problems(kind, {name: "5/s", "example.com/x": "y"})
    assert (problem.level, problem.code) == (Level.WARNING, code)
    assert message in problem.message


def test_a_virtual_service_without_requests_of_its_own() -> None:
    delegate = {"http": SPECS["VirtualService"]["http"]}
    (problem,) = problems("VirtualService", {RATE_LIMIT: "5/s"}, delegate)
    assert (problem.level, problem.code) == (Level.WARNING, "MisplacedAnnotation")

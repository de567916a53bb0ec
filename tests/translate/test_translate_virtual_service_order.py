"""Which of several VirtualServices counts, and what a delegate makes of the routes that are handed to it."""

import pytest
from translate_world import LIBRARY, get, routes, workload, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator

TARGET = "reviews.default.svc.cluster.local:80"
RULE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "2026-01-0{day}T00:00:00Z"}}
spec:
  hosts: [{host}]
  exportTo: [{export_to}]
  http: [{{name: {name}, route: [{{destination: {{host: reviews.default.svc.cluster.local}}}}]}}]
"""
EXACT, WILDCARD = "reviews.default.svc.cluster.local", '"*.default.svc.cluster.local"'


def rule(name: str, day: int, *, namespace: str = "default", host: str = EXACT, export_to: str = '"*"') -> str:
    return RULE.format(name=name, day=day, namespace=namespace, host=host, export_to=export_to)


@pytest.mark.parametrize(
    ("rules", "namespace", "used"),
    [
        ([rule("young", 2), rule("old", 1)], "default", "old"),
        ([rule("wide", 1, host=WILDCARD), rule("exact", 2)], "default", "exact"),
        ([rule("public", 1), rule("private", 2, export_to='"."')], "default", "private"),
        ([rule("public", 1), rule("own", 2, export_to='".", other')], "default", "own"),
        ([rule("public", 1), rule("given", 2, export_to="client")], "client", "given"),
        (
            [
                rule("given", 1, export_to="client"),
                rule("own", 2, namespace="client", export_to='"."'),
            ],
            *("client", "own"),
        ),
        (
            [
                rule("given", 1, export_to="client"),
                rule("own", 2, namespace="client", export_to="client, other"),
            ],
            *("client", "own"),
        ),
        ([rule("hidden", 1, export_to='"."'), rule("seen", 2)], "client", "seen"),
        ([rule("none", 1, export_to='"~"'), rule("seen", 2)], "default", "seen"),
    ],
)
def test_which_of_several_counts(rules: list[str], namespace: str, used: str) -> None:
    translator = Translator(world("".join(rules), workload("reviews")))
    (route,) = routes(translator, TARGET, Client(namespace=namespace))
    assert route.name == used


ROOT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /a}}]
    mirrors: [{destination: {host: reviews}}]
    timeout: 3s
    delegate: {name: inner}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inner}
spec:
  http: %s
"""
TO = "route: [{destination: {host: reviews}}]"


@pytest.mark.parametrize(
    ("inner", "matched"),
    [
        (f"[{{{TO}}}]", ["/a"]),
        (f"[{{match: [{{uri: {{prefix: /a/b}}}}], {TO}}}]", ["/a/b"]),
        (f"[{{match: [{{uri: {{prefix: /a/b}}}}, {{uri: {{exact: /a/c}}}}], {TO}}}]", ["/a/b", "/a/c"]),
        # One alternative outside of what was handed over takes the whole route with it.
        (f"[{{match: [{{uri: {{prefix: /a/b}}}}, {{uri: {{prefix: /x}}}}], {TO}}}, {{{TO}}}]", ["/a"]),
    ],
)
def test_delegates_narrow_what_they_are_given(inner: str, matched: list[str]) -> None:
    translator = Translator(world(ROOT % inner, workload("reviews")))
    found = routes(translator, TARGET)
    assert [route.match.prefix or route.match.path for route in found] == matched
    assert {route.route.timeout.seconds for route in found} == {3}


def test_a_delegate_inherits_mirrors() -> None:
    translator = Translator(world(ROOT % f"[{{{TO}}}]", workload("reviews")))
    found = get(translator, Client(kind=LIBRARY.kind.ENVOY), type_urls.ROUTE, TARGET)
    assert len(found.virtual_hosts[0].routes[0].route.request_mirror_policies) == 1

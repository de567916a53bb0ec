"""The annotation for hedged requests: refused where it cannot be read, and told where it does nothing."""

import pytest

from proxyless.control_plane.resources.parse import parse

FIELD = 'metadata.annotations["proxyless.io/hedge-on-per-try-timeout"]'
TEXT = """\
apiVersion: VERSION
kind: KIND
metadata:
  name: a
  annotations:
    proxyless.io/hedge-on-per-try-timeout: VALUE
spec: SPEC
"""
VERSIONS = {"VirtualService": "networking.istio.io/v1"}
TO = "route: [{destination: {host: a}}]"
PARENT = "parentRefs: [{group: '', kind: Service, name: a}]"
BACKEND = "backendRefs: [{name: a, port: 80}]"
PATIENT = f"{{hosts: [a], http: [{{{TO}, retries: {{attempts: 1, perTryTimeout: 1s}}}}]}}"
ROUTE = f"{{{PARENT}, rules: [{{{BACKEND}, timeouts: {{backendRequest: 1s}}}}]}}"


@pytest.mark.parametrize(
    ("kind", "value", "spec", "level", "words"),
    [
        ("VirtualService", "'true'", PATIENT, "", ""),
        ("VirtualService", "'false'", f"{{hosts: [a], http: [{{{TO}}}]}}", "", ""),
        ("VirtualService", "'yes'", PATIENT, "Error", "'yes' is neither"),
        ("VirtualService", "''", PATIENT, "Error", "neither"),
        ("VirtualService", "'true'", f"{{hosts: [a], http: [{{{TO}}}]}}", "Warning", "perTryTimeout"),
        ("VirtualService", "'true'", PATIENT.replace("perTryTimeout: 1s", "backoff: 1s"), "Warning", "perTryTimeout"),
        ("VirtualService", "'true'", PATIENT.replace("hosts: [a], ", ""), "", ""),
        ("VirtualService", "'true'", f"{{http: [{{{TO}}}]}}", "", ""),
        ("HTTPRoute", "'true'", ROUTE, "", ""),
        ("HTTPRoute", "'1'", ROUTE, "Error", "neither"),
        ("HTTPRoute", "'true'", ROUTE.replace("backendRequest", "request"), "Warning", "timeouts.backendRequest"),
        ("GRPCRoute", "'true'", f"{{{PARENT}, rules: [{{{BACKEND}}}]}}", "Warning", "use a VirtualService"),
        ("GRPCRoute", "'on'", f"{{{PARENT}, rules: [{{{BACKEND}}}]}}", "Error", "neither"),
    ],
)
def test_what_it_may_say(kind: str, value: str, spec: str, level: str, words: str) -> None:
    version = VERSIONS.get(kind, "gateway.networking.k8s.io/v1")
    text = TEXT.replace("VERSION", version).replace("KIND", kind).replace("VALUE", value).replace("SPEC", spec)
    resources, problems = parse(text, "mesh.yaml")
    assert len(resources) == (level != "Error")
    told = [(one.level, one.field, one.file, one.line) for one in problems]
    assert told == ([(level, FIELD, "mesh.yaml", 6)] if level else [])
    assert all(words in one.message for one in problems)

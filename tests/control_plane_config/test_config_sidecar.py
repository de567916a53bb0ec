"""Sidecar: what may be written, what is refused and what is reported; and a VirtualService's tls and tcp."""

import json
from typing import Any

import pytest

from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import Level, Problem
from proxyless.control_plane.resources.validation.references import check_references

ALL = [{"hosts": ["*/*"]}]
TLS = {"mode": "SIMPLE", "serverCertificate": "/c", "privateKey": "/k"}


def document(spec: dict[str, Any], *, kind: str = "Sidecar", name: str = "a", version: str = "v1") -> str:
    metadata = {"name": name, "namespace": "shop"}
    return json.dumps(
        {"apiVersion": f"networking.istio.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}
    )


def problems(text: str, level: Level) -> list[Problem]:
    resources, found = parse(text, "a.json")
    assert bool(resources) != any(problem.level is Level.ERROR for problem in found), found
    return [problem for problem in found if problem.level is level]


def egress(**fields: Any) -> dict[str, Any]:
    return {"egress": [{"hosts": ["./*"], **fields}]}


def ingress(**fields: Any) -> dict[str, Any]:
    return {"ingress": [{"port": {"number": 9080, "protocol": "HTTP", "name": "x"}, **fields}]}


def port(number: int, protocol: str = "TCP", **fields: Any) -> dict[str, Any]:
    return {"number": number, "protocol": protocol, **fields}


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
@pytest.mark.parametrize(
    "spec",
    [
        egress(hosts=["./*", "istio-system/*", "*/*.example.com", "shop2/a.b", "~/*"]),
        egress(port=port(0), bind="unix:///run/x", captureMode="NONE"),
        egress(port=port(0), bind="unix://@abstract"),
        {"egress": [{"port": port(1, "MONGO"), "bind": "::1", "hosts": ["./*"]}, *ALL]},
        ingress(defaultEndpoint="127.0.0.1:80", bind="0.0.0.0", connectionPool={"tcp": {"maxConnections": 1}}),
        ingress(defaultEndpoint="[::1]:80"),
        ingress(defaultEndpoint="unix:///run/app"),
        ingress(port=port(9443, "HTTPS"), tls=TLS),
        {"outboundTrafficPolicy": {}},
        {
            "outboundTrafficPolicy": {
                "mode": "ALLOW_ANY",
                "egressProxy": {"host": "proxy.shop.svc.cluster.local", "port": {"number": 80}},
            }
        },
        {"workloadSelector": {"labels": {"app": "a"}}, "inboundConnectionPool": {"http": {"maxRetries": 1}}},
    ],
)
def test_sensible_sidecars_are_accepted(spec: dict[str, Any], version: str) -> None:
    assert problems(document(spec, version=version), Level.ERROR) == []


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({}, "spec", "one of egress"),
        ({"workloadSelector": {"labels": {"app": "a"}}}, "spec", "one of egress"),
        ({"workloadSelector": {"labels": {"a b": "a"}}, "egress": ALL}, 'spec.workloadSelector.labels["a b"]', "label"),
        ({"egress": [{}]}, "spec.egress[0].hosts", "at least one"),
        (egress(hosts=["reviews"]), "spec.egress[0].hosts[0]", "NAMESPACE/DNS-NAME"),
        (egress(hosts=["a/"]), "spec.egress[0].hosts[0]", "NAMESPACE/DNS-NAME"),
        (egress(hosts=["A_B/*"]), "spec.egress[0].hosts[0]", "not a namespace"),
        (egress(hosts=["~/a.b"]), "spec.egress[0].hosts[0]", "goes with"),
        (egress(hosts=["./a*b"]), "spec.egress[0].hosts[0]", "not a DNS name"),
        ({"egress": [*ALL, *ALL]}, "spec.egress[0]", "must be the last"),
        ({"egress": [*ALL, {"port": port(1), "hosts": ["./*"]}]}, "spec.egress[0]", "must be the last"),
        ({"egress": [{"port": port(1), "hosts": ["./*"]}] * 2}, "spec.egress[1].port.number", "another egress"),
        (
            {"egress": [{"port": port(0), "bind": "unix:///a", "hosts": ["./*"]}] * 2},
            *("spec.egress[1].bind", "another egress"),
        ),
        (egress(port=port(0)), "spec.egress[0].bind", "unix socket"),
        (egress(port=port(0), bind="unix://a"), "spec.egress[0].bind", "absolute"),
        (egress(port=port(0), bind="unix:///a", captureMode="IPTABLES"), "spec.egress[0].captureMode", "NONE"),
        (egress(port=port(1), bind="localhost"), "spec.egress[0].bind", "not an IP"),
        (egress(port=port(65536)), "spec.egress[0].port.number", "65535"),
        (egress(port=port(1, "SMTP")), "spec.egress[0].port.protocol", "not one of"),
        (egress(port=port(1, name="A b")), "spec.egress[0].port.name", "port name"),
        (egress(port=port(1, targetPort=2)), "spec.egress[0].port.targetPort", "no meaning"),
        (ingress(port=port(0)), "spec.ingress[0].port.number", "from 1"),
        (ingress(bind="unix:///a"), "spec.ingress[0].bind", "not an IP"),
        (ingress(defaultEndpoint="10.0.0.1:80"), "spec.ingress[0].defaultEndpoint", "127.0.0.1:PORT"),
        (ingress(defaultEndpoint="127.0.0.1"), "spec.ingress[0].defaultEndpoint", "127.0.0.1:PORT"),
        (ingress(defaultEndpoint="127.0.0.1:70000"), "spec.ingress[0].defaultEndpoint", "127.0.0.1:PORT"),
        (ingress(tls=TLS), "spec.ingress[0].tls", "HTTPS"),
        ({"ingress": ingress()["ingress"] * 2}, "spec.ingress[1].port.number", "another ingress"),
        (
            ingress(port=port(1, "TLS"), tls={**TLS, "mode": "ISTIO_MUTUAL"}),
            *("spec.ingress[0].tls.mode", "SIMPLE or MUTUAL"),
        ),
        (
            ingress(port=port(1, "TLS"), tls={**TLS, "mode": "MUTUAL"}),
            *("spec.ingress[0].tls.caCertificates", "required"),
        ),
        (
            ingress(port=port(1, "TLS"), tls={**TLS, "credentialName": "x"}),
            *("spec.ingress[0].tls.credentialName", "not allowed"),
        ),
        ({"ingress": [{"bind": "127.0.0.1"}]}, "spec.ingress[0].port", "required"),
        (
            {"outboundTrafficPolicy": {"egressProxy": {"host": "a.b", "port": {"number": 1}}}},
            *("spec.outboundTrafficPolicy.egressProxy", "ALLOW_ANY"),
        ),
        (
            {"outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {"host": "a.b"}}},
            *("spec.outboundTrafficPolicy.egressProxy.port", "required"),
        ),
        ({"inboundConnectionPool": {"tcp": {"maxConnections": -1}}}, "spec.inboundConnectionPool", ""),
        ({"egres": ALL}, "spec.egres", "egress"),
    ],
)
def test_senseless_sidecars_are_refused(spec: dict[str, Any], field: str, words: str) -> None:
    found = problems(document(spec), Level.ERROR)
    assert any(one.field.startswith(field) and words in one.message and one.line for one in found), found


@pytest.mark.parametrize(
    ("spec", "code", "field"),
    [
        (egress(hosts=["./*", "shop/a.b"]), "SchemaValidationError", "spec.egress[0].hosts[1]"),
        (egress(hosts=["./a.b", "./*"]), "SchemaValidationError", "spec.egress[0].hosts[1]"),
        (egress(hosts=["*/*", "shop/a.b"]), "SchemaValidationError", "spec.egress[0].hosts"),
        (egress(port=port(1), captureMode="IPTABLES"), "FieldNotActedOn", "spec.egress[0].captureMode"),
        (egress(port=port(1), bind="127.0.0.1"), "FieldNotActedOn", "spec.egress[0].bind"),
        (egress(port=port(1), bind="0.0.0.0"), "SchemaValidationError", "spec.egress[0].bind"),
        (ingress(), "FieldNotActedOn", "spec.ingress"),
        ({"inboundConnectionPool": {"tcp": {"maxConnections": 1}}}, "FieldNotActedOn", "spec.inboundConnectionPool"),
    ],
)
def test_what_is_reported(spec: dict[str, Any], code: str, field: str) -> None:
    found = problems(document(spec), Level.WARNING)
    assert (code, field) in [(one.code, one.field) for one in found], found


def test_plain_scoping_is_no_news() -> None:
    spec = {"egress": [{"hosts": ["./*", "istio-system/*"]}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    assert problems(document(spec), Level.WARNING) == []


def references(*documents: str) -> list[tuple[str, str]]:
    resources, _ = parse("\n---\n".join(documents), "a.yaml")
    found = check_references({one.key: one for one in resources}, ["reviews.shop.svc.cluster.local"])
    assert all(problem.level is Level.WARNING for problem in found)
    return [(problem.code, problem.field) for problem in found]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([document(egress(hosts=["./reviews.shop.svc.cluster.local", "*/*.svc.cluster.local"]))], []),
        ([document(egress(hosts=["./reviews"]))], [("ReferencedResourceNotFound", "spec.egress[0].hosts[0]")]),
        (
            [document(egress()), document(egress(), name="b")],
            [("MultipleSidecarsWithoutWorkloadSelectors", "spec")],
        ),
        (
            [
                document({**egress(), "workloadSelector": {"labels": {"app": "a"}}}, name=name)
                for name in ("first", "second")
            ],
            [("ConflictingSidecarWorkloadSelectors", "spec.workloadSelector")],
        ),
        ([document(egress()), document({**egress(), "workloadSelector": {"labels": {"app": "a"}}}, name="b")], []),
    ],
)
def test_references(documents: list[str], expected: list[tuple[str, str]]) -> None:
    assert references(*documents) == expected


TO = [{"destination": {"host": "a.b"}}]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tls": [{"match": [], "route": TO}]}, "spec.tls[0].match"),
        ({"tls": [{"match": [{"sniHosts": []}], "route": TO}]}, "spec.tls[0].match[0].sniHosts"),
        ({"tls": [{"match": [{"sniHosts": ["c.d"]}], "route": TO}]}, "spec.tls[0].match[0].sniHosts[0]"),
        ({"tls": [{"match": [{"sniHosts": ["a.b"]}]}]}, "spec.tls[0].route"),
        ({"tcp": [{}]}, "spec.tcp[0].route"),
        (
            {"tcp": [{"match": [{"destinationSubnets": ["x"]}], "route": TO}]},
            "spec.tcp[0].match[0].destinationSubnets[0]",
        ),
        ({"tcp": [{"match": [{"sourceNamespace": "A B"}], "route": TO}]}, "spec.tcp[0].match[0].sourceNamespace"),
        ({"tcp": [{"match": [{"gateways": ["/"]}], "route": TO}]}, "spec.tcp[0].match[0].gateways[0]"),
    ],
)
def test_senseless_l4_routes_are_refused(spec: dict[str, Any], field: str) -> None:
    found = problems(document({"hosts": ["a.b"], **spec}, kind="VirtualService"), Level.ERROR)
    assert field in [one.field for one in found], found

"""Spans of Envoy sidecars: which listeners trace, and whose."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.config.trace.v3 import opentelemetry_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import json_format
from translate_world import decode, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.sidecar_tracing import Tracing
from proxyless.control_plane.translate.translator import Translator

SIDECAR = """
            apiVersion: networking.istio.io/v1
            kind: Sidecar
            metadata: {name: default}
            spec:
              egress: [{port: {number: 9000, protocol: HTTP, name: http}, hosts: ["*/*"]}, {hosts: ["*/*"]}]
              ingress: [{port: {number: 9001, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:80"}]
"""
ASKED = {"url": "http://collector:4318/v1/traces", "service": "reviews.default", "percent": 1.0}


def client(**metadata: Any) -> Client:
    """An Envoy as it introduces itself."""
    ports = {"PROXYLESS_OUTBOUND_PORT": 15001, "PROXYLESS_INBOUND_PORT": 15006, "PROXYLESS_APP_PORT": 80}
    return Client.from_node(json_format.ParseDict({"id": "e", "metadata": {**ports, **metadata}}, base_pb2.Node()))


def managers(translator: Translator, of: Client) -> list[Any]:
    """Of every listener."""
    found = [decode(type_urls.LISTENER, one) for one in translator.resources(of, type_urls.LISTENER, ["*"]).values()]
    return [
        hcm_pb2.HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)
        for listener in found
        for chain in listener.filter_chains
    ]


def test_every_listener_traces_for_who_asks_and_for_nobody_else() -> None:
    translator = Translator(world(SIDECAR))
    for _ in range(2):  # made, and remembered
        plain = managers(translator, client())
        assert len(plain) == 6
        assert not any(one.HasField("tracing") for one in plain)
        for one in managers(translator, client(PROXYLESS_TRACING=ASKED)):
            assert one.tracing.random_sampling.value == 1.0
            config = opentelemetry_pb2.OpenTelemetryConfig.FromString(one.tracing.provider.typed_config.value)
            assert config.service_name == "reviews.default"
            assert config.http_service.http_uri.uri == ASKED["url"]
        others = managers(translator, client(PROXYLESS_TRACING={**ASKED, "percent": 100}))
        assert {one.tracing.random_sampling.value for one in others} == {100.0}
    for type_url in (type_urls.CLUSTER, type_urls.ROUTE):
        traced = translator.resources(client(PROXYLESS_TRACING=ASKED), type_url, ["*", "http_proxy"])
        assert traced == translator.resources(client(), type_url, ["*", "http_proxy"])


@pytest.mark.parametrize(
    "asked",
    [
        {"url": "https://collector"},
        {"url": ""},
        {"url": 7},
        {"url": "http://a\nb"},
        {"url": "http://" + "a" * 2000},
        {"percent": 101},
        {"percent": -1},
        "http://collector",
        None,
    ],
)
def test_what_makes_no_sense_is_not_followed(asked: Any) -> None:
    merged = {**ASKED, **asked} if isinstance(asked, dict) else asked
    assert client(PROXYLESS_TRACING=merged).tracing is None
    assert replace(client(PROXYLESS_TRACING=ASKED)).tracing == Tracing(*ASKED.values())  # type: ignore[arg-type]

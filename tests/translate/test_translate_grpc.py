"""The oracle for library clients of other languages: gRPC's own xDS client, driven by a minimal ADS server."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from translate_world import workload, world

from proxyless.control_plane.translate.client import Client
from proxyless.control_plane.translate.translator import Translator

RULES = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: echo, annotations: {proxyless.io/hedge-on-per-try-timeout: "true"}}
    spec:
      hosts: [echo]
      http:
      - match: [{headers: {who: {exact: me}}, withoutHeaders: {x: {}}}]
        fault: {abort: {grpcStatus: ABORTED, percentage: {value: 100}}}
        route: [{destination: {host: echo}}]
      - match: [{uri: {regex: "/none.*"}, queryParams: {q: {}}}, {uri: {prefix: /gone}}]
        redirect: {uri: /x}
      - timeout: 30s
        headers: {request: {set: {a: b}}}
        retries: {attempts: 3, retryOn: "unavailable,5xx", perTryTimeout: 1s, backoff: 10ms}
        route:
        - {destination: {host: echo, subset: v1}, weight: 70}
        - {destination: {host: echo, subset: v2}, weight: 20}
        - {destination: {host: nobody}, weight: 10}
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: echo}
    spec:
      host: echo
      trafficPolicy:
        connectionPool: {tcp: {maxConnections: 50, connectTimeout: 1s, idleTimeout: 5s}, http: {http2MaxRequests: 70}}
        outlierDetection: {consecutive5xxErrors: 30, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 50}
        loadBalancer: {consistentHash: {httpHeaderName: who}}
      subsets:
      - {name: v1, labels: {version: v1}}
      - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}
"""

CALLER = """
    import collections, grpc
    call = grpc.insecure_channel("xds:///echo:80").unary_unary("/test.Echo/Call")
    seen = collections.Counter()
    for headers in [()] * 300 + [(("who", "me"),)] * 3:
        try:
            seen[call(b"", timeout=60, metadata=headers).decode()] += 1
        except grpc.RpcError as error:
            seen[f"{error.code().name}"] += 1
    print(dict(seen))
"""


@contextmanager
def serving(handler: grpc.GenericRpcHandler) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(5)


def echo(name: str) -> grpc.GenericRpcHandler:
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())
    return grpc.method_handlers_generic_handler("test.Echo", {"Call": method})


def ads(translator: Translator, refused: list[str]) -> grpc.GenericRpcHandler:
    def stream(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        client, answered = Client(), set[tuple[Any, ...]]()
        for request in requests:
            if request.HasField("node"):
                client = Client.from_node(request.node)
            if request.HasField("error_detail"):
                refused.append(request.error_detail.message)
            asked = (request.type_url, *sorted(request.resource_names))
            if asked not in answered and not request.HasField("error_detail"):
                answered.add(asked)
                found = translator.resources(client, request.type_url, request.resource_names)
                yield discovery_pb2.DiscoveryResponse(
                    version_info=str(len(answered)),
                    nonce=str(len(answered)),
                    type_url=request.type_url,
                    resources=[resource.any for resource in found.values()],
                )

    method = grpc.stream_stream_rpc_method_handler(
        stream,
        request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
        response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
    )
    name = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    return grpc.method_handlers_generic_handler(name, {"StreamAggregatedResources": method})


def test_grpc_accepts_everything_and_does_what_it_says() -> None:
    refused: list[str] = []
    with ExitStack() as stack:
        ports = {version: stack.enter_context(serving(echo(version))) for version in ("v1", "v2")}
        workloads = [
            workload("echo", version=version, ports={"grpc": port}, zone=version) for version, port in ports.items()
        ]
        translator = Translator(world(RULES, *workloads))
        control_plane = stack.enter_context(serving(ads(translator, refused)))
        bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{control_plane}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": "grpc", "metadata": {"NAMESPACE": "default"}},
        }
        # The bootstrap is read once in a process: the client has one of its own.
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CALLER)],
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert refused == []
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.replace("'", '"'))
    assert seen.pop("ABORTED") == 3
    # A share of 10% has nowhere to go; four standard deviations of 300 draws either way.
    assert abs(seen["v1"] - 210) < 32
    assert abs(seen["v2"] - 60) < 28
    assert abs(seen["UNAVAILABLE"] - 30) < 21

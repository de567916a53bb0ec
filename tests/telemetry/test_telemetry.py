"""Metrics with Istio's names and labels, propagation, sampling, spans, deadlines, the access log of calls."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from proxyless.engine.record import AttemptRecord, CallRecord
from proxyless.engine.request import Request
from proxyless.engine.steps import Failed, FailureKind, Flag
from proxyless.model.cluster import Cluster, Endpoint
from proxyless.model.spiffe import SpiffeId
from proxyless.telemetry import sampling
from proxyless.telemetry.context import RequestContext, current
from proxyless.telemetry.deadline import patience
from proxyless.telemetry.grpc_metrics import GrpcMetrics
from proxyless.telemetry.metrics import BOUNDS, Labelled, Metrics
from proxyless.telemetry.observation import Connection
from proxyless.telemetry.request_id import new_request_id
from proxyless.telemetry.telemetry import Telemetry
from proxyless.telemetry.trace_context import TraceContext, new_trace

T, S = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PEER = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
REVIEWS = Cluster(
    "outbound|80|v1|reviews.default.svc.cluster.local",
    service="reviews",
    service_namespace="default",
    service_host="reviews.default.svc.cluster.local",
)
V1 = Endpoint(
    "10.0.0.1",
    9080,
    labels={
        "workload": "reviews-v1",
        "namespace": "default",
        "app": "reviews",
        "version": "v1",
        "cluster": "Kubernetes",
    },
)
# https://istio.io/latest/docs/reference/config/metrics/
LABELS = {
    "reporter",
    *(
        f"{side}_{what}"
        for side in ("source", "destination")
        for what in (
            "workload",
            "workload_namespace",
            "principal",
            "app",
            "version",
            "cluster",
            "canonical_service",
            "canonical_revision",
        )
    ),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
}


def telemetry(**environ: str) -> Telemetry:
    return Telemetry(
        service="productpage",
        service_account="bookinfo-productpage",
        labels={"app": "productpage", "version": "v1"},
        environ=environ,
    )


def record(
    status: int | None = 200, *flags: Flag, cluster: Cluster | None = REVIEWS, peer: str | None = PEER
) -> CallRecord:
    attempt = AttemptRecord(1, V1, time.monotonic(), status=status, peer=peer)
    return CallRecord(
        "reviews:80", 0.0, cluster=cluster, attempts=[attempt] if cluster else [], flags=list(flags), status=status
    )


def call(mesh: Telemetry, told: CallRecord, request: Request | None = None, **sizes: int) -> Request:
    request = request or Request("GET", "reviews:80", "/reviews/1")
    mesh.begin_client(request).end(told, **sizes)
    return request


def samples(mesh: Telemetry, name: str) -> list[tuple[dict[str, str], float]]:
    found = []
    for line in mesh.prometheus().decode().splitlines():
        match = re.match(rf"{name}\{{(.*)\}} (\S+)\Z", line)
        if match:
            found.append((dict(re.findall(r'(\w+)="([^"]*)"', match[1])), float(match[2])))
    return found


def test_client_metric_has_istios_name_and_labels() -> None:
    mesh = telemetry()
    call(mesh, record())
    call(mesh, record())
    [(labels, value)] = samples(mesh, "istio_requests_total")
    assert value == 2
    assert set(labels) == LABELS
    assert labels == {
        "reporter": "source",
        "source_workload": "productpage",
        "source_workload_namespace": "default",
        "source_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
        "source_app": "productpage",
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "source_canonical_service": "productpage",
        "source_canonical_revision": "v1",
        "destination_workload": "reviews-v1",
        "destination_workload_namespace": "default",
        "destination_principal": PEER,
        "destination_app": "reviews",
        "destination_version": "v1",
        "destination_cluster": "Kubernetes",
        "destination_canonical_service": "reviews",
        "destination_canonical_revision": "v1",
        "destination_service": "reviews.default.svc.cluster.local",
        "destination_service_name": "reviews",
        "destination_service_namespace": "default",
        "request_protocol": "http",
        "response_code": "200",
        "grpc_response_status": "",
        "response_flags": "-",
        "connection_security_policy": "unknown",
    }


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (record(503, Flag.NO_HEALTHY_UPSTREAM), {"response_code": "503", "response_flags": "UH"}),
        (
            record(503, Flag.UPSTREAM_CONNECTION_FAILURE, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED),
            {"response_flags": "UF,URX"},
        ),
        (record(None), {"response_code": "0"}),
        (record(peer=None), {"source_principal": "unknown", "destination_principal": "unknown"}),
        (
            record(404, Flag.NO_ROUTE, cluster=None),
            {
                "destination_service": "reviews",
                "destination_service_name": "unknown",
                "destination_workload": "unknown",
            },
        ),
        (
            record(cluster=Cluster("PassthroughCluster")),
            {"destination_service_name": "PassthroughCluster", "destination_service": "reviews"},
        ),
    ],
)
def test_client_labels(told: CallRecord, expected: dict[str, str]) -> None:
    mesh = telemetry()
    call(mesh, told)
    [(labels, _)] = samples(mesh, "istio_requests_total")
    assert {name: labels[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (
            None,
            {"connection_security_policy": "none", "source_principal": "unknown", "destination_principal": "unknown"},
        ),
        (
            SpiffeId.parse(PEER),
            {
                "connection_security_policy": "mutual_tls",
                "source_principal": PEER,
                "source_workload": "unknown",
                "source_workload_namespace": "default",
                "destination_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
            },
        ),
    ],
)
def test_server_labels(peer: SpiffeId | None, expected: dict[str, str]) -> None:
    mesh = telemetry()
    head = Request("POST", "127.0.0.1:9080", "/", headers=[("content-type", "application/grpc+proto")])
    mesh.begin_server(head, Connection(peer, peer is not None, principal=str(peer or ""))).end(200, grpc_status="14")
    [(labels, _)] = samples(mesh, "istio_requests_total")
    assert set(labels) == LABELS
    expected |= {
        "reporter": "destination",
        "request_protocol": "grpc",
        "grpc_response_status": "14",
        "destination_service": "productpage.default.svc.cluster.local",
        "destination_workload": "productpage",
    }
    assert {name: labels[name] for name in expected} == expected


def test_exposition_has_exactly_the_four_families() -> None:
    mesh = telemetry()
    call(mesh, record(), request_bytes=3, response_bytes=2500)
    text = mesh.prometheus().decode()
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    assert families == [
        ("istio_requests_total", "counter"),
        ("istio_request_duration_milliseconds", "histogram"),
        ("istio_request_bytes", "histogram"),
        ("istio_response_bytes", "histogram"),
    ]
    assert {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")} == {
        "istio_requests_total",
        *(
            f"{family}{part}"
            for family, kind in families
            if kind == "histogram"
            for part in ("_bucket", "_sum", "_count")
        ),
    }
    buckets = {labels["le"]: value for labels, value in samples(mesh, "istio_response_bytes_bucket")}
    assert list(buckets)[:4] == ["0.5", "1", "5", "10"] and list(buckets)[-1] == "+Inf"
    assert len(buckets) == len(BOUNDS) + 1
    # A value on a bound belongs to it.
    assert (buckets["1000"], buckets["2500"], buckets["+Inf"]) == (0, 1, 1)


def test_meshes_of_one_process_do_not_mix() -> None:
    one, other = telemetry(), telemetry()
    call(one, record())
    assert samples(one, "istio_requests_total")
    assert other.prometheus() == b""


def test_series_are_bounded() -> None:
    metrics = Metrics(limit=10)
    for number in range(50):
        metrics.record(lambda number: (number, lambda: {"code": str(number)}), (number,), 1.0, 0, 0)
    series = metrics.collect()
    assert len(series) == 11
    assert sum(one.count for one in series) == 50
    assert series[-1].labels == {"otel_metric_overflow": "true"}


def test_a_call_that_ends_while_its_thread_counts_others_is_counted() -> None:
    """As the garbage collector ends one that was forgotten, wherever it runs."""
    metrics, rpcs = Metrics(), GrpcMetrics()
    recorded = []

    def label(number: int) -> Labelled:
        if number == 0:
            for later in range(1, 200):
                recorded.append(later)
                metrics.record(label, (later,), 1.0, 0, 0)
        return "key", dict

    def work() -> None:
        metrics.record(label, (0,), 1.0, 0, 0)
        metrics.collect()
        with rpcs._lock:
            rpcs.call_ended("test.Echo/Say", "echo:80", "0", 0.1)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert [one.count for one in metrics.collect()] == [1 + len(recorded)]
    [(_, [point])] = rpcs.collect()
    assert point.count == 1


def test_recording_from_many_threads_loses_nothing() -> None:
    mesh = telemetry()
    threads = [threading.Thread(target=lambda: [call(mesh, record()) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [(_, value)] = samples(mesh, "istio_requests_total")
    assert value == 800


def test_forked_child_starts_from_zero() -> None:
    mesh = telemetry()
    call(mesh, record())
    child = os.fork()
    if child == 0:
        os._exit(0 if mesh.metrics.collect() == [] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(mesh.metrics.collect()) == 1


def test_a_forked_child_makes_other_ids() -> None:
    new_request_id(), new_trace()  # there is a supply of both now
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, f"{new_request_id()} {new_trace().trace_id}".encode())
        os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    theirs = os.read(reading, 200).decode().split()
    os.close(reading)
    assert len(theirs) == 2
    assert theirs[0] not in {new_request_id() for _ in range(200)}
    assert theirs[1] not in {new_trace().trace_id for _ in range(200)}


def test_disabled_sdk_records_nothing_but_propagates() -> None:
    mesh = telemetry(OTEL_SDK_DISABLED="true", OTEL_TRACES_EXPORTER="otlp")
    request = call(mesh, record())
    assert mesh.prometheus() == b""
    assert request.header("traceparent")


def test_identity_may_become_known_later() -> None:
    mesh = telemetry()
    call(mesh, record())
    mesh.identify(SpiffeId("mesh.example", "default", "bookinfo-productpage"))
    call(mesh, record())
    principals = [labels["source_principal"] for labels, _ in samples(mesh, "istio_requests_total")]
    assert principals == [
        "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
        "spiffe://mesh.example/ns/default/sa/bookinfo-productpage",
    ]


def test_ending_twice_counts_once() -> None:
    mesh = telemetry()
    seen = mesh.begin_client(Request("GET", "a:1", "/"))
    seen.end(record())
    seen.end(record())
    assert samples(mesh, "istio_requests_total")[0][1] == 1


def test_nothing_of_opentelemetry_is_imported_without_an_exporter() -> None:
    program = (
        "import sys\n"
        "from proxyless.telemetry.telemetry import Telemetry\n"
        "from proxyless.telemetry.observation import Connection\n"
        "from proxyless.engine.request import Request\n"
        "mesh = Telemetry(service='a', environ={})\n"
        "mesh.begin_client(Request('GET', 'a:1', '/'))\n"
        "mesh.begin_server(Request('GET', 'a:1', '/'), Connection()).end(200)\n"
        "assert b'istio_requests_total' in mesh.prometheus()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Propagation


def test_a_call_from_nowhere_starts_a_trace() -> None:
    request = call(telemetry(), record())
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", request.header("traceparent") or "")
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", request.header("x-request-id") or ""
    )
    assert request.deadline is None


@pytest.mark.parametrize(
    ("own", "served", "expected"),
    [
        (None, None, None),
        (None, 50.0, 50.0),
        (20.0, 50.0, 20.0),
        (80.0, 50.0, 50.0),
        (20.0, None, 20.0),
        (0.0, 5.0, 0.0),
    ],
)
def test_deadline_is_the_earlier_one(own: float | None, served: float | None, expected: float | None) -> None:
    token = current.set(RequestContext(TraceContext(T, S), "id", served))
    try:
        request = Request("GET", "a:1", "/", deadline=own)
        telemetry().begin_client(request)
    finally:
        current.reset(token)
    assert request.deadline == expected
    assert request.header("traceparent") == f"00-{T}-{S}-00"


def test_what_the_application_set_itself_stands() -> None:
    mine = "1" * 32
    token = current.set(RequestContext(TraceContext(T, S), "served"))
    try:
        request = Request("GET", "a:1", "/", headers=[("traceparent", f"00-{mine}-{S}-00"), ("x-request-id", "own")])
        seen = telemetry().begin_client(request)
    finally:
        current.reset(token)
    assert request.headers == [("traceparent", f"00-{mine}-{S}-00"), ("x-request-id", "own")]
    assert (seen.trace.trace_id, seen.request_id) == (mine, "own")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-envoy-expected-rq-timeout-ms": "1500"}, 1.5),
        ({"x-envoy-expected-rq-timeout-ms": "0"}, None),
        ({"x-envoy-expected-rq-timeout-ms": "-5"}, None),
        ({"x-envoy-expected-rq-timeout-ms": "1e3"}, None),
        ({"x-envoy-expected-rq-timeout-ms": "9" * 400}, None),
        ({"x-envoy-expected-rq-timeout-ms": "١٢"}, None),
        ({"grpc-timeout": "2S"}, 2.0),
        ({"grpc-timeout": "100m"}, 0.1),
        ({"grpc-timeout": "123456789S"}, None),
        ({"grpc-timeout": "1S", "x-envoy-expected-rq-timeout-ms": "500"}, 0.5),
    ],
)
def test_how_long_a_caller_waits(headers: dict[str, str], seconds: float | None) -> None:
    assert patience(headers.items()) == seconds


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("", "", sampling.Sampling(0.01, True)),
        ("always_on", "", sampling.Sampling(1.0, False)),
        ("parentbased_always_off", "", sampling.Sampling(0.0, True)),
        ("traceidratio", "0.25", sampling.Sampling(0.25, False)),
        ("parentbased_traceidratio", "", sampling.Sampling(1.0, True)),
        ("parentbased_traceidratio", "lots", sampling.Sampling(1.0, True)),
        ("jaeger_remote", "", sampling.Sampling(0.01, True)),
    ],
)
def test_sampler_of_the_environment(name: str, argument: str, expected: sampling.Sampling) -> None:
    environ = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert sampling.from_environment(environ) == expected


@pytest.mark.parametrize(
    ("low", "ratio", "parent", "parent_based", "sampled"),
    [
        ("0" * 16, 0.01, None, True, True),
        ("f" * 16, 0.99, None, True, False),
        ("0" * 16, 0.0, None, True, False),
        ("f" * 16, 1.0, None, True, True),
        ("0" * 16, 0.5, False, True, False),
        ("f" * 16, 0.5, True, True, True),
        ("0" * 16, 0.5, False, False, True),
    ],
)
def test_sampling_decision(low: str, ratio: float, parent: bool | None, parent_based: bool, sampled: bool) -> None:
    assert sampling.Sampling(ratio, parent_based).decide("a" * 16 + low, parent) is sampled


# Exporters


class Collector:
    """Takes OTLP over HTTP and remembers what came."""

    def __init__(self) -> None:
        received = self.received = {"/v1/traces": [], "/v1/metrics": []}
        self.arrived = threading.Condition()
        arrived = self.arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                with arrived:
                    received[self.path].append(body)
                    arrived.notify_all()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_otlp_push(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "always_on"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        mesh = telemetry(**environ)
        try:
            head = Request("GET", "127.0.0.1:9080", "/a?secret=1", headers=[("traceparent", f"00-{T}-{S}-00")])
            server = mesh.begin_server(head, Connection(SpiffeId.parse(PEER), True, principal=PEER))
            token = current.set(server.context)
            request = Request("GET", "reviews:80", "/reviews/1?secret=1")
            told = record(503, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
            told.attempts.insert(
                0,
                AttemptRecord(1, V1, time.monotonic(), failure=Failed(FailureKind.CONNECT, "connection refused")),
            )
            told.policy, told.attempts[0].connect, told.attempts[1].connect = 0.25, 0.5, 1.0
            told.attempts[1].wait = 2.0
            call(mesh, told, request)
            current.reset(token)
            server.end(200)
        finally:
            mesh.close()
        mesh.close()
        [pushed] = map(json.loads, collector.received["/v1/traces"])
        [metrics] = map(json.loads, collector.received["/v1/metrics"])

    spans = {
        span["kind"]: span for one in pushed["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]
    }
    inbound, outbound = spans[2], spans[3]
    assert inbound["traceId"] == outbound["traceId"] == T
    assert inbound["parentSpanId"] == S
    assert outbound["parentSpanId"] == inbound["spanId"]
    # The ids on the wire are the exported ones.
    assert request.header("traceparent") == f"00-{T}-{outbound['spanId']}-01"
    assert [event["name"] for event in outbound["events"]] == ["attempt", "attempt"]
    found = attributes(outbound)
    phases = {name: float(value) for name, value in found.items() if name.startswith("proxyless.phase.")}
    assert phases == {"proxyless.phase.policy": 0.25, "proxyless.phase.connect": 1.5, "proxyless.phase.wait": 2.0}
    assert float(attributes(outbound["events"][0])["proxyless.phase.connect"]) == 0.5
    assert found["response_flags"] == "URX"
    assert found["upstream_cluster"] == REVIEWS.name
    assert found["http.response.status_code"] == "503"
    assert found["http.request.resend_count"] == "1"
    assert outbound["status"]["code"] == 2
    assert "secret" not in str(pushed)

    [resource] = metrics["resourceMetrics"]
    assert attributes(resource["resource"])["service.name"] == "productpage.default"
    [scope] = resource["scopeMetrics"]
    assert [metric["name"] for metric in scope["metrics"]] == [
        "istio_requests_total",
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ]
    assert sum(int(point["asInt"]) for point in scope["metrics"][0]["sum"]["dataPoints"]) == 2


def attributes(of: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: str(next(iter(one["value"].values()))) for one in of["attributes"]}


def test_a_span_of_the_application_becomes_the_parent() -> None:
    from opentelemetry import trace

    context = trace.SpanContext(int(T, 16), int(S, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        request = call(telemetry(), record())
    assert request.header("traceparent") == f"00-{T}-{S}-01"


def test_access_log_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    told = record(503, Flag.UPSTREAM_CONNECTION_FAILURE)
    told.reason = "upstream_reset_before_response_started{connection_failure}"
    told.attempts[0].failure = Failed(FailureKind.CONNECT, 'refused "by" peer\nx')
    with caplog.at_level(logging.INFO, "proxyless.access"):
        call(telemetry(), told, Request("GET", "reviews:80", "/r", headers=[("x-request-id", "abc")]), response_bytes=9)
    [line] = [record.getMessage() for record in caplog.records]
    pattern = (
        r'\[\d{4}-\d\d-\d\dT[\d:.]+Z\] "GET /r HTTP/1.1" 503 UF upstream_reset_before_response_started'
        r'\{connection_failure\} - "refused \\x22by\\x22 peer\\x0ax" 0 9 \d+ - "-" '
        r'"-" "abc" "reviews:80" "10.0.0.1:9080" outbound\|80\|v1\|reviews.default.svc.cluster.local - - - - -'
    )
    assert re.fullmatch(pattern, line), line

"""``mesh.grpc_interceptor()`` in a ``grpc.server`` that the user started: nobody has verified its callers."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, GrpcTestRuntime, SyncEcho, handlers
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from proxyless.model.inbound import MutualTls
from proxyless.telemetry.grpc_metrics import GrpcMetrics
from proxyless.telemetry.tracing import Tracer
from proxyless.transport.grpc_server.foreign import ForeignInterceptor


@contextlib.contextmanager
def serving(runtime: GrpcTestRuntime, port: int | None = None) -> Iterator[grpc.Channel]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[ForeignInterceptor(runtime, port)])
        server.add_generic_rpc_handlers((handlers(SyncEcho()),))
        bound = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{bound}") as channel:
                yield channel
        finally:
            server.stop(None).wait()


def call(channel: grpc.Channel, method: str = "Call", request: bytes = b"hi", **more: Any) -> Any:
    return json.loads(channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=60, **more))


def status(channel: grpc.Channel, method: str, request: bytes = b"hi") -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, method, request)
    return raised.value


def test_callers_are_anonymous_and_forged_metadata_is_gone(runtime: GrpcTestRuntime) -> None:
    with serving(runtime) as channel:
        forged = (("x-forwarded-client-cert", "URI=spiffe://forged"), ("x-envoy-attempt-count", "2"), ("mine", "kept"))
        seen = call(channel, metadata=forged)
        assert seen["identities"] == []
        names = dict(seen["metadata"])
        assert names["mine"] == "kept" and "traceparent" in names
        assert seen["request_id"] == names["x-request-id"]
        assert "x-forwarded-client-cert" not in names and "x-envoy-attempt-count" not in names


def test_every_kind_of_method(runtime: GrpcTestRuntime) -> None:
    with serving(runtime) as channel:
        assert b"a+b" in channel.stream_unary(f"/{SERVICE}/Sum")(iter([b"a", b"b"]), timeout=60)
        answers = [*channel.unary_stream(f"/{SERVICE}/List")(b"hi", timeout=60)]
        answers += channel.stream_stream(f"/{SERVICE}/Chat")(iter([b"a", b"b"]), timeout=60)
        assert len(answers) == 5 and all(b'"request_id": null' not in one for one in answers)
        for request, code in ((b"abort", "NOT_FOUND"), (b"code", "ABORTED"), (b"raise", "UNKNOWN")):
            assert status(channel, "Fail", request).code().name == code
        assert status(channel, "Nothing").code() is grpc.StatusCode.UNIMPLEMENTED
    text = runtime.telemetry.prometheus().decode()
    for number in (0, 2, 5, 10, 12):
        assert f'grpc_response_status="{number}"' in text


@pytest.mark.parametrize(("port", "refused"), [(None, True), (8080, True), (9090, False)])
def test_strict_refuses_them(runtime: GrpcTestRuntime, port: int | None, refused: bool) -> None:
    runtime.require(8080, MutualTls.STRICT)
    with serving(runtime, port) as channel:
        if not refused:
            call(channel)
            return
        error = status(channel, "Call")
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "requires mutual TLS (STRICT)" in dict(error.trailing_metadata())["x-proxyless-reason"]


def test_grpcs_own_metrics(runtime: GrpcTestRuntime) -> None:
    runtime.telemetry.grpc = GrpcMetrics()
    with serving(runtime) as channel:
        call(channel, request=b"12345")
        assert status(channel, "Fail", b"abort").code() is grpc.StatusCode.NOT_FOUND
        for name in ("Nothing", "Nobody"):
            assert status(channel, name).code() is grpc.StatusCode.UNIMPLEMENTED
        text = runtime.telemetry.prometheus().decode()
    for line in (
        'grpc_server_call_started_total{grpc_method="test.Echo/Call"} 1.0',
        'grpc_server_call_started_total{grpc_method="other"} 2.0',
        'grpc_server_call_duration_seconds_count{grpc_method="other",grpc_status="UNIMPLEMENTED"} 2.0',
        'grpc_server_call_duration_seconds_count{grpc_method="test.Echo/Fail",grpc_status="NOT_FOUND"} 1.0',
        'rcvd_total_compressed_message_size_bytes_sum{grpc_method="test.Echo/Call",grpc_status="OK"} 5.0',
    ):
        assert line in text


def test_spans_of_served_calls(runtime: GrpcTestRuntime) -> None:
    exported = InMemorySpanExporter()
    tracer = Tracer(Resource.create({}), [SimpleSpanProcessor(exported)])
    runtime.telemetry._exports = SimpleNamespace(tracer=tracer, close=tracer.shutdown)  # type: ignore[assignment]
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    asked = (("traceparent", f"00-{trace}-{parent}-01"),)
    with serving(runtime) as channel:
        call(channel, metadata=asked)
        for name, request in (("Fail", b"abort"), ("Fail", b"raise")):
            with pytest.raises(grpc.RpcError):
                call(channel, name, request, metadata=asked)
        call(channel)  # by Istio's default hardly one is sampled that nobody asked for
    spans = [one for one in exported.get_finished_spans() if one.parent is not None]
    found = [
        (one.name, (one.attributes or {})["rpc.response.status_code"], one.status.status_code.name) for one in spans
    ]
    assert found == [
        ("test.Echo/Call", "OK", "UNSET"),
        # An error of the caller's is none of the server's.
        ("test.Echo/Fail", "NOT_FOUND", "UNSET"),
        ("test.Echo/Fail", "UNKNOWN", "ERROR"),
    ]
    assert {(one.kind, f"{one.parent.span_id:016x}") for one in spans if one.parent} == {(SpanKind.SERVER, parent)}
    assert {(one.attributes or {})["rpc.method"] for one in spans} == {"test.Echo/Call", "test.Echo/Fail"}

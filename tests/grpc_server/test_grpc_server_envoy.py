"""A real Envoy sidecar calls a servicer of ``proxyless serve --grpc``: HTTP/2 over mutual TLS, both ends verified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_mesh import STRICT, EnvoyMesh, plain_server, spiffe, until

APPS = Path(__file__).parent / "apps"


LIMITED = """
apiVersion: v1
kind: Service
metadata: {name: greeter, annotations: {proxyless.io/rate-limit: 1/h}}
spec: {selector: {app: greeter}, ports: [{name: grpc, port: 80}]}
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[EnvoyMesh]:
    made = EnvoyMesh(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_an_envoy_calls_a_servicer(mesh: EnvoyMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(APPS))
    import greeter_pb2 as pb2

    mesh.start_control_plane(STRICT)
    own = ("--service", "greeter", "--service-account", "greeter")
    mesh.processes.start("greeter", "serve", "--grpc", "greeter:Greeter", *own, cwd=APPS)
    mesh.wait_serving("greeter")
    with plain_server("caller") as port:
        sidecar = mesh.sidecar("caller", "caller", port)
        # What a gRPC application beside the sidecar does: it calls the service's name by the outbound port.
        options = [("grpc.default_authority", "greeter")]
        with grpc.insecure_channel(sidecar.outbound.removeprefix("http://"), options) as channel:
            codec = (pb2.HelloRequest.SerializeToString, pb2.HelloReply.FromString)
            hello = channel.unary_unary("/test.Greeter/Hello", *codec)
            many = channel.unary_stream("/test.Greeter/Many", *codec)

            def answer() -> Any:
                try:
                    return hello(pb2.HelloRequest(name="envoy"), timeout=60)
                except grpc.RpcError:
                    return None  # Envoy hears of the service in a moment

            answered = until("an answer", answer, 60)
            assert answered.message == "hello envoy"
            assert answered.peer == spiffe("caller")
            assert len(list(many(pb2.HelloRequest(name="x"), timeout=60))) == 3
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/test.Greeter/Nothing")(b"", timeout=60)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
            mesh.apply(LIMITED)

            def refused() -> grpc.RpcError | None:
                try:
                    hello(pb2.HelloRequest(name="envoy"), timeout=60)
                except grpc.RpcError as error:
                    return error
                return None

            error = until("a refusal", refused)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            told = dict([*error.initial_metadata(), *error.trailing_metadata()])
            assert told["x-envoy-ratelimited"] == "true"
            assert told["x-proxyless-reason"] == "local_rate_limited: 1/h (Service default/greeter)"
        stats = sidecar.stats("cluster.*greeter.*upstream_cx_http2_total")
        assert sum(stats.values()) >= 1

"""``proxyless serve --grpc`` as a process in a mesh of processes; its callers use grpcio and nothing of the mesh."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from free_ports import free_port
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from local_mesh import LocalMesh, until
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest

import proxyless
from proxyless.model.errors import ConfigurationError
from proxyless.transport.grpc_server.servicers import load_servicer

RCA = "xds.service.orca.v3.OpenRcaService"
APPS = Path(__file__).parent / "apps"
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def pb2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(APPS))
    import greeter_pb2

    yield greeter_pb2


def serve(local: LocalMesh, name: str = "greeter", what: str = "greeter:Greeter") -> int:
    port = free_port()
    arguments = ("serve", "--grpc", what, "--service", "greeter", "--service-account", "greeter", "--port", str(port))
    local.processes.start(name, *arguments, cwd=APPS)
    return port


def certified(mesh: proxyless.Mesh, port: int) -> grpc.Channel:
    mesh.wait_ready(30)
    svid, bundle = mesh.runtime.identity.svid, mesh.runtime.identity.bundle
    assert svid is not None and bundle is not None
    credentials = grpc.ssl_channel_credentials(bundle.roots_pem, svid.key_pem, svid.chain_pem)
    name = f"greeter.default.sa.{bundle.trust_domain}"
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", name)])


def hello(channel: grpc.Channel, pb2: Any, name: str = "you") -> Any:
    method = channel.unary_unary("/test.Greeter/Hello", pb2.HelloRequest.SerializeToString, pb2.HelloReply.FromString)
    return method(pb2.HelloRequest(name=name), timeout=60, wait_for_ready=True)


def test_a_servicer_in_the_mesh(local: LocalMesh, pb2: Any, tmp_path: Path) -> None:
    local.start_control_plane()
    port = serve(local)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as plain, certified(local.mesh(), port) as channel:
        answer = hello(channel, pb2)
        assert answer.message == "hello you"
        assert answer.peer == "spiffe://cluster.local/ns/default/sa/default"
        assert hello(plain, pb2).peer == ""
        # Health, load reports and reflection, without a word of the servicer.
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "test.Greeter"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        assert {"test.Greeter", "grpc.health.v1.Health", RCA} <= set(
            ProtoReflectionDescriptorDatabase(channel).get_services()
        )
        reports = channel.unary_stream(
            f"/{RCA}/StreamCoreMetrics", OrcaLoadReportRequest.SerializeToString, OrcaLoadReport.FromString
        )(OrcaLoadReportRequest(), timeout=300)
        assert 0 < next(reports).mem_utilization < 1
        (tmp_path / "strict.yaml").write_text(STRICT)
        local.run("apply", "-f", str(tmp_path / "strict.yaml"), "--wait")

        def refused() -> str | None:
            try:
                hello(plain, pb2)
            except grpc.RpcError as error:
                return str(error.code().name)
            return None

        assert until("the open plaintext connection to be refused", refused) == "PERMISSION_DENIED"
        assert hello(channel, pb2).message == "hello you"
        # The drain: what is under way is answered, and the process ends well.
        go = tmp_path / "go"
        slow = channel.unary_unary(
            "/test.Greeter/Slow", pb2.HelloRequest.SerializeToString, pb2.HelloReply.FromString
        ).future(pb2.HelloRequest(name=str(go)), timeout=60)
        until("the slow call", lambda: Path(f"{go}.waiting").exists() or None)
        process = local.processes._running["greeter"]
        process.terminate()
        try:
            ask = health_pb2.HealthCheckRequest(service="test.Greeter")
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            until("the drain", lambda: health.Check(ask, timeout=60).status == not_serving or None)
        finally:
            go.touch()
        assert slow.result().message == "slow"
        assert list(reports) == []  # its end is no error
        assert process.wait(60) == 0


def test_functions_add_services_too(local: LocalMesh, pb2: Any) -> None:
    local.start_control_plane()
    port = serve(local, what="greeter:both")
    with certified(local.mesh(), port) as channel:
        assert hello(channel, pb2).message == "hello you"
        assert channel.unary_unary("/test.Raw/Echo")(b"raw", timeout=60) == b"raw"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("greeter", "write MODULE:SERVICER"),
        ("greeter:Nobody", "has no 'Nobody'"),
        ("greeter:Nothing", "is no servicer"),
        ("greeter:Needy", "cannot be made without arguments"),
        ("nowhere:Greeter", "there is no module 'nowhere'"),
    ],
)
def test_what_cannot_be_served_is_said(pb2: Any, monkeypatch: pytest.MonkeyPatch, name: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load_servicer(name)


def test_an_instance_is_a_servicer(pb2: Any) -> None:
    added: list[Any] = []

    class Server:
        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            added.extend(handlers)

        def add_registered_method_handlers(self, name: str, handlers: Any) -> None:
            pass

    load_servicer("greeter:instance")(Server())
    assert [handler.service_name() for handler in added] == ["test.Greeter"]
    assert "greeter" in sys.modules

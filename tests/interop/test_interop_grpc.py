"""gRPC's own xDS clients and servers in our mesh."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from grpc_mesh import GrpcMesh, spiffe, until
from in_process_control_plane import InProcessControlPlane
from running_control_plane import RunningControlPlane

from proxyless.control_plane.translate import load_balancing
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.generated import Notes, generated
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.type_urls import CLUSTER

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {selector: {app: hello}, ports: [{name: grpc, port: 50051, targetPort: grpc}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello}
spec:
  host: hello
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""
SPLIT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello}
spec:
  hosts: [hello]
  http:
  - route:
    - {destination: {host: hello, subset: v1}, weight: %d}
    - {destination: {host: hello, subset: v2}, weight: %d}
"""

EXPECTING = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello}
spec: {host: hello, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["%s"]}}}
"""
TIMEOUT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello}
spec:
  host: hello
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""
POISON = 66


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[GrpcMesh]:
    with RunningControlPlane(tmp_path / "state") as running:
        running.apply(SERVICE)
        yield GrpcMesh(running, tmp_path)


CLUSTER_V1 = "outbound|50051|v1|hello.default.svc.cluster.local"
TARGET = "hello:50051"


def refused(mesh: GrpcMesh) -> list[tuple[str, Any]]:
    clients = mesh.running.api("GET", "proxy-status")["clients"]
    return [(one["node"], each) for one in clients for each in one["types"] if each["state"] == "NACKED"]


def test_mutual_tls_between_grpc_programs(mesh: GrpcMesh) -> None:
    with mesh.server("v1", "hello", "v1") as server, mesh.client("client", TARGET) as client:
        answer = client.wait_for("an answer", lambda one: one.get("name") == "v1")
        assert spiffe("client") in answer["peer"]
        # STRICT: nobody without a certificate.
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as plain, pytest.raises(grpc.RpcError) as error:
            plain.unary_unary("/test.Echo/Call")(b"", timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE

        # And the client speaks to nobody but who it was told to expect.
        mesh.running.apply(EXPECTING % spiffe("somebody-else"))
        client.wait_for("the refusal", lambda one: one.get("error") == "UNAVAILABLE")
        refusals = len(client.said)
        mesh.running.apply(EXPECTING % spiffe("hello"))
        client.wait_for("an answer again", lambda one: one.get("name") == "v1", after=refusals)
        assert refused(mesh) == []


def test_weights_change_in_steps_and_no_call_fails(mesh: GrpcMesh) -> None:
    mesh.running.apply(SPLIT % (100, 0))
    with (
        mesh.server("v1", "hello", "v1"),
        mesh.server("v2", "hello", "v2"),
        mesh.client("client", TARGET) as client,
    ):
        client.wait_for("v1", lambda one: one.get("name") == "v1")
        started = len(client.said)
        client.calls(30)
        assert set(client.names[started:]) == {"v1"}
        for share in (90, 50, 10):
            mesh.running.apply(SPLIT % (share, 100 - share))
            client.wait_for(f"v2 at {share}", lambda one: one.get("name") == "v2", after=len(client.said))
        mesh.running.apply(SPLIT % (0, 100))
        until("the last of v1", lambda: client.calls(20) or set(client.names[-15:]) == {"v2"})
        assert set(client.names[started:]) == {"v1", "v2"}
        assert refused(mesh) == []


def test_servers_come_and_go_and_no_call_fails(mesh: GrpcMesh) -> None:
    with mesh.server("first", "hello") as first, mesh.client("client", TARGET) as client:
        client.wait_for("the first", lambda one: one.get("name") == "first")
        started = len(client.said)
        with mesh.server("second", "hello") as second:
            client.wait_for("the second", lambda one: one.get("name") == "second")
            assert first.end() == 0
            client.calls(30)
            assert set(client.names[-20:]) == {"second"}
            with mesh.server("third", "hello"):
                client.wait_for("the third", lambda one: one.get("name") == "third")
                assert second.end() == 0
                client.calls(30)
        assert set(client.names[started:]) >= {"first", "second", "third"}
        others = [name for name in client.names[started:] if name not in {"first", "second", "third"}]
        assert others == []


class Poisoner(Translator):
    """gRPC clients take no balancer like this one."""

    def resources(self, client: Client, type_url: str, names: Iterable[str]) -> Any:
        found = super().resources(client, type_url, names)
        if type_url == CLUSTER and client.kind is ClientKind.GRPC:
            for name, resource in found.items():
                message = cluster_pb2.Cluster()
                resource.any.Unpack(message)
                if message.connect_timeout.seconds == POISON:
                    message.lb_policy = cluster_pb2.Cluster.MAGLEV
                    found[name] = generated(message, Notes())
        return found


def test_a_refused_cluster_is_reported_and_the_old_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyless.control_plane.server.Translator", Poisoner)
    with InProcessControlPlane(tmp_path / "state") as running:
        running.apply(SERVICE)
        running.apply(SPLIT % (100, 0))
        mesh = GrpcMesh(running, tmp_path)
        with mesh.server("v1", "hello", "v1"), mesh.client("client", TARGET) as client:
            client.wait_for("an answer", lambda one: one.get("name") == "v1")
            started = len(client.said)
            assert refused(mesh) == []

            generation = running.apply(TIMEOUT % POISON)["generation"]
            until("the refusal", lambda: refused(mesh))
            ((node, status),) = refused(mesh)
            assert (node, status["type"]) == ("client", "clusters")
            assert set(status["refused"]) == {CLUSTER_V1}
            assert "LB policy" in status["error"]
            found = running.client("client")
            assert found is not None
            assert (found["kind"], found["identity"]) == ("grpc", spiffe("client"))
            rollout = running.api("GET", f"rollout?generation={generation}&timeout=1")
            assert [each["node"] for each in rollout["refused"]] == ["client"]
            client.calls(20)

            running.apply(TIMEOUT % 3)
            until("SYNCED", lambda: running.types("client")["clusters"]["state"] == "SYNCED")
            client.calls(20)
            assert set(client.names[started:]) == {"v1"}
            types = running.api("GET", "proxy-config/client")["types"]
            clusters = next(each for each in types if each["type"] == "clusters")
            assert clusters["accepted"][CLUSTER_V1]["connectTimeout"] == "3s"


BY_LOAD = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: hello
  annotations: {proxyless.io/load-balancing: client_side_weighted_round_robin}
spec: {host: hello}
"""


def test_balancing_by_the_load_that_servers_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ours, but for the seconds that the first reports wait.
    config = type(load_balancing.BY_LOAD_CONFIG)()
    config.blackout_period.FromMilliseconds(1)
    config.weight_update_period.FromMilliseconds(100)
    monkeypatch.setattr(load_balancing, "BY_LOAD_CONFIG", config)
    with InProcessControlPlane(tmp_path / "state") as running:
        running.apply(SERVICE)
        running.apply(BY_LOAD)
        mesh = GrpcMesh(running, tmp_path)
        with (
            mesh.server("idle", "hello", load=0.1),
            mesh.server("busy", "hello", load=0.9),
            mesh.client("client", TARGET) as client,
        ):
            # Of 60: 54 by load, 30 in turns.
            until("nine of ten", lambda: client.calls(60) or client.names[-60:].count("idle") >= 48)
            assert set(client.names) >= {"idle", "busy"}
            assert refused(mesh) == []
            types = running.api("GET", "proxy-config/client")["types"]
            accepted = next(each for each in types if each["type"] == "clusters")["accepted"]
            policy = accepted["outbound|50051||hello.default.svc.cluster.local"]["loadBalancingPolicy"]
            assert "client_side_weighted_round_robin" in str(policy)

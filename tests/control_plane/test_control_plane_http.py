"""The HTTP API, start, and what a start refuses."""

import asyncio
import base64
import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from running_control_plane import RunningControlPlane, until

from proxyless.control_plane.server import ControlPlane, Options
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE
from proxyless.model.errors import ProxylessError

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: details}
spec:
  ports: [{name: http, port: 80}]
"""


@pytest.mark.parametrize("token", ["", "wrong", "Bearer"])
@pytest.mark.parametrize("path", ["problems", "proxy-status", "resources/vs", "no-such-thing"])
def test_the_api_asks_for_the_admin_token(running: RunningControlPlane, path: str, token: str) -> None:
    status, text = running.http("GET", f"/api/v1/{path}", token=token)
    assert status == 401
    assert "admin-token" in json.loads(text)["error"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_are_open(running: RunningControlPlane, path: str) -> None:
    assert running.http("GET", path)[0] == 200


def test_metrics_count(running: RunningControlPlane) -> None:
    running.apply(SERVICE)
    text = running.http("GET", "/metrics")[1]
    for line in (
        "proxyless_config_resources ",
        'proxyless_registry_workloads{state="serving"} ',
        'pilot_total_xds_rejects{type="cds"} ',
    ):
        assert line in text


def test_secrets_are_private(running: RunningControlPlane) -> None:
    assert stat.S_IMODE(running.state_dir.stat().st_mode) == 0o700
    for name in ("admin-token", "control-plane.json", "ca/root-key.pem", "store.sqlite"):
        assert stat.S_IMODE((running.state_dir / name).stat().st_mode) == 0o600, name
    assert running.admin_token not in running.log
    assert not (running.state_dir / "dev-token").exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "apply?file=a.yaml", b"kind: [", 422, "nothing was applied"),
        ("POST", "apply", b"\xff\xfe", 400, "UTF-8"),
        ("POST", "apply?namespace=UP", b"", 400, "the namespace 'UP' must be a DNS-1123 label"),
        ("POST", "apply?namespace=", b"", 400, "the namespace '' must be a DNS-1123 label"),
        ("GET", "resources/carrots", None, 404, "virtualservices"),
        ("GET", "resources/vs/default/none", None, 404, "VirtualService default/none"),
        ("DELETE", "resources/vs/default/none", None, 404, "VirtualService default/none"),
        ("GET", "proxy-config/nobody", None, 404, "proxy-status"),
        ("GET", "rollout?timeout=soon", None, 400, "timeout"),
        ("GET", "translate", None, 400, "targets"),
        ("GET", "translate?targets=a:80&labels=x", None, 400, "KEY=VALUE"),
        ("POST", "tokens", b"no", 400, "JSON"),
        ("POST", "tokens", b"[]", 400, "namespace"),
        ("POST", "tokens", b'{"namespace": "a", "serviceAccount": "b", "ttl": -1}', 400, "ttl"),
        ("POST", "tokens", b'{"namespace": "a/b", "serviceAccount": "b"}', 400, "namespace"),
        ("PUT", "apply", b"", 405, "Method"),
        ("GET", "nothing", None, 404, "Not Found"),
    ],
)
def test_errors_are_json_and_say_what_to_do(
    running: RunningControlPlane, method: str, path: str, body: bytes | None, status: int, says: str
) -> None:
    found, text = running.http(method, f"/api/v1/{path}", body, running.admin_token)
    assert (found, says in json.loads(text)["error"]) == (status, True), text


def test_a_dry_run_changes_nothing(running: RunningControlPlane) -> None:
    text = SERVICE.replace("details", "dry")
    assert running.api("POST", "apply?dryRun=true", text.encode())["results"][0]["action"] == "created"
    assert running.http("GET", "/api/v1/resources/svc/default/dry", token=running.admin_token)[0] == 404


def test_translate_gives_what_a_client_would_get(running: RunningControlPlane) -> None:
    running.apply(SERVICE)
    query = f"namespace=default&serviceAccount=x&labels={quote('app=x,version=v1')}&targets=details:80"
    found = running.api("GET", f"translate?{query}")["resources"]
    names = {type_url: list(named) for type_url, named in found.items()}
    cluster = "outbound|80||details.default.svc.cluster.local"
    assert names[LISTENER] == ["details:80"]
    assert len(names[ROUTE]) == 1
    assert (names[CLUSTER], names[ENDPOINT]) == ([cluster], [cluster])
    packed = AnyMessage.FromString(base64.b64decode(found[CLUSTER][cluster]))
    assert packed.type_url == CLUSTER


MESH_CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "outboundTrafficPolicy: {mode: ALLOW_ANY}"}
"""


def test_a_watched_file_serves_and_its_fault_is_refused_alone(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "a.yaml").write_text(SERVICE)
    (config / "mesh.yaml").write_text(MESH_CONFIG)
    with RunningControlPlane(tmp_path / "state", "--config", str(config)) as running:
        (mesh,) = running.api("GET", "resources/configmaps")["items"]
        assert json.loads(mesh["document"]["data"]["mesh"]) == {"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}
        found = running.api("GET", "resources/services")["items"]
        assert [(item["document"]["metadata"]["name"], item["source"]) for item in found] == [
            ("details", f"{config / 'a.yaml'}:2")
        ]
        (config / "b.yaml").write_text(SERVICE.replace("details", "ratings").replace("port: 80", "port: 800000"))
        problem = until("the problem", lambda: running.api("GET", "problems")["problems"])[0]
        assert (problem["level"], problem["name"], problem["file"]) == ("Error", "ratings", str(config / "b.yaml"))
        assert problem["line"] == 6
        assert len(running.api("GET", "resources/services")["items"]) == 1
        status, text = running.http("DELETE", "/api/v1/resources/svc/default/details", token=running.admin_token)
        assert (status, "a.yaml" in text) == (409, True)
        assert "ratings" in until("its log line", lambda: running.log if "ratings" in running.log else None)


def test_one_control_plane_per_state_dir(running: RunningControlPlane) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxyless", "control-plane", "--state-dir", str(running.state_dir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert f"process {running.at['pid']}" in done.stderr
    assert "--state-dir" in done.stderr
    assert (running.state_dir / "control-plane.json").exists()


def refusal(options: Options) -> str:
    """Why a start does not succeed. What it opened must be closed again: it can be tried twice."""

    async def attempt() -> None:
        control_plane = ControlPlane(options)
        try:
            await control_plane.start()
        finally:
            await control_plane.stop()

    texts = []
    for _ in range(2):
        with pytest.raises(ProxylessError) as refused:
            asyncio.run(attempt())
        texts.append(str(refused.value))
    assert texts[0] == texts[1]
    return texts[0]


LOCAL = ("127.0.0.1", 0)
EVERYWHERE = ("0.0.0.0", 0)


def options(state_dir: Path, **changes: Any) -> Options:
    return Options(state_dir, **{"xds_address": LOCAL, "xds_tls_address": LOCAL, "http_address": LOCAL, **changes})


@pytest.mark.parametrize("option", ["xds_address", "xds_tls_address", "http_address"])
def test_a_port_in_use_is_named(tmp_path: Path, option: str) -> None:
    with socket.create_server(LOCAL) as taken:
        port = taken.getsockname()[1]
        said = refusal(options(tmp_path, **{option: ("127.0.0.1", port)}))
    assert str(port) in said
    assert "in use" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"xds_address": EVERYWHERE}, "loopback"),
        ({"dev": True, "xds_tls_address": EVERYWHERE}, "--dev"),
        ({"dev": True, "http_address": EVERYWHERE}, "--dev"),
        ({"store_url": "carrots:"}, "memory:"),
        ({"config_paths": (Path("/no/such/path"),)}, "/no/such/path"),
        ({"root_cert": Path("/no/such/cert")}, "key"),
        ({"trust_domain": "NO!"}, "trust domain"),
    ],
)
def test_a_start_that_cannot_be_right_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert says in refusal(options(tmp_path, **changes))
    assert not (tmp_path / "control-plane.json").exists()

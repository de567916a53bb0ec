"""``proxyless bootstrap``: unmodified ``xds:///`` programs in the mesh, with certificates in files that stay fresh."""

import json
import stat
import sys
from pathlib import Path

import pytest
from free_ports import free_port
from local_mesh import LocalMesh, until

import proxyless
from proxyless.cli.demo.processes import DemoError
from proxyless.model.errors import ConfigurationError

APPS = Path(__file__).parent / "apps"
FILES = ("cert-chain.pem", "key.pem", "root-cert.pem")


def test_unmodified_programs_join_the_mesh(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    port = free_port()
    us = ("--service", "echo", "--certificates", str(tmp_path / "server"), "--port", str(port))
    program = (sys.executable, str(APPS / "xds_server.py"), str(port))
    local.processes.start("server", "bootstrap", *us, "--", *program)

    def answer() -> str | None:
        client = ("--service", "caller", "--certificates", str(tmp_path / "client"), "--service-account", "caller")
        try:
            return local.run("bootstrap", *client, "--", sys.executable, str(APPS / "xds_client.py"), "echo:80")
        except DemoError:
            return None

    said = until("an answer", answer, 90)
    assert "spiffe://cluster.local/ns/default/sa/caller" in said
    # SIGTERM goes on to the program once its callers have heard; its status is ours.
    process = local.processes._running["server"]
    process.terminate()
    assert process.wait(60) == 7
    del local.processes._running["server"]


def test_the_bootstrap_is_printed_and_its_key_is_private(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    folder = tmp_path / "identity"
    said = json.loads(local.run("bootstrap", "--service", "shop", "--label", "a=b", "--certificates", str(folder)))
    server = said["xds_servers"][0]
    assert server["server_uri"] == local.addresses["xds_tls"]
    assert server["channel_creds"][0]["type"] == "tls"
    assert said["node"]["metadata"]["SERVICE"] == "shop"
    assert said["node"]["metadata"]["LABELS"] == {"a": "b", "app": "shop", "security.istio.io/tlsMode": "istio"}
    provider = said["certificate_providers"]["default"]
    assert provider["plugin_name"] == "file_watcher"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in FILES:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    # A mesh of ours takes the same file.
    proxyless.Mesh(bootstrap=said, state_dir=local.state_dir).close()


def test_the_files_follow_each_renewal(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    mesh = local.mesh()
    mesh.grpc_bootstrap(tmp_path / "identity")
    before = [(tmp_path / "identity" / name).read_bytes() for name in FILES[:2]]
    agent = mesh.runtime.agent
    agent.call_later(0, agent._rotation.renew)
    until(
        "new files",
        lambda: (
            True
            if all((tmp_path / "identity" / name).read_bytes() != old for name, old in zip(FILES, before, strict=False))
            else None
        ),
    )


def test_a_directory_that_cannot_be_used(local: LocalMesh, tmp_path: Path) -> None:
    local.start_control_plane()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot hold the certificate"):
        local.mesh().grpc_bootstrap(tmp_path / "file" / "below")

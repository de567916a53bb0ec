"""Importing the package costs nothing, and the data plane never loads grpcio: it would not survive a fork."""

import subprocess
import sys


def loaded_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_imports() -> None:
    for statement in ("import proxyless.xds_client", "import proxyless.settings"):
        assert not {"google.protobuf", "grpclib", "grpc", "re2", "envoy"} & loaded_after(statement)


def test_the_client_does_without_grpcio() -> None:
    assert "grpc" not in loaded_after("import proxyless.xds_client.client, proxyless.xds_client.node")


def test_a_mesh_without_grpc_channels_does_without_grpcio() -> None:
    using = "import proxyless; mesh = proxyless.Mesh(); mesh.transport(); mesh.async_transport()"
    assert "grpc" not in loaded_after(using)


def test_what_is_missing_is_said() -> None:
    script = """
import sys
sys.modules["grpc"] = None
import proxyless
try:
    proxyless.Mesh().grpc_channel("ratings:50051")
except proxyless.ProxylessError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'proxyless[grpc]'" in done.stdout

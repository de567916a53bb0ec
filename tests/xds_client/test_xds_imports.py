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

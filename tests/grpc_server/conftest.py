import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The neighbour whose helpers these tests use.
sys.path.append(str(Path(__file__).parent.parent / "grpc_client"))

from grpc_support import GrpcTestRuntime
from inbound_support import SERVER, Authority
from local_mesh import LocalMesh


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def runtime(authority: Authority) -> GrpcTestRuntime:
    return GrpcTestRuntime(authority.source(SERVER))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMesh]:
    made = LocalMesh(tmp_path)
    try:
        yield made
    finally:
        made.close()

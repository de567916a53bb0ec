"""Who sends the rows; everything that is started is ended with the module, also when a start fails."""

from collections.abc import Iterator

import pytest
from conformance_table import CASES
from table_backends import grpc_backends, http_backends
from table_mesh import Mesh
from table_runners import Offline


@pytest.fixture(scope="session")
def offline() -> Offline:
    return Offline(CASES)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    # A short name: there are sockets in it.
    with http_backends() as http, grpc_backends() as grpc:
        made = Mesh(tmp_path_factory.mktemp("c"), http, grpc)
        try:
            yield made
        finally:
            made.close()

"""The mesh that a test gets; everything it starts is ended with the test, also when it fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_mesh import LocalMesh


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMesh]:
    made = LocalMesh(tmp_path)
    try:
        yield made
    finally:
        made.close()

"""The neighbours whose helpers these tests use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for neighbour in ("control_plane", "envoy", "translate"):
    sys.path.append(str(Path(__file__).parent.parent / neighbour))

from authorization_mesh import Guarded, guarded_mesh  # noqa: E402


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    # A short name: there are sockets in it.
    with guarded_mesh(tmp_path_factory.mktemp("z")) as made:
        yield made

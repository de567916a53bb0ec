"""One control plane for all tests of a module that leave it as they found it."""

from collections.abc import Iterator

import pytest
from running_control_plane import RunningControlPlane


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningControlPlane]:
    with RunningControlPlane(tmp_path_factory.mktemp("control-plane") / "state", "--verbose") as made:
        yield made

"""Servers and a certificate authority; each is ended with its test, also when it fails."""

from collections.abc import Callable, Iterator

import pytest
from grpc_client_support import APIS, Authority, Backend


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend() -> Iterator[Callable[..., Backend]]:
    made: list[Backend] = []

    def start(*arguments: object) -> Backend:
        made.append(Backend(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.gone.set()
    for one in made:
        one.stop().wait(30)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))

import pytest
from inbound_support import SERVER, Authority, TestRuntime


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def runtime(authority: Authority) -> TestRuntime:
    return TestRuntime(authority.source(SERVER))

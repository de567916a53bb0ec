"""What waits for the control plane, and for how long."""

from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from proxyless.model.errors import NotReadyError
from proxyless.runtime import Runtime
from proxyless.settings import Settings


@pytest.fixture
def away(tmp_path: Path) -> Runtime:
    """A runtime whose control plane does not exist."""
    return Runtime(Settings(control_plane="127.0.0.1:1", state_dir=tmp_path))


def test_a_question_has_an_end(away: Runtime) -> None:
    try:
        given_up, asked = away.resolve("a:80", within=0.2), away.resolve("b:80", within=0.2)
        assert given_up.cancel()
        with pytest.raises(NotReadyError, match="no answer about b:80 from the control plane"):
            asked.result(20)
        with pytest.raises(CancelledError):
            given_up.result(20)
        assert not away._waiting
    finally:
        away.close()


def test_closing_answers_whoever_waits(away: Runtime) -> None:
    asked = away.resolve("a:80")
    away.close()
    with pytest.raises(NotReadyError, match="closed"):
        asked.result(20)
    with pytest.raises(NotReadyError, match="closed"):
        away.resolve("b:80")

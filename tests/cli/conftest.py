"""A control plane for the commands, and a way to run one and see what it printed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hello_service import HELLO, Serving, proxyless

from proxyless.cli.main import main

sys.path.append(str(Path(__file__).parent.parent / "control_plane"))

from running_control_plane import RunningControlPlane


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningControlPlane]:
    with RunningControlPlane(tmp_path_factory.mktemp("cli") / "state", "--dev") as made:
        yield made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``proxyless ARGUMENTS`` in this process."""

    def command(*arguments: str) -> Result:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return command


@pytest.fixture
def cli(run: Run, control_plane: RunningControlPlane, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, with a control plane running."""
    monkeypatch.setenv("PROXYLESS_STATE_DIR", str(control_plane.state_dir))
    return run


@pytest.fixture(scope="module")
def serving(control_plane: RunningControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("hello")
    (folder / "hello.py").write_text(HELLO)
    environment = {**os.environ, "PROXYLESS_STATE_DIR": str(control_plane.state_dir)}
    process = subprocess.Popen(
        proxyless("serve", "hello:app", "--service", "hello", "--host", "localhost"),
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("serving hello on port ")
        yield Serving(process, environment)
    finally:
        process.kill()
        process.communicate()

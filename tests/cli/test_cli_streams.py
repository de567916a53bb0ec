"""Commands whose streams are full, closed or of another encoding: a line, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running_control_plane import RunningControlPlane

PROXYLESS = f"{sys.executable} -m proxyless"
NAMED = "apiVersion: v1\nkind: Service\nmetadata: {name: Übel}\nspec: {ports: [{port: 80}]}\n"


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "named.yaml").write_text(NAMED, encoding="utf-8")
    return subprocess.run(
        ["bash", "-c", command.replace("proxyless ", PROXYLESS + " ", 1)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("proxyless analyze named.yaml >/dev/full", 1, b"cannot be written: No space left on device\n"),
        ("proxyless analyze named.yaml >&-", 1, b""),
        ("proxyless analyze $'\\xff.yaml'", 2, b"the argument '\\udcff.yaml' is not text"),
        ("proxyless explain GET $'http://hello/\\xff'", 2, b"is not text"),
    ],
)  # fmt: skip
def test_streams_and_arguments(tmp_path: Path, command: str, status: int, says: bytes) -> None:
    result = shell(tmp_path, command, PYTHONUTF8="1")
    assert says in result.stderr
    assert b"Traceback" not in result.stderr
    assert result.returncode == status


def test_a_locale_without_the_character(tmp_path: Path) -> None:
    result = shell(tmp_path, "proxyless analyze named.yaml", PYTHONIOENCODING="ascii")
    assert b"Traceback" not in result.stderr
    assert b"named.yaml:3" in result.stdout + result.stderr
    assert result.returncode == 1


def test_a_closed_input_has_nothing_to_apply(tmp_path: Path, control_plane: RunningControlPlane) -> None:
    result = shell(tmp_path, "proxyless apply -f - <&-", PROXYLESS_STATE_DIR=str(control_plane.state_dir))
    empty = shell(tmp_path, "proxyless apply -f - </dev/null", PROXYLESS_STATE_DIR=str(control_plane.state_dir))
    assert (result.returncode, result.stdout, result.stderr) == (empty.returncode, empty.stdout, empty.stderr)
    assert b"Traceback" not in result.stderr
